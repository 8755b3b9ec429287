"""How pictures are prepared for a file of one's own: the recipe says it, or the directory, or salt asks; no guess."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path

import pytest
import timm
import torch
from image_oracles import random_state
from pydantic import ValidationError
from safetensors.torch import save_file
from salt_vit import build_timm_image
from salt_vit.image_catalog import all_models
from salt_vit.image_config import DinoConfig, TimmImageConfig
from timm.models import get_arch_pretrained_cfgs

from salt_toolkit import CheckpointError, ClipSpec
from salt_toolkit.context import video_inputs

CLIP = ClipSpec(frames=2, stride=1, size=112)
PIXELS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
OPENAI = "vit_base_patch16_clip_224"


def asked(config=TimmImageConfig, **settings):
    """What salt asks instead of guessing."""
    with pytest.raises(ValidationError) as caught:
        config(**settings)
    (error,) = caught.value.errors()
    assert "\n" not in error["msg"]
    return error["msg"]


def directory(folder, settings, changes=None):
    """A directory with a config.json; of the weights, only what tells the model apart is right."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    shapes = {"patch_embed.proj.weight": (768, 3, 16, 16), "cls_token": (1, 1, 768), "pos_embed": (1, 197, 768)}
    state = {key: torch.zeros(shape) for key, shape in (shapes | (changes or {})).items()}
    blocks = {f"blocks.{number}.norm1.bias": torch.zeros(768) for number in range(12)}
    save_file(state | blocks, folder / "model.safetensors")
    return folder


def said_of(path, model="vit_base_patch16_clip_224.laion2b"):
    """What is said of files that are wrong, by `salt check` and when they are loaded."""
    config = TimmImageConfig(model=model, checkpoint=str(path))
    assert list(config.missing()) == []
    messages = set()
    for question in (
        config.token_spec,
        lambda clip: config.identity(video_inputs(clip)),
        lambda clip: build_timm_image(config, clip=clip),
    ):
        with pytest.raises(CheckpointError) as caught:
            question(CLIP)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    return message


# What is asked.


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ".pt"])
def test_a_file_without_a_tag_is_asked_for_its_pixels(suffix):
    message = asked(model="vit_base_patch16_224", checkpoint=f"mae_pretrain_vit_base{suffix}")
    assert f'model = "vit_base_patch16_224" leaves open which mean and std mae_pretrain_vit_base{suffix}' in message
    assert 'add the tag that fits, as model = "vit_base_patch16_224.TAG", also for a file that you trained' in message
    assert "mean 0.485 0.456 0.406 and std 0.229 0.224 0.225: dino, mae)" in message
    assert "mean 0.5 and std 0.5: augreg2_in21k_ft_in1k, augreg_in21k_ft_in1k, orig_in21k_ft_in1k" in message
    assert "mean 0.481 0.458 0.408 and std 0.269 0.261 0.276: bamboo;" in message
    mae = TimmImageConfig(model="vit_base_patch16_224.mae", checkpoint=f"mae_pretrain_vit_base{suffix}")
    assert mae.encoder_spec(CLIP).mean == (0.485, 0.456, 0.406)


def test_a_file_without_a_tag_is_asked_for_its_activation():
    message = asked(model=OPENAI, checkpoint="ViT-B-16.pt")
    assert "leaves open which activation ViT-B-16.pt was trained with" in message
    assert "GELU: laion2b_ft_in12k_in1k, " in message
    quick = "vit_base_patch16_clip_quickgelu_224"
    assert f'QuickGELU, which takes model = "{quick}": metaclip_2pt5b, metaclip_400m, openai)' in message
    for model in (f"{OPENAI}.laion2b", quick):
        assert TimmImageConfig(model=model, checkpoint="ViT-B-16.pt").model == model
    both = asked(model="vit_large_patch14_clip_224", checkpoint="open_clip.pt")
    assert "leaves open which mean and std and activation open_clip.pt" in both
    assert "mean 0.5 and std 0.5, GELU: laion2b_ft_in12k_in1k, " in both


def test_dino_is_asked_only_where_dinos_own_weights_differ():
    message = asked(DinoConfig, model="vit_large_patch16_dinov3", checkpoint="dinov3_vitl16.pth")
    assert "0.225: lvd1689m; mean 0.43 0.411 0.296 and std 0.213 0.156 0.143: sat493m)" in message
    assert DinoConfig(model="vit_base_patch16_224", checkpoint="dino.pth").encoder_spec(CLIP).mean[0] == 0.485
    assert "leaves open" in asked(model="vit_base_patch16_224", checkpoint="dino.pth")


def test_whatever_timm_publishes_with_differences_is_asked_for_and_nothing_else():
    """timm's own tables are the oracle."""
    for name in all_models():
        cfgs = [cfg for cfg in get_arch_pretrained_cfgs(name).values() if cfg.hf_hub_id]
        quick = any("natively QuickGELU" in note for note in chain(*(cfg.notes or () for cfg in cfgs)))
        differ = len({(cfg.mean, cfg.std) for cfg in cfgs}) > 1 or (quick and "quickgelu" not in name)
        if differ:
            assert f'model = "{name}" leaves open' in asked(model=name, checkpoint="x.pth")
        else:
            spec = TimmImageConfig(model=name, checkpoint="x.pth", size=16 * 14 * 3).encoder_spec(CLIP)
            cfg = cfgs[0] if cfgs else timm.get_pretrained_cfg(name)
            assert (name, spec.mean, spec.std) == (name, tuple(cfg.mean), tuple(cfg.std))


# What a directory says.


def test_a_directory_is_asked_only_for_what_it_leaves_open(tmp_path):
    where = {"model": "vit_base_patch16_224", "checkpoint": str(directory(tmp_path, {"architecture": "x"}))}
    assert "leaves open which mean and std" in asked(**where)
    for settings in (PIXELS, {"pretrained_cfg": PIXELS}):
        directory(tmp_path, settings)
        spec = TimmImageConfig(**where).encoder_spec(CLIP)
        assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({"pretrained_cfg": PIXELS}, True),
        ({"architecture": OPENAI, "pretrained_cfg": {**PIXELS, "tag": "laion2b"}}, False),
        ({"architecture": OPENAI, "pretrained_cfg": {**PIXELS, "tag": "openai"}}, True),
        ({"architecture": OPENAI, "pretrained_cfg": {**PIXELS, "tag": "mine"}}, True),
        ({"architecture": OPENAI, "pretrained_cfg": {**PIXELS, "tag": ["laion2b"]}}, True),
        ({"architecture": "vit_base_patch16_clip_quickgelu_224", "pretrained_cfg": {**PIXELS, "tag": "laion2b"}}, True),
    ],
)
def test_a_directory_that_names_its_tag_says_its_activation(tmp_path, settings, is_open):
    where = {"model": OPENAI, "checkpoint": str(directory(tmp_path, settings))}
    if is_open:
        assert f"leaves open which activation {tmp_path} was" in asked(**where)
        where["model"] += ".laion2b"
    assert TimmImageConfig(**where).encoder_spec(CLIP).mean == (0.1, 0.2, 0.3)


def test_a_path_that_is_not_here_may_be_a_directory_that_says_all(tmp_path):
    config = TimmImageConfig(model="vit_base_patch16_224", checkpoint=str(tmp_path / "finetuned"))
    assert "does not exist" in config.missing()[0].what


@pytest.mark.parametrize("name", ["~nobody-of-that-name/vit", "x" * 300])
def test_a_path_that_cannot_be_is_missing(name):
    assert "does not exist" in TimmImageConfig(model="test_vit", checkpoint=name).missing()[0].what


def test_a_folder_that_cannot_be_entered_is_one_sentence(tmp_path, monkeypatch):
    def closed(path, *_, **__):
        raise PermissionError(13, os.strerror(13), str(path))

    config = TimmImageConfig(model="test_vit", checkpoint=str(tmp_path / "closed" / "vit.pth"))
    monkeypatch.setattr(Path, "stat", closed)
    assert list(config.missing()) == []
    with pytest.raises(CheckpointError, match=r"cannot be read .* change its permissions"):
        config.token_spec(CLIP)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrained_cfg": None}, "pretrained_cfg = null, and a table with mean and std belongs there"),
        ({"pretrained_cfg": [1]}, "pretrained_cfg = [1], and a table"),
        ({**PIXELS, "mean": 5}, "mean = 5, and 3 numbers from 0 to 1 belong there"),
        ({**PIXELS, "mean": "0.5"}, 'mean = "0.5", and 3 numbers'),
        ({**PIXELS, "mean": ["0.5", "0.5", "0.5"]}, 'mean = ["0.5", "0.5", "0.5"], and 3 numbers'),
        ({**PIXELS, "mean": [0.5]}, "mean = [0.5], and 3 numbers"),
        ({**PIXELS, "mean": [0.5, 0.5, 0.5, 0.5]}, "mean = [0.5, 0.5, 0.5, 0.5], and 3 numbers"),
        ({**PIXELS, "mean": [True, False, 0.5]}, "mean = [true, false, 0.5], and 3 numbers"),
        ({**PIXELS, "mean": [0.5, float("nan"), 0.5]}, "mean = [0.5, NaN, 0.5], and 3 numbers"),
        ({**PIXELS, "mean": [123.675, 116.28, 103.53]}, "mean = [123.675, 116.28, 103.53], and 3 numbers from 0 to 1"),
        ({**PIXELS, "mean": list(range(99))}, "mean = [0, 1, 2"),
        ({**PIXELS, "mean": {}}, "mean = {}, and 3 numbers"),
        ({"std": PIXELS["std"]}, "mean = null, and 3 numbers"),
        ({"mean": PIXELS["mean"]}, "std = null, and 3 numbers above 0 and up to 1 belong there"),
        ({**PIXELS, "std": [0.5, 0, 0.5]}, "std = [0.5, 0, 0.5], and 3 numbers above 0"),
        ({**PIXELS, "std": [58.395, 57.12, 57.375]}, "std = [58.395, 57.12, 57.375], and 3 numbers above 0"),
    ],
)
def test_a_mean_or_deviation_that_cannot_be_is_one_sentence(tmp_path, settings, message):
    for nested in (settings, {"pretrained_cfg": settings}) if "pretrained_cfg" not in settings else (settings,):
        said = said_of(directory(tmp_path, nested))
        assert said.startswith(f"{tmp_path / 'config.json'} says {message}")
        assert len(said.replace(str(tmp_path), "x")) < 250


def test_whole_numbers_are_the_same_mean_as_broken_ones(tmp_path):
    identities = []
    for mean, std in (([0, 0, 0], [1, 1, 1]), ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])):
        directory(tmp_path, {"mean": mean, "std": std})
        identities.append(
            json.dumps(
                TimmImageConfig(model=f"{OPENAI}.laion2b", checkpoint=str(tmp_path)).identity(video_inputs(CLIP))
            )
        )
    assert identities[0] == identities[1]


# Shapes that cannot be.


@pytest.mark.parametrize("key", ["pos_embed", "reg_token", "register_tokens", "storage_tokens"])
@pytest.mark.parametrize("shape", [(197,), (197, 768), (1, 14, 14, 768), ()])
def test_tokens_of_other_axes_are_one_sentence(tmp_path, key, shape):
    said = said_of(directory(tmp_path, PIXELS, changes={key: shape}))
    assert said.startswith(f"{tmp_path} holds {key} of shape {shape}, and tokens of an image model have three axes")


def test_numbers_that_are_not_finite_are_refused_on_loading(tmp_path):
    state, file = random_state("test_vit"), tmp_path / "spoiled.safetensors"
    state["blocks.1.attn.proj.bias"][5] = float("nan")
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"numbers that are not finite, in blocks\.1\.attn\.proj\.bias"):
        build_timm_image(TimmImageConfig(model="test_vit", checkpoint=str(file)), clip=CLIP)

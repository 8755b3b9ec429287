"""VideoMAE against its own equations, from files in every layout that people have."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from salt_videomae import build_videomae
from salt_videomae.config import HUB_IDS, VideoMAEConfig
from torch.nn import functional
from transformers import VideoMAEConfig as Architecture
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification

from salt_toolkit import ClipSpec, GeometryError, MissingArtifact, SaltError
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=4, stride=1, size=32)
DIM, DEPTH, HEADS = 24, 2, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_checkpoint(folder, kind, old_keys=False):
    """A tiny checkpoint as transformers writes it, or with the keys of the published files."""
    architecture = Architecture(
        image_size=32,
        num_frames=4,
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=2 * DIM,
        decoder_hidden_size=12,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=24,
        use_mean_pooling=kind is VideoMAEForVideoClassification,
    )
    torch.manual_seed(0)
    model = kind(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if old_keys:
        file = folder / "model.safetensors"
        renamed = {
            name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
            for name, value in load_file(file).items()
            if not name.endswith("key.bias")
        }
        save_file(renamed, file, metadata={"format": "pt"})
    return folder


def reference(folder, batch, post_norm, mean=MEAN):
    """VideoMAE's encoder in float64, from its paper's and authors' equations; reads the stored file."""
    stored = {
        name.removeprefix("videomae."): value.double()
        for name, value in load_file(folder / "model.safetensors").items()
    }

    def bias(layer, name):
        old = f"{layer}.attention.attention.{name[0]}_bias"
        return stored[old] if old in stored else stored[f"{layer}.attention.attention.{name}.bias"]

    pixels = batch.clip.double() / 255
    pixels = (pixels - torch.tensor(mean).double().view(3, 1, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1, 1)
    prefix = "embeddings.patch_embeddings.projection"
    tokens = functional.conv3d(pixels, stored[f"{prefix}.weight"], stored[f"{prefix}.bias"], stride=(2, 16, 16))
    tokens = tokens.flatten(2).transpose(1, 2)
    index = torch.arange(DIM)
    angles = torch.arange(tokens.shape[1]).unsqueeze(1).double() / 10000 ** (2 * (index // 2).double() / DIM)
    tokens = tokens + torch.where(index % 2 == 0, angles.sin(), angles.cos())
    for number in range(DEPTH):
        layer = f"encoder.layer.{number}"
        norm = functional.layer_norm(
            tokens, (DIM,), stored[f"{layer}.layernorm_before.weight"], stored[f"{layer}.layernorm_before.bias"], 1e-12
        )
        weights = [stored[f"{layer}.attention.attention.{name}.weight"] for name in ("query", "key", "value")]
        query, key, value = (
            (norm @ weight.T + offset).reshape(*norm.shape[:2], HEADS, -1).transpose(1, 2)
            for weight, offset in zip(weights, (bias(layer, "query"), 0.0, bias(layer, "value")), strict=True)
        )
        attention = (query @ key.transpose(2, 3) / math.sqrt(DIM // HEADS)).softmax(-1) @ value
        attention = attention.transpose(1, 2).flatten(2)
        output = f"{layer}.attention.output.dense"
        tokens = tokens + attention @ stored[f"{output}.weight"].T + stored[f"{output}.bias"]
        norm = functional.layer_norm(
            tokens, (DIM,), stored[f"{layer}.layernorm_after.weight"], stored[f"{layer}.layernorm_after.bias"], 1e-12
        )
        hidden = functional.gelu(
            norm @ stored[f"{layer}.intermediate.dense.weight"].T + stored[f"{layer}.intermediate.dense.bias"]
        )
        tokens = tokens + hidden @ stored[f"{layer}.output.dense.weight"].T + stored[f"{layer}.output.dense.bias"]
    if post_norm:
        tokens = functional.layer_norm(tokens, (DIM,), stored["layernorm.weight"], stored["layernorm.bias"], 1e-12)
    return tokens


def relative_error(found, expected):
    return ((found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@pytest.mark.parametrize("old_keys", [False, True])
@pytest.mark.parametrize("kind", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_latents_equal_the_equations(tmp_path, kind, old_keys):
    folder = write_checkpoint(tmp_path, kind, old_keys)
    pretrained = kind is VideoMAEForPreTraining
    batch = random_batch(CLIP)
    teacher = build_videomae(VideoMAEConfig(checkpoint=str(folder), norm="none"), clip=CLIP)
    expected = reference(folder, batch, post_norm=pretrained)
    assert relative_error(teacher(batch), expected) < 1e-5
    # The oracle itself must notice wrong pixels' normalisation.
    assert relative_error(teacher(batch), reference(folder, batch, pretrained, mean=(0.5, 0.5, 0.5))) > 1e-3
    normed = build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)(batch)
    assert relative_error(normed, functional.layer_norm(expected, (DIM,), eps=1e-6)) < 1e-5


def test_the_configs_arithmetic_is_the_models(tmp_path):
    for kind in (VideoMAEForPreTraining, VideoMAEForVideoClassification):
        folder = write_checkpoint(tmp_path / kind.__name__, kind)
        config = VideoMAEConfig(checkpoint=str(folder))
        teacher = build_videomae(config, clip=CLIP)
        assert config.token_spec(CLIP) == teacher.token_spec
        assert teacher(random_batch(CLIP)).shape == (2, teacher.token_spec.grid.num_tokens, DIM)
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        spare = sum(p.numel() for name, p in teacher.encoder.named_parameters() if name.endswith("key.bias"))
        assert config.cost(CLIP).parameters == sum(p.numel() for p in teacher.encoder.parameters()) - spare


@pytest.mark.parametrize("key", ["q_bias", "v_bias", "intermediate.dense.weight", "projection.bias"])
def test_a_weight_that_is_not_in_the_file_is_an_error(tmp_path, key):
    folder = write_checkpoint(tmp_path, VideoMAEForPreTraining, old_keys=True)
    file = folder / "model.safetensors"
    stored = load_file(file)
    name = next(name for name in stored if name.startswith("videomae.") and name.endswith(key))
    del stored[name]
    save_file(stored, file, metadata={"format": "pt"})
    with pytest.raises(SaltError, match="is not a whole VideoMAE encoder: it lacks 1 weights"):
        build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)


def test_a_weight_that_nobody_knows_is_an_error(tmp_path):
    folder = write_checkpoint(tmp_path, VideoMAEForPreTraining, old_keys=True)
    file = folder / "model.safetensors"
    stored = load_file(file)
    save_file({**stored, "videomae.encoder.layer.0.gamma_1": torch.ones(DIM)}, file, metadata={"format": "pt"})
    with pytest.raises(SaltError, match=r"it has unknown 1 weights .*gamma_1"):
        build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)


def test_files_that_are_no_checkpoints_are_one_sentence(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MissingArtifact, match=r"has no config\.json"):
        VideoMAEConfig(checkpoint=str(empty)).token_spec(CLIP)
    (empty / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(GeometryError, match="a model of type 'vit', not a 'videomae'"):
        VideoMAEConfig(checkpoint=str(empty)).token_spec(CLIP)
    (empty / "config.json").write_text("{")
    with pytest.raises(GeometryError, match="cannot be read"):
        VideoMAEConfig(checkpoint=str(empty)).token_spec(CLIP)
    folder = write_checkpoint(tmp_path / "short", VideoMAEForPreTraining)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1000])
    with pytest.raises(SaltError, match="cannot be loaded"):
        build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)
    with pytest.raises(GeometryError, match="takes clips of 4 frames of 32 pixels"):
        VideoMAEConfig(checkpoint=str(folder)).token_spec(ClipSpec())


def test_the_huge_that_does_not_exist_names_those_that_do():
    config = VideoMAEConfig(checkpoint="MCG-NJU/videomae-huge")
    (missing,) = config.missing()
    assert "MCG-NJU/videomae-huge is not on this machine" in missing.what
    assert "MCG-NJU/videomae-huge-finetuned-kinetics" in missing.fix
    with pytest.raises(MissingArtifact):
        build_videomae(config, clip=ClipSpec())


def test_published_ids_are_known_by_heart():
    for name, dim in (("base", 768), ("large", 1024), ("huge-finetuned-kinetics", 1280), ("small-finetuned-ssv2", 384)):
        config = VideoMAEConfig(checkpoint=f"MCG-NJU/videomae-{name}")
        assert config.token_spec(ClipSpec()).dim == dim
    assert len(HUB_IDS) == 13
    assert VideoMAEConfig(checkpoint=HUB_IDS[0]).cost(ClipSpec()).forward_flops / 1e9 == pytest.approx(360.7, abs=0.05)
    with pytest.raises(ValidationError):
        VideoMAEConfig(checkpoint="x", norm="batch")

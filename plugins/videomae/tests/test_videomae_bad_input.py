"""Wrong files: one clear sentence each, found by what `salt check` asks, before a weight is read."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from videomae_files import (
    SHORT,
    TINY,
    Shape,
    classifier,
    encoder_shapes,
    encoder_weights,
    pretraining,
    save_pth,
    save_transformers,
    save_videomae2,
    sized_tensors,
    transformers_keys,
)

from salt_toolkit import CheckpointError, ClipSpec, MissingArtifact
from salt_toolkit.context import video_inputs
from salt_toolkit.weights.headers import tensor_shapes

CLIP = ClipSpec()
BOTH = pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
GIANT = Shape(1408, 40, 16, 6144, 14, own_norm="fc_norm")


def said_of(config, monkeypatch):
    """What `salt check` says of a wrong file; nothing is missing, and nobody reads weights."""

    def unwanted(*_, **__):
        raise AssertionError("a weight was read")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", unwanted)
        patch.setattr("salt_toolkit.weights.loading.load_file", unwanted)
        assert list(config.missing()) == []
        with pytest.raises(CheckpointError) as caught:
            config.token_spec(CLIP)
        message = str(caught.value)
        for question in (
            config.encoder_spec,
            lambda clip: config.cost(video_inputs(clip)),
            lambda clip: config.identity(video_inputs(clip)),
            lambda clip: build_videomae(config, clip=clip),
        ):
            with pytest.raises(CheckpointError) as caught:
                question(CLIP)
            assert str(caught.value) == message
    assert "\n" not in message
    assert len(message.replace(config.checkpoint, "x")) < 250
    assert config.checkpoint in message
    return message


@BOTH
def test_a_wrong_path_is_missing(kind, tmp_path):
    for name in (str(tmp_path / "nothing.pth"), "./nothing", "../nothing/here", "nothing here/x", "nothing", "a/b..c"):
        config = kind(checkpoint=name)
        (missing,) = config.missing()
        assert missing.what == f"the checkpoint {name} is not on this machine"
        assert "MODEL_ZOO.md" in missing.fix
        for question in (config.token_spec, lambda clip, config=config: build_videomae(config, clip=clip)):
            with pytest.raises(MissingArtifact, match="is not on this machine"):
                question(CLIP)


@BOTH
@pytest.mark.parametrize("kept", [0, 1, 8, 64, 0.3, 0.9, -1])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_truncated_file_is_torn(kind, tmp_path, monkeypatch, kept, ending):
    path = tmp_path / f"checkpoint{ending}"
    if ending == ".pth":
        save_pth(path, pretraining(encoder_weights(TINY)), wrapper="model")
    else:
        save_file(encoder_weights(TINY), path)
    stored = path.read_bytes()
    path.write_bytes(stored[: kept if isinstance(kept, int) else int(kept * len(stored))])
    message = said_of(kind(checkpoint=str(path), heads=4), monkeypatch)
    assert message.startswith(f"{path} is truncated or not a checkpoint (")


@BOTH
def test_a_truncated_file_of_an_old_torch_is_torn(kind, tmp_path, monkeypatch):
    path = save_pth(tmp_path / "checkpoint.pth", pretraining(encoder_weights(TINY)), wrapper="model", legacy=True)
    stored = path.read_bytes()
    path.write_bytes(stored[:1000])
    assert "is truncated or not a checkpoint" in said_of(kind(checkpoint=str(path), heads=4), monkeypatch)
    path.write_bytes(stored[:-1000])  # its shapes are whole
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth cannot be loaded \(.*\); download it again"):
        build_videomae(kind(checkpoint=str(path), heads=4), clip=CLIP)


@BOTH
@pytest.mark.parametrize(
    "text", ["", "not found\n", "version https://git-lfs.github.com/spec/v1\n", "<html>", '{"a": 1}']
)
def test_a_text_is_no_checkpoint(kind, tmp_path, monkeypatch, text):
    path = tmp_path / "checkpoint.pth"
    path.write_text(text)
    message = said_of(kind(checkpoint=str(path)), monkeypatch)
    reason = "it is neither safetensors nor a file of torch.save"
    assert message == f"{path} is truncated or not a checkpoint ({reason}); download it again"


@pytest.mark.parametrize("padding", range(0, 256, 8))
def test_safetensors_of_every_length_are_known(tmp_path, padding):
    """The length of the header stands before it, and may look like the beginning of a pickle."""
    path = tmp_path / "checkpoint.safetensors"
    save_file({"weight": torch.ones(2, 3)}, path, metadata={"padding": "x" * padding})
    assert tensor_shapes(path) == {"weight": (2, 3)}


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@BOTH
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_does_not_run_it(kind, tmp_path, monkeypatch, how):
    path, proof = tmp_path / "checkpoint.pth", tmp_path / "it ran"
    state = {"model": pretraining(encoder_weights(TINY)), "args": Touch(proof)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Touch(proof)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    message = said_of(kind(checkpoint=str(path), heads=4), monkeypatch)
    with pytest.raises(CheckpointError):
        build_videomae(kind(checkpoint=str(path), heads=4), clip=CLIP)
    assert not proof.exists()
    assert re.search(r"wants to run (builtins\.getattr, )?pathlib\.", message)
    assert "when it is loaded, which salt never does; save the model's state_dict alone" in message


def dino(shape=(384, 3, 14, 14)):
    tokens = {"cls_token": torch.ones(1, 1, 384), "pos_embed": torch.ones(1, 257, 384), "norm.weight": torch.ones(384)}
    block = {"blocks.0.attn.qkv.bias": torch.ones(1152), "blocks.0.mlp.fc1.weight": torch.ones(1536, 384)}
    return {"patch_embed.proj.weight": torch.ones(shape), **tokens, **block}


@BOTH
def test_a_dino_is_no_videomae(kind, tmp_path, monkeypatch):
    for name, state in {
        "plain": dino(),
        "of a detector": {f"backbone.{key}": value for key, value in dino().items()},
        "of transformers": {"embeddings.patch_embeddings.projection.weight": torch.ones(384, 3, 14, 14)},
    }.items():
        path = save_pth(tmp_path / f"{name}.pth", state)
        message = said_of(kind(checkpoint=str(path)), monkeypatch)
        assert (
            "is no VideoMAE checkpoint: its patch embedding of shape [384, 3, 14, 14] takes single pictures" in message
        )
    path = save_pth(tmp_path / "training.pth", {"student": dino(), "teacher": dino()})
    assert "holds no weights" in said_of(kind(checkpoint=str(path)), monkeypatch)
    path = save_pth(tmp_path / "text.pth", {"wte.weight": torch.ones(3, 3), "h.0.ln.weight": torch.ones(3)})
    message = said_of(kind(checkpoint=str(path)), monkeypatch)
    assert "it has no patch embedding of clips; its 2 weights begin with h, wte" in message
    folder = save_transformers(tmp_path / "hub", dino(), SHORT, model_type="dinov2")
    assert "'dinov2'" in said_of(kind(checkpoint=str(folder)), monkeypatch)


@BOTH
@pytest.mark.parametrize("shape", [(24, 1, 2, 16, 16), (24, 3, 2, 16, 8)])
def test_odd_patches_are_refused(kind, tmp_path, monkeypatch, shape):
    weights = encoder_weights(SHORT) | {"patch_embed.proj.weight": torch.ones(shape)}
    path = save_pth(tmp_path / "checkpoint.pth", weights)
    assert "salt takes square patches of 3 colours" in said_of(kind(checkpoint=str(path), heads=4), monkeypatch)


def single_file(folder):
    return folder / "model.safetensors"


SECOND_GENERATION = {
    "its name says so": lambda _: "OpenGVLab/VideoMAEv2-Base",
    "its config.json says": lambda path: save_videomae2(path / "hub", encoder_weights(SHORT), SHORT),
    "its keys show, which begin with model.": lambda path: single_file(
        save_videomae2(path / "hub", encoder_weights(SHORT), SHORT)
    ),
    "its classifier of Kinetics-710 shows": lambda path: save_pth(
        path / "a.pth", encoder_weights(SHORT) | classifier(24, 710), wrapper="module"
    ),
    "its width of 1408 shows, the giant's": lambda path: save_pth(
        path / "a.pth", pretraining(sized_tensors(encoder_shapes(GIANT)))
    ),
}
FIRST_GENERATION = {
    "its name says so": lambda _: "MCG-NJU/videomae-base",
    "its config.json says": lambda path: save_transformers(
        path / "hub", transformers_keys(encoder_weights(SHORT)), SHORT
    ),
    "its keys show, which are transformers'": lambda path: single_file(
        save_transformers(path / "hub", transformers_keys(encoder_weights(SHORT)), SHORT)
    ),
}


@pytest.mark.parametrize("evidence", SECOND_GENERATION)
def test_the_second_generation_is_not_the_first(tmp_path, monkeypatch, evidence):
    name = str(SECOND_GENERATION[evidence](tmp_path))
    message = said_of(VideoMAEConfig(checkpoint=name), monkeypatch)
    assert message == f'{name} is a checkpoint of VideoMAEv2, as {evidence}; set use = "videomae2"'


@pytest.mark.parametrize("evidence", FIRST_GENERATION)
def test_the_first_generation_is_not_the_second(tmp_path, monkeypatch, evidence):
    name = str(FIRST_GENERATION[evidence](tmp_path))
    message = said_of(VideoMAE2Config(checkpoint=name), monkeypatch)
    assert message == f'{name} is a checkpoint of VideoMAE (v1), as {evidence}; set use = "videomae"'

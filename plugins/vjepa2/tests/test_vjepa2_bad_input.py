"""Every wrong checkpoint is one clear sentence; nothing is ever left at random."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers
from salt_vjepa2 import build_vjepa2
from salt_vjepa2.config import HUB_IDS, VJEPA2Config
from vjepa2_files import change, save, stored

from salt_toolkit import CheckpointError, ClipSpec, MissingArtifact
from salt_toolkit.context import video_inputs

CLIP = ClipSpec(frames=4, size=32)


def said_of(path, monkeypatch):
    """What `salt check` says of a wrong checkpoint; nothing is missing, and nobody reads weights."""
    config = VJEPA2Config(checkpoint=str(path))

    def unwanted(*_, **__):
        raise AssertionError("a weight was read")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", unwanted)
        patch.setattr("salt_toolkit.weights.loading.load_file", unwanted)
        assert list(config.missing()) == []
        messages = set()
        for question in (
            config.token_spec,
            lambda clip: config.cost(video_inputs(clip)),
            lambda clip: config.identity(video_inputs(clip)),
            lambda c: build_vjepa2(config, clip=c),
        ):
            with pytest.raises(CheckpointError) as caught:
                question(CLIP)
            messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    assert len(message.replace(str(path), "x")) < 500
    assert str(path) in message
    return message


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "checkpoint")


def test_a_wrong_path_is_missing(tmp_path):
    for name in (str(tmp_path / "nothing"), "./nothing", "nothing", "no body/nothing", "nobody/nothing"):
        config = VJEPA2Config(checkpoint=name)
        (missing,) = config.missing()
        assert missing.what == f"the checkpoint {name} is not on this machine"
        assert all(hub_id in missing.fix for hub_id in HUB_IDS)
        for question in (config.token_spec, lambda clip, config=config: build_vjepa2(config, clip=clip)):
            with pytest.raises(MissingArtifact, match="is not on this machine"):
                question(CLIP)


@pytest.mark.parametrize("kept", [0, 1, 8, 64, 0.3, 0.9, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_torn(folder, monkeypatch, name, kept):
    if name.endswith(".bin"):
        torch.save(stored(folder), folder / name)
        (folder / "model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert said_of(folder, monkeypatch).startswith(f"{folder / name} is truncated or not a checkpoint (")


def test_directories_that_are_none(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in said_of(tmp_path / "empty", monkeypatch)
    whole = (folder / "config.json").read_text()
    for text, reason in ((whole[:50], "cannot be read"), ("[]", "holds no table"), ("{}", "of type None")):
        (folder / "config.json").write_text(text)
        assert reason in said_of(folder, monkeypatch)
    (folder / "config.json").write_text(whole)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert "has no weights" in said_of(folder, monkeypatch)


def test_a_lone_file_does_not_tell_its_heads(folder, monkeypatch):
    message = said_of(folder / "model.safetensors", monkeypatch)
    assert "is a lone file" in message
    assert "name a directory that holds both, or a hub id" in message


def test_a_videomae_is_no_vjepa2(tmp_path, monkeypatch):
    settings = transformers.VideoMAEConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32, num_frames=4
    )
    transformers.VideoMAEModel(settings).save_pretrained(tmp_path / "videomae")
    message = said_of(tmp_path / "videomae", monkeypatch)
    assert message == (
        f"{tmp_path / 'videomae'} is a model of type 'videomae', not a 'vjepa2'; name another checkpoint, or set "
        'use = "videomae"'
    )
    change(tmp_path / "videomae", model_type="vjepa2")  # a config.json beside another's weights
    message = said_of(tmp_path / "videomae", monkeypatch)
    assert "is no V-JEPA 2 checkpoint: it lacks encoder.embeddings.patch_embeddings.proj.weight" in message


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "dinov2"}, "is a model of type 'dinov2', not a 'vjepa2'"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu', and V-JEPA 2 has 'gelu'"),
        ({"in_chans": 4}, "in_chans = 4, and V-JEPA 2 has 3"),
        ({"num_attention_heads": 5}, "5 attention heads, which do not divide its width of 52"),
        ({"num_attention_heads": "2"}, "num_attention_heads = '2' in its config.json, which is no positive whole"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0 in its config.json"),
        ({"num_hidden_layers": 4}, "config.json says blocks numbering 4, and its weights have 3"),
        ({"num_hidden_layers": 2}, "config.json says blocks numbering 2, and its weights have 3"),
        ({"patch_size": 16}, r"a patch embedding of \(52, 3, 2, 16, 16\), and its weights have \(52, 3, 2, 8, 8\)"),
        ({"patch_size": [8, 8]}, r"patch_size = \[8, 8\] in its config.json, which is no positive whole number"),
        ({"tubelet_size": 1}, r"a patch embedding of \(52, 3, 1, 8, 8\)"),
        ({"hidden_size": 56}, r"a patch embedding of \(56, 3, 2, 8, 8\)"),
        ({"mlp_ratio": 4}, r"a first MLP of \(208, 52\), and its weights have \(226, 52\)"),
        ({"mlp_ratio": None}, "mlp_ratio = None in its config.json, which is no positive number"),
        ({"layer_norm_eps": -1}, "layer_norm_eps = -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, monkeypatch, settings, reason):
    assert re.search(reason, said_of(change(folder, **settings), monkeypatch))


def test_absent_settings_mean_what_they_mean_to_transformers(folder):
    config = json.loads((folder / "config.json").read_text())
    for key in ("layer_norm_eps", "qkv_bias", "hidden_act", "in_chans", "tubelet_size"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert VJEPA2Config(checkpoint=str(folder)).architecture().described()["eps"] == 1e-6
    build_vjepa2(VJEPA2Config(checkpoint=str(folder)), clip=CLIP)


BIASES = re.compile(r"encoder\.layer\.\d+\.attention\.(query|key|value)\.bias")
NAMES = (
    "embeddings.patch_embeddings.proj.bias",
    "layer.1.attention.key.bias",
    "layer.2.norm2.weight",
    "layernorm.bias",
)


@pytest.mark.parametrize("classes", [0, 48])
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_weight_is_named(tmp_path, monkeypatch, name, classes):
    path = save(tmp_path / "checkpoint", classes=classes)
    key = f"vjepa2.encoder.{name}" if classes else f"encoder.{name}"
    weights = stored(path)
    del weights[key]
    message = said_of(change(path, weights), monkeypatch)
    assert message.startswith(f"{path} does not match a V-JEPA 2 encoder of width 52 and 3 blocks: ")
    assert f"it lacks 1 weight (encoder.{name})" in message


@pytest.mark.parametrize("name", ["encoder.layer.1.attention.gate.weight", "encoder.mask_token", "head.weight"])
def test_an_unknown_weight_is_named(folder, monkeypatch, name):
    message = said_of(change(folder, stored(folder) | {name: torch.ones(3)}), monkeypatch)
    assert f"it has unknown 1 weight ({name})" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_another_shape_is_named(folder, monkeypatch, name):
    weights = stored(folder)
    weights[f"encoder.{name}"] = torch.ones(7)
    assert f"(encoder.{name} (7,) for (52,))" in said_of(change(folder, weights), monkeypatch)


@pytest.mark.parametrize("bias", [True, False])
def test_biases_that_config_json_denies_or_claims_are_named(folder, monkeypatch, bias):
    weights = {key: value for key, value in stored(folder).items() if bias or not BIASES.match(key)}
    message = said_of(change(folder, weights, qkv_bias=not bias), monkeypatch)
    verb = "has unknown" if bias else "lacks"
    assert f"it {verb} 9 weights (encoder.layer.0.attention.key.bias, " in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_on_loading(folder, bad):
    weights, key = stored(folder), "encoder.layer.1.mlp.fc1.weight"
    weights[key][3, 4] = bad
    change(folder, weights)
    with pytest.raises(CheckpointError, match=f"holds numbers that are not finite, in {re.escape(key)}"):
        build_vjepa2(VJEPA2Config(checkpoint=str(folder)), clip=CLIP)


def test_weights_that_are_there_twice_are_refused(folder, monkeypatch):
    weights = stored(folder)
    key = "encoder.layernorm.weight"
    message = said_of(change(folder, weights | {f"vjepa2.{key}": weights[key].clone()}), monkeypatch)
    assert "holds weights twice, with and without vjepa2." in message

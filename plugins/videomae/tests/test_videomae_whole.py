"""Whole or nothing; untrained only where the recipe says so; and who a teacher is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from salt_videomae.network import VideoMAEEncoder
from videomae_files import (
    SHORT,
    TINY,
    encoder_weights,
    pretraining,
    save_pth,
    save_transformers,
    save_videomae2,
    transformers_keys,
)
from videomae_reference import token_error

from salt_toolkit import CheckpointError, ClipSpec
from salt_toolkit.context import video_inputs
from salt_toolkit.teaching.fingerprint import identify
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=4, size=32)
PLAIN = TINY.but(own_norm="fc_norm")


def as_pretraining(folder, weights):
    return VideoMAEConfig(checkpoint=str(save_pth(folder / "a.pth", pretraining(weights), wrapper="model")), heads=4)


def as_fine_tuned(folder, weights):
    return VideoMAE2Config(checkpoint=str(save_pth(folder / "a.pth", weights, wrapper="module")), heads=4)


def as_hub(folder, weights):
    return VideoMAEConfig(checkpoint=str(save_transformers(folder / "a", transformers_keys(weights), TINY)))


def as_new_hub(folder, weights):
    state = transformers_keys(weights, old=False)
    return VideoMAEConfig(checkpoint=str(save_transformers(folder / "a", state, TINY)))


def as_hub2(folder, weights):
    return VideoMAE2Config(checkpoint=str(save_videomae2(folder / "a", weights, PLAIN)))


LAYOUTS = [as_pretraining, as_fine_tuned, as_hub, as_new_hub, as_hub2]


def refusal(config):
    """One sentence or two, that name the checkpoint and what it holds instead; and `salt check` says the same."""
    with pytest.raises(CheckpointError) as caught:
        build_videomae(config, clip=CLIP)
    message = str(caught.value)
    with pytest.raises(CheckpointError) as checked:
        config.token_spec(CLIP)
    assert str(checked.value) == message
    assert message.startswith(config.checkpoint)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", ["attn.q_bias", "attn.v_bias", "attn.qkv.weight", "mlp.fc2.bias", "norm2.weight"])
def test_a_weight_that_is_missing_is_an_error(tmp_path, layout, key):
    weights = encoder_weights(TINY)
    del weights[f"blocks.1.{key}"]
    message = refusal(layout(tmp_path, weights))
    assert f"it lacks 1 weight (blocks.1.{key})" in message
    assert "The file holds" in message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_that_is_missing_is_an_error(tmp_path, layout):
    weights = {key: value for key, value in encoder_weights(TINY).items() if not key.startswith("blocks.1.")}
    assert "it lacks 13 weights (blocks.1.attn.proj.bias" in refusal(layout(tmp_path, weights))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", ["gamma_1", "attn.scale", "attn.key.bias", "attn.qkv.bias"])
def test_a_weight_that_nobody_knows_is_an_error(tmp_path, layout, key):
    """``gamma_1`` and ``attn.scale`` belong to variants that were never published."""
    config = layout(tmp_path, encoder_weights(TINY))
    prefix = {as_pretraining: "encoder.blocks.1", as_fine_tuned: "blocks.1", as_hub2: "model.blocks.1"}
    extra = {f"{prefix.get(layout, 'videomae.encoder.layer.1')}.{key}": torch.ones(24)}
    add(config.checkpoint, extra)
    message = refusal(config)
    assert "it has unknown 1 weight (" in message
    assert f"1.{key})" in message


def add(checkpoint, extra):
    """Puts further weights into a checkpoint."""
    if checkpoint.endswith(".pth"):
        saved = torch.load(checkpoint, weights_only=True)
        (wrapper,) = saved.keys() & {"model", "module"}
        torch.save(saved | {wrapper: saved[wrapper] | extra}, checkpoint)
    else:
        from safetensors.torch import load_file

        file = f"{checkpoint}/model.safetensors"
        save_file(load_file(file) | extra, file)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("key", "shape", "found"),
    [("attn.q_bias", (23,), "(23,) for (24,)"), ("mlp.fc1.weight", (41, 24), "(41, 24) for (40, 24)")],
)
def test_a_weight_of_another_shape_is_an_error(tmp_path, layout, key, shape, found):
    weights = encoder_weights(TINY)
    weights[f"blocks.1.{key}"] = torch.ones(shape)
    assert f"it has another shape for 1 weight (blocks.1.{key} {found})" in refusal(layout(tmp_path, weights))


def test_a_weight_under_two_names_is_an_error(tmp_path):
    config = as_hub(tmp_path, encoder_weights(TINY))
    add(config.checkpoint, {"videomae.encoder.layer.1.attention.attention.query.bias": torch.zeros(24)})
    message = refusal(config)
    assert "holds blocks.1.attn.q_bias twice" in message


def test_a_decoder_without_its_encoder_is_an_error(tmp_path):
    state = {key: value for key, value in pretraining(encoder_weights(TINY)).items() if not key.startswith("encoder.")}
    for kind in (VideoMAEConfig, VideoMAE2Config):
        message = refusal(kind(checkpoint=str(save_pth(tmp_path / "a.pth", state, wrapper="model"))))
        assert "begin with decoder, encoder_to_decoder, mask_token" in message


def test_many_wrong_weights_are_counted(tmp_path):
    weights = {key: value for key, value in encoder_weights(TINY).items() if not key.endswith("_bias")}
    message = refusal(as_pretraining(tmp_path, weights))
    assert "it lacks 6 weights (blocks.0.attn.q_bias, blocks.0.attn.v_bias, blocks.1" in message


def test_what_is_built_on_the_meta_device_is_checked_too(tmp_path):
    weights = encoder_weights(TINY)
    config = as_pretraining(tmp_path, weights)
    with torch.device("meta"):
        teacher = build_videomae(config, clip=CLIP)
    assert all(parameter.is_meta for parameter in teacher.parameters())
    del weights["blocks.2.attn.q_bias"]
    config = as_pretraining(tmp_path, weights)
    with torch.device("meta"):
        refusal(config)


@pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
def test_an_untrained_teacher_is_always_the_same_and_another_than_the_trained(tmp_path, kind):
    save, keys = (save_transformers, transformers_keys) if kind is VideoMAEConfig else (save_videomae2, dict)
    path, batch = save(tmp_path / "a", keys(encoder_weights(SHORT)), SHORT), random_batch(CLIP)
    latents = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        latents.append(build_videomae(kind(checkpoint=str(path), weights="random"), clip=CLIP)(batch))
        assert torch.equal(torch.get_rng_state(), before)  # a control does not change what is drawn after it
    assert torch.equal(*latents)
    assert list(kind(checkpoint=str(path), weights="random").weight_files()) == []
    trained = build_videomae(kind(checkpoint=str(path)), clip=CLIP)(batch)
    assert token_error(latents[0], trained.double()) > 0.1


def test_an_untrained_teacher_needs_no_file():
    config = VideoMAEConfig(checkpoint="/nowhere/checkpoint.pth", model="small", weights="random")
    assert list(config.missing()) == []
    assert list(config.weight_files()) == []
    assert identify("videomae", config, video_inputs(CLIP)).fields["config"]["untrained"] is True
    (missing,) = VideoMAEConfig(checkpoint="/nowhere/checkpoint.pth", weights="random").missing()
    assert "/nowhere/checkpoint.pth is not on this machine" in missing.what


def test_a_file_that_is_replaced_is_read_again(tmp_path):
    """A long-lived process, such as a notebook, must not answer from memory."""
    config = as_pretraining(tmp_path, encoder_weights(TINY))
    depth = config.architecture().depth
    as_pretraining(tmp_path, encoder_weights(TINY.but(depth=depth + 2)))
    assert config.architecture().depth == depth + 2


def fingerprint(config):
    return identify("videomae", config, video_inputs(CLIP)).fingerprint


def test_two_ways_to_say_the_same_are_one_identity(tmp_path, monkeypatch):
    config = as_pretraining(tmp_path, encoder_weights(TINY))
    monkeypatch.chdir(tmp_path)
    one = fingerprint(config)
    same = (
        {"checkpoint": "a.pth"},
        {"checkpoint": "./a.pth"},
        {"checkpoint": f"../{tmp_path.name}/a.pth"},
        {"layer": 3},
        {"layer": -1},
        {"layer": (3,)},
        {"norm": "own_layer"},
    )
    for change in same:
        assert fingerprint(config.model_copy(update=change)) == one, change


def test_whatever_changes_latents_changes_the_identity(tmp_path):
    weights = encoder_weights(TINY)
    config = as_pretraining(tmp_path, weights)
    changes = ({"layer": 2}, {"layer": (2, 3)}, {"layer": (3, 2)}, {"layer": (2, 3), "join": "mean"}, {"heads": 2},
               {"norm": "layer"}, {"norm": "none"}, {"norm": "own"}, {"weights": "random"})  # fmt: skip
    found = {fingerprint(config), *(fingerprint(config.model_copy(update=change)) for change in changes)}
    assert len(found) == 1 + len(changes)
    weights["blocks.2.mlp.fc2.bias"][5] += 2.0**-20
    config = as_pretraining(tmp_path, weights)
    assert fingerprint(config) not in found


def test_every_shard_is_part_of_the_identity(tmp_path):
    weights = encoder_weights(TINY)
    prints = set()
    for change in (0, 1):
        weights["norm.weight"][0] += change
        path = save_transformers(tmp_path / str(change), transformers_keys(weights), TINY, kind="shards")
        fields = identify("videomae", VideoMAEConfig(checkpoint=str(path)), video_inputs(CLIP)).fields
        assert len(fields["weights"]) == 2
        prints.add(tuple(fields["weights"]))
    assert len(prints) == 2


def lose_biases(weights, *kinds):
    return {key: torch.zeros_like(value) if key.endswith(kinds) else value for key, value in weights.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_biases_that_transformers_lost_are_refused(tmp_path, layout):
    """What `save_pretrained` of transformers 5.6 to 5.17 leaves of a published checkpoint."""
    weights = encoder_weights(TINY if layout is not as_hub2 else PLAIN)
    build_videomae(layout(tmp_path, lose_biases(weights, "attn.q_bias")), clip=CLIP)  # by itself no evidence
    config = layout(tmp_path, lose_biases(weights, "attn.q_bias", "attn.v_bias"))
    with pytest.raises(CheckpointError, match=r"zeros for the biases of all queries and values.*transformers 5\.6"):
        build_videomae(config, clip=CLIP)


def test_two_files_in_one_are_refused(tmp_path):
    weights = encoder_weights(TINY)
    state = {(f"encoder.{key}" if key.startswith("patch_embed") else key): value for key, value in weights.items()}
    config = VideoMAEConfig(checkpoint=str(save_pth(tmp_path / "a.pth", state)), heads=4)
    with pytest.raises(CheckpointError, match=r"holds blocks\.\S+ beside weights whose names begin with encoder\."):
        config.token_spec(CLIP)


def test_the_shapes_by_heart_are_the_networks():
    for shape in (TINY, PLAIN):
        config = VideoMAEConfig(checkpoint="/nowhere", model="small", heads=6)
        made = replace(config.architecture(), dim=shape.dim, depth=shape.depth, own_norm=shape.own_norm)
        with torch.device("meta"):
            own = VideoMAEEncoder(made).state_dict()
        assert made.weight_shapes() == {key: tuple(value.shape) for key, value in own.items()}

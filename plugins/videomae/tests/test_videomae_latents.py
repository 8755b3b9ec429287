"""Which latents a VideoMAE teacher gives: layers, norms, clips of other sizes, bfloat16."""

from __future__ import annotations

import pytest
import torch
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from videomae_files import (
    TINY,
    classifier,
    encoder_weights,
    pretraining,
    save_pth,
    save_transformers,
    save_videomae2,
    transformers_keys,
)
from videomae_reference import Reference, layer_norm, token_error

from salt_toolkit import ClipSpec, GeometryError
from salt_toolkit.context import video_inputs
from salt_toolkit.teaching.alignment import fit_clip
from salt_toolkit.testing import random_batch

CLIP = ClipSpec()
DEEP = TINY.but(depth=4)
LIMIT = 1e-5


def write(folder, own_norm):
    """A pre-trained file, or a fine-tuned one, or one without any last norm."""
    weights = encoder_weights(DEEP.but(own_norm=own_norm))
    if own_norm == "norm":
        return save_pth(folder / "checkpoint.pth", pretraining(weights), wrapper="model")
    if own_norm == "fc_norm":
        return save_pth(folder / "checkpoint.pth", weights | classifier(DEEP.dim, 174), wrapper="module")
    return save_transformers(folder / "checkpoint", transformers_keys(weights, prefix=""), DEEP)


@pytest.fixture(scope="module")
def batch():
    return random_batch(CLIP, 1)


@pytest.fixture(scope="module", params=["norm", "fc_norm", None], ids=["pre-trained", "fine-tuned", "plain"])
def checkpoint(request, tmp_path_factory, batch):
    """A path, its last norm, its reference and the reference's tokens after every block."""
    path = write(tmp_path_factory.mktemp("checkpoint"), request.param)
    reference = Reference(path, DEEP.heads)
    return path, request.param, reference, reference.hidden(batch.clip)


def config_of(path, **settings):
    return VideoMAEConfig(checkpoint=str(path), heads=DEEP.heads, **settings)


def normed(tokens, norm, reference, own):
    """What the settings say, by the equations; own is ``norm``, or ``fc_norm`` token by token."""
    if norm.startswith("own"):
        tokens = reference.norm(tokens, own)
    return layer_norm(tokens) if norm.endswith("layer") else tokens


LAYERS = {"last": (4,), -1: (4,), 1: (1,), -3: (2,), (3, 1): (3, 1), (-4, 2, 3): (1, 2, 3), (2,): (2,)}
"""What a recipe writes, and the blocks that it means."""


@pytest.mark.parametrize("norm", ["none", "layer", "own", "own_layer"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers_and_norms_are_the_equations(checkpoint, batch, layer, norm):
    path, own, reference, hidden = checkpoint
    config = config_of(path, layer=layer, norm=norm)
    if own is None and norm.startswith("own"):
        with pytest.raises(GeometryError, match=f'norm = "{norm}", and the checkpoint has no last norm'):
            build_videomae(config, clip=CLIP)
        return
    expected = [normed(hidden[number - 1], norm, reference, own) for number in LAYERS[layer]]
    teacher = build_videomae(config, clip=CLIP)
    found = teacher(batch)
    assert found.shape[-1] == teacher.token_spec.dim == config.token_spec(CLIP).dim == DEEP.dim * len(LAYERS[layer])
    for part, tokens in zip(found.split(DEEP.dim, dim=-1), expected, strict=True):
        assert token_error(part, tokens) <= LIMIT
    if isinstance(layer, tuple):
        averaged = build_videomae(config_of(path, layer=layer, norm=norm, join="mean"), clip=CLIP)
        assert averaged.token_spec.dim == DEEP.dim
        assert token_error(averaged(batch), torch.stack(expected).mean(dim=0)) <= LIMIT


def test_the_comparison_tells_layers_and_norms_apart(checkpoint):
    """No two of the choices above are so near that one would pass for the other."""
    _, own, reference, hidden = checkpoint
    norms = ["none", "layer", "own", "own_layer"] if own else ["none", "layer"]
    choices = [normed(tokens, norm, reference, own) for tokens in hidden for norm in norms]
    for number, one in enumerate(choices):
        assert all(token_error(one, other) > 1000 * LIMIT for other in choices[:number])


def test_auto_takes_the_own_norm_of_pretrained_files_alone(checkpoint, batch):
    path, own, reference, hidden = checkpoint
    expected = normed(hidden[-1], "own_layer" if own == "norm" else "layer", reference, own)
    assert token_error(build_videomae(config_of(path), clip=CLIP)(batch), expected) <= LIMIT


def test_auto_takes_no_norm_of_the_distilled_ones_on_the_hub(tmp_path, batch):
    shape = DEEP.but(own_norm="fc_norm")
    path = save_videomae2(tmp_path / "hub", encoder_weights(shape), shape)
    found = build_videomae(VideoMAE2Config(checkpoint=str(path)), clip=CLIP)(batch)
    assert token_error(found, layer_norm(Reference(path, DEEP.heads).hidden(batch.clip)[-1])) <= LIMIT


@pytest.mark.parametrize("layer", [0, 5, -5, (1, 5), (1, 1), (1, -4)])
def test_a_block_that_is_not_there_is_refused(tmp_path, layer):
    config = config_of(write(tmp_path, "norm"), layer=layer)
    with pytest.raises(GeometryError, match=r"names no block of this encoder; it has 4|names a block twice"):
        config.token_spec(CLIP)


def test_blocks_behind_the_last_wanted_are_dropped(tmp_path):
    path = write(tmp_path, "norm")
    for layer, num_blocks in ((1, 1), ((3, 2), 3), ("last", 4)):
        config = config_of(path, layer=layer)
        teacher = build_videomae(config, clip=CLIP)
        assert len(teacher.encoder.blocks) == num_blocks
        assert config.cost(video_inputs(CLIP)).parameters == sum(
            parameter.numel() for parameter in teacher.parameters()
        )


@pytest.mark.parametrize("clip", [ClipSpec(frames=8), ClipSpec(size=96), ClipSpec(frames=24, size=256)])
def test_another_clip_is_fitted_and_keeps_the_teachers_grid(tmp_path, clip):
    config, batch = config_of(write(tmp_path, "norm"), norm="none"), random_batch(clip, 2)
    assert config.token_spec(clip) == config.token_spec(CLIP)
    fitted = fit_clip(batch.clip, frames=16, size=224)
    expected = Reference(tmp_path / "checkpoint.pth", DEEP.heads).hidden(fitted)[-1]
    assert token_error(build_videomae(config, clip=clip)(batch), expected) <= LIMIT


def test_a_clip_of_twice_the_frames_gives_every_second(tmp_path):
    clip = ClipSpec(frames=32)
    config, batch = config_of(write(tmp_path, "norm"), norm="none"), random_batch(clip, 1)
    expected = Reference(tmp_path / "checkpoint.pth", DEEP.heads).hidden(batch.clip[:, :, 1::2])[-1]
    assert token_error(build_videomae(config, clip=clip)(batch), expected) <= LIMIT


def test_bfloat16_costs_less_than_a_hundredth(tmp_path, batch):
    """Products in bfloat16, everything between the blocks in float32: 8 bits of mantissa, some products deep."""
    shape = TINY.but(dim=192, depth=12, heads=3, mlp_dim=768)
    path = save_pth(tmp_path / "checkpoint.pth", pretraining(encoder_weights(shape)), wrapper="model")
    teacher = build_videomae(VideoMAEConfig(checkpoint=str(path), heads=3, norm="none"), clip=CLIP)
    exact = teacher(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = teacher(batch)
    assert rough.dtype == torch.float32
    assert 1e-4 < token_error(rough, exact.double()) < 1e-2

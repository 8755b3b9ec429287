"""The published checkpoints: sizes, grids, costs, terms; known before any file is here."""

from __future__ import annotations

import pytest
import torch
from salt_vjepa2 import build_vjepa2
from salt_vjepa2.architecture import SIZES, Architecture
from salt_vjepa2.config import HUB_IDS, VJEPA2Config
from torch.utils.flop_counter import FlopCounterMode
from transformers import VJEPA2Config as TransformersConfig
from transformers import VJEPA2Model
from vjepa2_files import change, save, stored

from salt_toolkit import ClipSpec, GeometryError, Grid, MissingArtifact, ModelCard
from salt_toolkit.context import video_inputs
from salt_toolkit.testing import random_batch

NUMBERS = {"large": 325_971_328, "huge": 653_930_880, "giant": 1_034_555_264}
"""In the hub's files of the pre-trained models: the encoder, and a predictor of 12 blocks of width 384."""


def predictor_numbers(dim):
    """Counted from the paper's predictor: in and out, ten mask tokens, twelve blocks of 384 numbers, a norm."""
    block = 4 * (384 * 384 + 384) + 384 * 1536 + 1536 + 1536 * 384 + 384 + 4 * 384
    return dim * 384 + 384 + 10 * 384 + 12 * block + 2 * 384 + 384 * dim + dim


@pytest.mark.parametrize("hub_id", HUB_IDS)
def test_a_published_encoder_has_the_numbers_of_its_file(hub_id):
    config = VJEPA2Config(checkpoint=hub_id, weights="random")
    (known,) = (entry for entry in config.known_checkpoints() if entry.checkpoint == hub_id)
    dim = {"large": 1024, "huge": 1280, "giant": 1408}[known.size]
    letter = {"large": "l", "huge": "h", "giant": "g"}[known.size]
    _, model, frames, pixels, *_ = hub_id.split("/")[1].split("-")
    assert model == f"vit{letter}"
    frames, side = int(frames.removeprefix("fpc")) // 2, int(pixels) // 16
    assert known.grid == f"{frames}x{side}x{side}"
    clip = ClipSpec(frames=2 * frames, size=16 * side)
    assert list(config.missing()) == []
    spec = config.token_spec(clip)
    assert (spec.grid, spec.dim, known.dim) == (Grid(frames, side, side), dim, dim)
    encoder = NUMBERS[known.size] - predictor_numbers(dim)
    assert config.cost(video_inputs(clip)).parameters == encoder
    assert known.parameters == round(encoder / 1e6, 1)


@pytest.mark.parametrize("size", SIZES)
def test_torch_counts_the_parameters_and_flops_of_every_size(size):
    (hub_id, *_) = (entry.checkpoint for entry in VJEPA2Config.known_checkpoints() if entry.size == size)
    config, clip = VJEPA2Config(checkpoint=hub_id, weights="random"), ClipSpec(frames=16, size=256)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        teacher = build_vjepa2(config, clip=clip)
        latents = teacher(random_batch(clip, 1))
    spec = config.token_spec(clip)
    assert latents.shape == (1, spec.grid.num_tokens, spec.dim) == (1, 2048, SIZES[size].dim)
    assert teacher.encoder.layer[0].attention.num_attention_heads == {"large": 16, "huge": 16, "giant": 22}[size]
    assert sum(parameter.numel() for parameter in teacher.parameters()) == config.cost(video_inputs(clip)).parameters
    assert counter.get_total_flops() == config.cost(video_inputs(clip)).forward_flops


@pytest.mark.parametrize(
    "made", [*SIZES.values(), Architecture(52, 3, 2, 48 / 11, 8, 1, qkv_bias=False)], ids=lambda made: made.label
)
def test_the_weights_that_a_file_must_hold_are_those_of_transformers(made):
    settings = TransformersConfig(
        hidden_size=made.dim,
        num_hidden_layers=made.depth,
        num_attention_heads=made.heads,
        mlp_ratio=made.mlp_ratio,
        patch_size=made.patch,
        tubelet_size=made.tubelet,
        qkv_bias=made.qkv_bias,
    )
    with torch.device("meta"):
        encoder = VJEPA2Model(settings).encoder
    assert made.weight_shapes() == {f"encoder.{key}": tuple(value.shape) for key, value in encoder.state_dict().items()}


def test_the_terms_of_published_weights_are_permissive_and_no_encoder_saw_labels():
    for entry in VJEPA2Config.known_checkpoints():
        assert not entry.card.non_commercial
        assert set(entry.card.licence.split(" or ")) <= {"mit", "apache-2.0"}
        assert entry.card.labels == "none"
        assert ("classifier" in entry.note) == (entry.checkpoint.endswith(("ssv2", "diving48")))
        assert VJEPA2Config(checkpoint=entry.checkpoint).card() == entry.card
        assert VJEPA2Config(checkpoint=entry.checkpoint, weights="random").card() is None


def test_the_card_of_a_directory_says_what_its_file_shows(tmp_path):
    pretrained = VJEPA2Config(checkpoint=str(save(tmp_path / "pretrained")))
    assert pretrained.card() == ModelCard("unknown", "none")
    finetuned = VJEPA2Config(checkpoint=str(save(tmp_path / "finetuned", classes=48)))
    assert finetuned.card() == ModelCard("unknown", "unknown")
    alone = {key: value for key, value in stored(tmp_path / "pretrained").items() if key.startswith("encoder.")}
    assert VJEPA2Config(checkpoint=str(change(tmp_path / "pretrained", alone))).card() == ModelCard()
    (tmp_path / "pretrained" / "model.safetensors").write_bytes(b"torn")
    assert pretrained.card() == ModelCard()
    assert VJEPA2Config(checkpoint="nobody/nothing").card() == ModelCard()


@pytest.mark.parametrize(
    ("clip", "settings", "message"),
    [
        ({"frames": 5}, {}, "clip.frames = 5 is not a multiple of the tubelet of 2 frames; choose 4 or 6"),
        ({"size": 100}, {}, "clip.size = 100 is not a multiple of the patch of 16 pixels; choose 96 or 112"),
        ({}, {"size": 100}, "size = 100 is not a multiple of the patch of 16 pixels of .*; choose 96"),
        ({}, {"size": 7}, "size = 7 is not a multiple of the patch of 16 pixels of .*; choose 16"),
        ({}, {"layer": 25}, "names no block of this encoder; it has 24"),
        ({}, {"layer": (1, -24)}, "names a block twice"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused_before_any_file_is_here(clip, settings, message):
    config = VJEPA2Config(checkpoint=HUB_IDS[0], weights="random", **settings)
    for question in (
        config.token_spec,
        lambda clip: config.cost(video_inputs(clip)),
        lambda clip: config.identity(video_inputs(clip)),
        lambda clip: build_vjepa2(config, clip=clip),
    ):
        with pytest.raises(GeometryError, match=message):
            question(ClipSpec(**clip))


def test_random_weights_are_the_same_in_every_run_and_need_no_file(tmp_path):
    clip = ClipSpec(frames=2, size=32)
    config = VJEPA2Config(checkpoint=str(save(tmp_path / "checkpoint")), weights="random")
    first = build_vjepa2(config, clip=clip)(random_batch(clip))
    torch.rand(17)
    assert torch.equal(build_vjepa2(config, clip=clip)(random_batch(clip)), first)
    trained = build_vjepa2(config.model_copy(update={"weights": "checkpoint"}), clip=clip)(random_batch(clip))
    assert (first - trained).abs().mean() > 0.1
    assert config.weight_files() == ()
    with pytest.raises(MissingArtifact):
        build_vjepa2(VJEPA2Config(checkpoint="nobody/nothing", weights="random"), clip=clip)

"""The published sizes: their shapes, parameters and FLOPs, at no cost, and one small one in full."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from torch.utils.flop_counter import FlopCounterMode
from videomae_files import (
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
from videomae_reference import MISTAKES, Reference, layer_norm, token_error

from salt_toolkit import CheckpointError, ClipSpec, GeometryError, ModelCard
from salt_toolkit.context import video_inputs
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.testing import random_batch

CLIP = ClipSpec()
SHAPES = {
    "small": Shape(384, 12, 6, 1536, 16),
    "base": Shape(768, 12, 12, 3072, 16),
    "large": Shape(1024, 24, 16, 4096, 16),
    "huge": Shape(1280, 32, 16, 5120, 16),
    "giant": Shape(1408, 40, 16, 6144, 14),
}
"""From the papers and the authors' constructors."""

PARAMETERS = {"small": 21.9, "base": 86.2, "large": 303.9, "huge": 631.6, "giant": 1011.6}
"""In millions, of the encoder; the papers round them."""

GFLOPS = {"small": 113.8, "base": 360.7, "large": 1193.7, "huge": 2382.0, "giant": 5085.6}
"""Of one clip of 16 frames of 224 pixels; 2 for a multiplication with its addition."""

FAMILIES = [(VideoMAEConfig, size) for size in list(SHAPES)[:4]] + [(VideoMAE2Config, size) for size in SHAPES]


def spec_of(size):
    shape = SHAPES[size]
    side = 224 // shape.patch
    return TokenSpec(Grid(8, side, side), shape.dim)


def full_size_file(path, size, **changes):
    """All of a size's keys and shapes in a few kilobytes."""
    return save_pth(path / f"{size}.pth", sized_tensors(encoder_shapes(SHAPES[size].but(**changes))), wrapper="module")


@pytest.mark.parametrize(("kind", "size"), FAMILIES)
def test_a_size_by_name_is_what_was_published(kind, size):
    config = kind(checkpoint="/nowhere/checkpoint.pth", model=size)
    cost = config.cost(video_inputs(CLIP))
    assert config.token_spec(CLIP) == spec_of(size)
    assert cost.parameters / 1e6 == pytest.approx(PARAMETERS[size], abs=0.06)
    assert cost.forward_flops / 1e9 == pytest.approx(GFLOPS[size], abs=0.05)


@pytest.mark.parametrize(("kind", "size"), FAMILIES)
@pytest.mark.parametrize("own_norm", ["norm", "fc_norm"])
def test_a_size_is_read_from_its_file(tmp_path, kind, size, own_norm):
    """On the meta device every key and shape is compared, and no number is touched."""
    config = kind(checkpoint=str(full_size_file(tmp_path, size, own_norm=own_norm)), model=size)
    assert config.token_spec(CLIP) == spec_of(size)
    with torch.device("meta"):
        teacher = build_videomae(config, clip=CLIP)
    assert teacher.token_spec == spec_of(size)
    assert teacher.encoder.blocks[0].attn.heads == SHAPES[size].heads
    assert sum(parameter.numel() for parameter in teacher.parameters()) == config.cost(video_inputs(CLIP)).parameters


@pytest.mark.parametrize("size", SHAPES)
def test_torch_counts_the_published_flops(size):
    config = VideoMAE2Config(checkpoint="/nowhere/checkpoint.pth", model=size, weights="random")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        teacher = build_videomae(config, clip=CLIP)
        latents = teacher(random_batch(CLIP, 1))
    spec = spec_of(size)
    assert latents.shape == (1, spec.grid.num_tokens, spec.dim)
    assert counter.get_total_flops() == config.cost(video_inputs(CLIP)).forward_flops
    assert counter.get_total_flops() / 1e9 == pytest.approx(GFLOPS[size], abs=0.05)


def test_a_real_small_file_gives_the_tokens_of_the_equations(tmp_path):
    """Six heads are known by the size alone; the first block tells them from any other number."""
    path = save_pth(tmp_path / "small.pth", pretraining(encoder_weights(SHAPES["small"])), wrapper="model")
    batch, reference = random_batch(CLIP, 1), Reference(path, heads=6)
    config = VideoMAEConfig(checkpoint=str(path), layer=(1, 2), norm="none")
    latents = build_videomae(config, clip=CLIP)(batch).split(384, dim=-1)
    for found, expected in zip(latents, reference.hidden(batch.clip, blocks=2), strict=True):
        assert token_error(found, expected) <= 1e-5
    reference.heads = 12
    assert token_error(latents[0], reference.hidden(batch.clip, blocks=1)[0]) > 1e-2


@pytest.mark.parametrize("size", ["huge", "giant"])
def test_a_slim_file_of_a_great_shape_gives_the_tokens_of_the_equations(tmp_path, size):
    """The true grid of 1568 or 2048 tokens, the giant's patch of 14 and its odd MLP; little width and depth."""
    shape = SHAPES[size].but(dim=44, depth=2, heads=2, mlp_dim=44 * 48 // 11, own_norm="fc_norm")
    path = save_pth(tmp_path / "slim.pth", encoder_weights(shape) | classifier(44, 174), wrapper="module")
    config, batch = VideoMAE2Config(checkpoint=str(path), heads=2), random_batch(CLIP, 1)
    assert config.token_spec(CLIP).grid == spec_of(size).grid
    found = build_videomae(config, clip=CLIP)(batch)
    assert token_error(found, layer_norm(Reference(path, 2).hidden(batch.clip)[-1])) <= 1e-5
    order = next(mistake for mistake in MISTAKES if mistake.__name__ == "TransposedPictures")
    assert token_error(found, layer_norm(order(path, 2).hidden(batch.clip)[-1])) > 1e-2


def test_the_hubs_small_has_six_heads_whatever_its_settings_say(tmp_path):
    """It was converted with 16 in its config.json, and trained with 6; a recipe can insist on 16."""
    shape = SHAPES["small"]
    state = transformers_keys(sized_tensors(encoder_shapes(shape)))
    path = save_transformers(tmp_path / "small", state, shape, num_attention_heads=16)
    assert VideoMAEConfig(checkpoint=str(path)).architecture().heads == 6
    assert VideoMAEConfig(checkpoint=str(path / "model.safetensors")).architecture().heads == 6
    assert VideoMAEConfig(checkpoint=str(path), heads=16).architecture().heads == 16
    # A model of one's own of that width has the heads that its settings say.
    other = shape.but(depth=2)
    state = transformers_keys(sized_tensors(encoder_shapes(other)))
    path = save_transformers(tmp_path / "own", state, other, num_attention_heads=16)
    assert VideoMAEConfig(checkpoint=str(path)).architecture().heads == 16


def test_a_classifier_without_classes_is_passed_over(tmp_path):
    state = encoder_weights(Shape(own_norm="fc_norm")) | {"head.weight": torch.tensor(1.0)}
    assert VideoMAE2Config(checkpoint=str(save_pth(tmp_path / "a.pth", state)), heads=4).architecture().classes == 0


def test_every_norm_has_the_authors_epsilon():
    """Too small to be seen beside the positions, so nobody would notice another one."""
    with torch.device("meta"):
        teacher = build_videomae(VideoMAEConfig(checkpoint="/x.pth", model="small", weights="random"), clip=CLIP)
    assert {module.eps for module in teacher.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-6}


@pytest.mark.parametrize("ratio", [48 / 11, 4.363636363636363, 4.3637])
def test_the_hubs_giant_has_an_odd_mlp(tmp_path, ratio):
    shape = SHAPES["giant"].but(own_norm="fc_norm", depth=1)
    path = save_videomae2(tmp_path / "giant", sized_tensors(encoder_shapes(shape)), shape, mlp_ratio=ratio)
    config = VideoMAE2Config(checkpoint=str(path))
    assert config.token_spec(CLIP) == spec_of("giant")
    assert config.architecture().mlp_dim == 6144


def test_heads_of_an_unknown_size_must_be_told(tmp_path):
    path = full_size_file(tmp_path, "base", depth=3)
    with pytest.raises(CheckpointError, match=r"none of the published sizes.*set heads"):
        VideoMAEConfig(checkpoint=str(path)).token_spec(CLIP)
    assert VideoMAEConfig(checkpoint=str(path), heads=12).architecture().heads == 12


@pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
def test_heads_must_divide_the_width(tmp_path, kind):
    for config in (
        kind(checkpoint=str(full_size_file(tmp_path, "small")), heads=5),
        kind(checkpoint="/nowhere/checkpoint.pth", model="small", weights="random", heads=5),
    ):
        with pytest.raises(GeometryError, match=r"heads = 5.* width of 384"):
            config.token_spec(CLIP)
        assert list(config.missing()) == []  # nothing is missing, and the question above says what is wrong


def test_heads_count_without_a_file_too():
    """No setting is without effect."""
    config = VideoMAEConfig(checkpoint="/nowhere/checkpoint.pth", model="small", weights="random", heads=3)
    with torch.device("meta"):
        assert build_videomae(config, clip=CLIP).encoder.blocks[0].attn.heads == 3
    assert config.identity(video_inputs(CLIP))["architecture"]["heads"] == 3


def test_the_recipe_and_the_file_must_agree_on_the_size(tmp_path):
    path = full_size_file(tmp_path, "base")
    with pytest.raises(CheckpointError, match=r'base\.pth holds VideoMAE.s base encoder, .*model = "large"'):
        VideoMAEConfig(checkpoint=str(path), model="large").token_spec(CLIP)
    with pytest.raises(CheckpointError, match=r'videomae-base holds VideoMAE.s base encoder, .*model = "large"'):
        VideoMAEConfig(checkpoint="MCG-NJU/videomae-base", model="large").token_spec(CLIP)


def test_there_is_no_giant_of_the_first_generation():
    with pytest.raises(ValidationError, match='set use = "videomae2"'):
        VideoMAEConfig(checkpoint="/nowhere/checkpoint.pth", model="giant")
    for kind in (VideoMAEConfig, VideoMAE2Config):
        with pytest.raises(ValidationError):
            kind(checkpoint="x", norm="batch")


@pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
def test_published_checkpoints_are_known_by_heart(kind):
    for entry in kind.known_checkpoints():
        config, spec = kind(checkpoint=entry.checkpoint, model=entry.size), spec_of(entry.size)
        assert config.token_spec(CLIP) == spec
        assert (entry.dim, entry.grid) == (spec.dim, f"{spec.grid.frames}x{spec.grid.rows}x{spec.grid.columns}")
        assert entry.parameters == pytest.approx(PARAMETERS[entry.size], abs=0.1)
        assert entry.card.non_commercial
        assert bool(entry.note) == (not entry.checkpoint.startswith(("MCG-NJU/", "OpenGVLab/")))


SSV2, K400, K710 = "Something-Something v2", "Kinetics-400", "Kinetics-710"
PUBLISHED = {
    "MCG-NJU/videomae-base": ("base", "none"),
    "MCG-NJU/videomae-base-short": ("base", "none"),
    "MCG-NJU/videomae-large": ("large", "none"),
    "MCG-NJU/videomae-base-ssv2": ("base", "none"),
    "MCG-NJU/videomae-base-short-ssv2": ("base", "none"),
    "MCG-NJU/videomae-small-finetuned-kinetics": ("small", K400),
    "MCG-NJU/videomae-base-finetuned-kinetics": ("base", K400),
    "MCG-NJU/videomae-base-short-finetuned-kinetics": ("base", K400),
    "MCG-NJU/videomae-large-finetuned-kinetics": ("large", K400),
    "MCG-NJU/videomae-huge-finetuned-kinetics": ("huge", K400),
    "MCG-NJU/videomae-small-finetuned-ssv2": ("small", SSV2),
    "MCG-NJU/videomae-base-finetuned-ssv2": ("base", SSV2),
    "MCG-NJU/videomae-base-short-finetuned-ssv2": ("base", SSV2),
    "OpenGVLab/VideoMAEv2-Base": ("base", K710),
    "OpenGVLab/VideoMAEv2-Large": ("large", "unknown"),
    "OpenGVLab/VideoMAEv2-Huge": ("huge", "unknown"),
    "OpenGVLab/VideoMAEv2-giant": ("giant", "unknown"),
    "vit_s_k710_dl_from_giant.pth": ("small", K710),
    "vit_b_k710_dl_from_giant.pth": ("base", K710),
    "vit_g_hybrid_pt_1200e.pth": ("giant", "none"),
    "vit_g_hybrid_pt_1200e_k710_ft.pth": ("giant", K710),
    "vit_g_hybrid_pt_1200e_k400_ft.pth": ("giant", K400),
    "vit_g_hybrid_pt_1200e_ssv2_ft.pth": ("giant", SSV2),
    "vit_g_hybrid_pt_1200e_k710_it_k400_ft.pth": ("giant", f"{K400}, {K710}"),
    "vit_g_hybrid_pt_1200e_k710_it_k600_ft.pth": ("giant", f"Kinetics-600, {K710}"),
    "vit_g_hybrid_pt_1200e_k710_it_ucf101_ft.pth": ("giant", f"UCF101, {K710}"),
    "vit_g_hybrid_pt_1200e_k710_it_hmdb51_ft.pth": ("giant", f"HMDB51, {K710}"),
}
"""Size and labels; whatever has seen labels has no last norm for tokens."""


def test_published_names_mean_what_they_say():
    found = {}
    for kind in (VideoMAEConfig, VideoMAE2Config):
        for entry in kind.known_checkpoints():
            if not entry.checkpoint.startswith("/"):  # stands for any file
                found[entry.checkpoint] = (entry.size, entry.card.labels)
                norm = "own_layer" if entry.card.labels == "none" else "layer"
                assert kind(checkpoint=entry.checkpoint).identity(video_inputs(CLIP))["norm"] == norm
    assert found == PUBLISHED


def test_cards_tell_which_labels_a_file_has_seen(tmp_path, monkeypatch):
    def card(kind, name, own_norm, state):
        path = save_pth(tmp_path / f"{name}.pth", encoder_weights(Shape(own_norm=own_norm)) | state)
        return kind(checkpoint=str(path), heads=4).card()

    assert card(VideoMAE2Config, "distilled", "fc_norm", classifier(24, 710)).labels == "Kinetics-710"
    assert card(VideoMAEConfig, "k400", "fc_norm", classifier(24, 400)).labels == "Kinetics-400"
    # The authors tuned one model on it straight away, and one by way of Kinetics-710.
    assert card(VideoMAE2Config, "k400", "fc_norm", classifier(24, 400)).labels == "Kinetics-400, perhaps Kinetics-710"
    assert card(VideoMAEConfig, "ssv2", "fc_norm", classifier(24, 174)).labels == "Something-Something v2"
    assert card(VideoMAEConfig, "other", "fc_norm", classifier(24, 5)).labels == "unknown"
    assert card(VideoMAEConfig, "headless", "fc_norm", {}).labels == "unknown"
    assert card(VideoMAEConfig, "pretrained", "norm", {}) == ModelCard("cc-by-nc-4.0", "none")
    assert VideoMAE2Config(checkpoint="OpenGVLab/VideoMAEv2-Base").card().labels == "Kinetics-710"
    # A file of another content than its name's says what it is.
    monkeypatch.chdir(tmp_path)
    name = "vit_g_hybrid_pt_1200e.pth"
    assert VideoMAE2Config(checkpoint=name).card().labels == "none"
    save_pth(tmp_path / name, encoder_weights(Shape(own_norm="fc_norm")) | classifier(24, 710))
    assert VideoMAE2Config(checkpoint=name, heads=4).card().labels == "Kinetics-710"
    save_pth(tmp_path / name, encoder_weights(Shape(own_norm="fc_norm")))
    assert VideoMAE2Config(checkpoint=name, heads=4).card().labels == "unknown"
    untrained = VideoMAE2Config(checkpoint="OpenGVLab/VideoMAEv2-Base", weights="random")
    assert untrained.card() is None  # random numbers have no licence and no labels

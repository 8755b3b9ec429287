"""Image teachers before they are built: arithmetic against torch and known figures, terms, identity, mistakes."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from image_oracles import authors_dinov3, put_into_hub_cache, random_state
from make_image_table import TABLE, candidates, image_rows
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from salt_vit import build_dino, build_timm_image
from salt_vit.image_catalog import all_models, dino_models
from salt_vit.image_config import DinoConfig, TimmImageConfig
from salt_vit.image_models import architectures, published_weights
from salt_vit.labels import labels_of
from torch.utils.flop_counter import FlopCounterMode

from salt_toolkit import CheckpointError, ClipSpec, GeometryError, Grid, MissingArtifact, ModelCard, TokenSpec
from salt_toolkit.context import video_inputs
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.teaching.fingerprint import identify

CLIP = ClipSpec(frames=2, stride=1, size=112)
SMALL = "vit_small_patch14_reg4_dinov2"


# Arithmetic.


def test_token_counts_and_costs_are_the_known_ones():
    clip = ClipSpec(frames=16, size=252)
    for model, grid, beside in ((SMALL, 18, 5), ("vit_small_patch14_dinov2", 18, 1)):
        config = DinoConfig(model=model, prefix="all")
        assert config.token_spec(clip) == TokenSpec(Grid(16, grid, grid), 384 * (1 + beside))
    assert DinoConfig(model="vit_small_patch16_dinov3").token_spec(ClipSpec(size=256)).grid == Grid(16, 16, 16)
    one_frame = ClipSpec(frames=1, size=252)
    assert DinoConfig(model="vit_small_patch14_dinov2").cost(
        video_inputs(one_frame)
    ).forward_flops / 1e9 == pytest.approx(15.9, 0.01)


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        ("vit_small_patch14_dinov2", 22.1),
        ("vit_giant_patch14_dinov2", 1136.5),
        ("vit_small_patch16_dinov3", 21.6),
        ("vit_huge_plus_patch16_dinov3", 840.5),
        ("vit_7b_patch16_dinov3", 6716.0),
    ],
)
def test_parameters_are_the_published_ones(model, millions):
    """At the sizes of the papers; the figures stand in the model cards."""
    known = {entry.checkpoint.partition(".")[0]: entry for entry in DinoConfig.known_checkpoints()}
    assert known[model].parameters == pytest.approx(millions, abs=0.05)


def test_the_cost_of_every_kind_of_model_is_what_is_built():
    """Of the models with the same parts one is built, on torch's meta device; the table's maker counts them all."""
    kinds = {}
    for name, made in architectures().items():
        plain = made.block_weights == 12 * made.dim**2, made.attention_flops // made.dim
        kind = (made.class_token, made.prefix, made.positions, made.norm, *plain)
        kinds[kind] = min(kinds.get(kind, name), name, key=lambda each: architectures()[each].depth)
    assert len(kinds) > 20
    for name in kinds.values():
        patch = architectures()[name].patch
        clip = ClipSpec(frames=3, stride=1, size=2 * patch)
        config = TimmImageConfig(model=name, weights="random", layer=2)
        with torch.device("meta"):
            teacher = build_timm_image(config, clip=clip)
            batch = ClipBatch(("x",), {"clip": torch.zeros(1, 3, clip.size, clip.size, 3, dtype=torch.uint8)})
            with FlopCounterMode(display=False) as counter:
                latents = teacher(batch)
        cost, spec = config.cost(video_inputs(clip)), config.token_spec(clip)
        assert (name, *latents.shape) == (name, 1, spec.grid.num_tokens, spec.dim)
        assert (name, cost.forward_flops) == (name, counter.get_total_flops())
        assert (name, cost.parameters) == (name, sum(value.numel() for value in teacher.parameters()))


@pytest.mark.slow
def test_the_table_is_what_the_installed_timm_builds():
    """Every ninth row; all of them take a minute."""
    written = json.loads(TABLE.read_text(encoding="utf-8"))
    names = candidates()
    assert [name for name in names if "sapiens" not in name] == list(written)
    assert image_rows(names[::9]) == {name: written[name] for name in names[::9] if name in written}


def test_a_teacher_of_a_few_layers_costs_less():
    whole, part = (DinoConfig(model=SMALL, layer=layer).cost(video_inputs(CLIP)) for layer in ("last", 3))
    block = architectures()[SMALL].block(CLIP.size, frames=CLIP.frames)
    assert whole.parameters - part.parameters == 9 * block.parameters
    assert whole.forward_flops - part.forward_flops == 9 * block.forward_flops


# What is known of the weights.


def test_licences_and_labels_belong_to_the_tag():
    cards = {
        "vit_base_patch16_224.mae": ModelCard("cc-by-nc-4.0", "none"),
        "vit_base_patch16_224.dino": ModelCard("apache-2.0", "none"),
        "vit_base_patch16_224.augreg_in21k": ModelCard("apache-2.0", "ImageNet-21k"),
        "vit_base_patch16_224": ModelCard("apache-2.0", "ImageNet-21k, ImageNet-1k"),
        "vit_base_patch16_siglip_224.webli": ModelCard("apache-2.0", "captions"),
        "vit_small_patch16_dinov3.lvd1689m": ModelCard("dinov3-license", "none"),
    }
    for model, card in cards.items():
        assert TimmImageConfig(model=model).card() == card
    assert TimmImageConfig(model="vit_tiny_patch16_224", checkpoint="mine.pth").card() == ModelCard()
    assert TimmImageConfig(model="vit_base_patch16_224.mae", checkpoint="mae.pth").card().non_commercial
    assert TimmImageConfig(model="test_vit", weights="random").card() is None


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "captions, ImageNet-12k, ImageNet-1k"),
        ("eva02_base_patch14_224.mim_in22k", "captions"),
        ("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", "captions, ImageNet-22k, ImageNet-1k"),
        ("deit3_base_patch16_224.fb_in22k_ft_in1k", "ImageNet-22k, ImageNet-1k"),
        ("vit_base_patch16_224.sam_in1k", "ImageNet-1k"),
        ("vit_huge_patch14_gap_224.in22k_ijepa", "none"),
        ("vit_pe_core_base_patch16_224.fb", "captions"),
        ("vit_base_patch16_lingbot.robbyant", "unknown"),
    ],
)
def test_labels_are_told_by_the_tag(name, labels):
    model, _, tag = name.partition(".")
    assert labels_of(model, tag) == labels


def test_the_normalisation_is_the_tags():
    for model in ("vit_base_patch16_224.mae", "vit_base_patch16_224.augreg_in21k", "vit_large_patch16_dinov3.sat493m"):
        spec, cfg = TimmImageConfig(model=model).encoder_spec(CLIP), timm.get_pretrained_cfg(model)
        assert (spec.mean, spec.std) == (tuple(cfg.mean), tuple(cfg.std))


def test_salt_teachers_lists_what_recipes_can_name():
    entries = [*TimmImageConfig.known_checkpoints(), *DinoConfig.known_checkpoints()]
    assert len({entry.checkpoint for entry in entries}) == len(entries) > 50
    for entry in entries:
        assert entry.key == "model"
        config = TimmImageConfig(model=entry.checkpoint)
        assert (config.architecture.dim, config.card()) == (entry.dim, entry.card)
    dino = {entry.checkpoint: entry for entry in DinoConfig.known_checkpoints()}
    assert dino["vit_small_patch14_reg4_dinov2.lvd142m"].grid == "1x37x37"
    assert dino["vit_small_plus_patch16_dinov3.lvd1689m"].size == "small_plus"
    assert not any("eupe" in name or "siglip" in name for name in dino)


def test_every_repository_is_a_name_that_the_hub_allows():
    from huggingface_hub.utils import validate_repo_id

    weights = [entry for name in all_models() for entry in published_weights(name).values()]
    assert len(weights) > 350
    for entry in weights:
        validate_repo_id(entry.repository)


def test_quickgelu_weights_meet_a_model_that_has_it():
    """timm's plain CLIP models load OpenAI's weights and compute another activation."""
    with pytest.raises(ValidationError, match=r"set model to vit_base_patch16_clip_quickgelu_224\.openai"):
        TimmImageConfig(model="vit_base_patch16_clip_224.openai")
    config = TimmImageConfig(model="vit_base_patch16_clip_quickgelu_224.openai")
    assert config.published.repository == "timm/vit_base_patch16_clip_224.openai"
    assert all(entry.instead is None for entry in published_weights("vit_base_patch16_clip_quickgelu_224").values())
    with torch.device("meta"):
        model = build_timm_image(TimmImageConfig(model=config.model, weights="random", layer=1), clip=CLIP).model
    assert type(model.blocks[0].mlp.act).__name__ == "QuickGELU"


# Identity.


def test_equal_teachers_have_equal_fingerprints(published, tmp_path):
    name = f"{SMALL}.lvd142m"
    other_path = tmp_path / "another_name.safetensors"
    other_path.symlink_to(published(name))

    def fingerprint(clip=CLIP, **settings):
        config = DinoConfig(**{"model": name, "checkpoint": str(published(name)), **settings})
        return identify("dino", config, video_inputs(clip)).fingerprint

    same = fingerprint()
    assert fingerprint(checkpoint=str(other_path)) == same
    assert fingerprint(model=SMALL, layer=12, norm="own_layer", size=112) == same
    others = [
        fingerprint(layer=11),
        fingerprint(prefix="class"),
        fingerprint(prefix="all"),
        fingerprint(size=98),
        fingerprint(norm="layer"),
        fingerprint(clip=ClipSpec(frames=4, size=112)),
    ]
    assert len({same, *others}) == 7


def test_a_directory_says_how_its_pixels_are_normalised(published, tmp_path):
    (tmp_path / "model.safetensors").symlink_to(published("test_vit.r160_in1k"))
    settings = {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    config = TimmImageConfig(model="test_vit", checkpoint=str(tmp_path))
    assert config.encoder_spec(CLIP).mean == (0.1, 0.2, 0.3)
    assert build_timm_image(config, clip=CLIP).spec.std == (0.4, 0.5, 0.6)
    assert list(config.weight_files()) == [tmp_path / "model.safetensors"]


# Mistakes.


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (TimmImageConfig, {"model": "vit_bass_patch16_siglip_224"}, "nearest names are vit_base_patch16_siglip_224"),
        (TimmImageConfig, {"model": "resnet50"}, "Swins, hybrids with convolutions"),
        (TimmImageConfig, {"model": "vit_base_patch16_224.nae"}, "weights 'nae' of vit_base_patch16_224, and there"),
        (TimmImageConfig, {"model": "vit_base_patch16_gap_224"}, "the hub holds no weights of vit_base_patch16_gap"),
        (TimmImageConfig, {"model": "test_vit", "weights": "random", "checkpoint": "x"}, "reads no checkpoint"),
        (TimmImageConfig, {"model": "vit_base_patch16_siglip_224", "prefix": "class"}, "has no class token"),
        (TimmImageConfig, {"model": "vit_base_patch16_siglip_224", "prefix": "all"}, "has tokens of patches alone"),
        (TimmImageConfig, {"model": "test_vit", "size": 100}, "patch of 16 pixels; choose 96 or 112"),
        (DinoConfig, {"model": "vit_base_patch16_siglip_224"}, 'has no DINO weights; set use = "timm_image"'),
        (
            DinoConfig,
            {"model": "vit_small_patch14_dinov3"},
            "choose one of vit_small_patch16_224, .*_7b_patch16_dinov3",
        ),
        (
            DinoConfig,
            {"model": "vit_base_patch16_224.mae"},
            "weights 'mae' of vit_base_patch16_224, and there are dino",
        ),
        (DinoConfig, {"model": "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m"}, "there are lvd1689m"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(config, settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_dino_takes_dinos_weights_of_a_shared_architecture():
    assert DinoConfig(model="vit_small_patch16_224").published.name == "vit_small_patch16_224.dino"
    assert set(dino_models()) < set(all_models())


def test_a_clip_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(GeometryError, match=r"clip\.size = 230 .* 14 pixels; choose 224 or 238 as the teacher's size"):
        DinoConfig(model=SMALL).token_spec(ClipSpec(size=230))
    assert DinoConfig(model=SMALL, size=224).token_spec(ClipSpec(size=230)).grid == Grid(16, 16, 16)


def test_weights_that_are_not_here_are_missing_with_the_command_that_gets_them():
    config = DinoConfig(model="vit_small_patch16_dinov3")
    (missing,) = config.missing()
    assert "vit_small_patch16_dinov3.lvd1689m are not on this machine" in missing.what
    assert "hf download timm/vit_small_patch16_dinov3.lvd1689m model.safetensors" in missing.fix
    with pytest.raises(MissingArtifact, match="cannot be downloaded"):
        build_dino(config, clip=CLIP)
    assert list(DinoConfig(weights="random").missing()) == []


def test_a_wrong_path_is_missing(tmp_path):
    config = DinoConfig(model=SMALL, checkpoint=str(tmp_path / "nothing.pth"))
    (missing,) = config.missing()
    assert "nothing.pth does not exist" in missing.what
    with pytest.raises(MissingArtifact, match="Name a file"):
        build_dino(config, clip=CLIP)


@pytest.mark.parametrize("contents", ["neither", "config"])
def test_a_directory_without_a_checkpoint_is_one_sentence(tmp_path, contents):
    if contents == "config":
        (tmp_path / "config.json").write_text("{}")
    config = DinoConfig(model=SMALL, checkpoint=str(tmp_path))
    assert list(config.missing()) == []
    with pytest.raises(CheckpointError, match="no config.json" if contents == "neither" else "has no weights"):
        config.token_spec(CLIP)


def test_a_truncated_file_is_one_sentence(published, hub_cache, tmp_path):
    name = f"{SMALL}.lvd142m"
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(published(name).read_bytes()[:-100])
    put_into_hub_cache(hub_cache, f"timm/{name}", torn)
    config = DinoConfig(model=name)
    assert list(config.missing()) == []
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        config.token_spec(CLIP)


@pytest.mark.parametrize(
    ("held", "named", "message"),
    [
        (f"{SMALL}.lvd142m", "vit_small_patch16_dinov3", f"patches of 14 pixels.*set model to {SMALL}, or"),
        (f"{SMALL}.lvd142m", "vit_small_patch14_dinov2", f"4 others.*set model to {SMALL}, or"),
        ("vit_small_patch16_dinov3.lvd1689m", SMALL, "no learned positions.*set model to vit_small_patch16_dinov3 or"),
        ("test_vit.r160_in1k", "vit_small_patch16_224", "6 blocks of width 64.*; name another file"),
    ],
)
def test_another_models_file_is_told_by_its_shapes(published, held, named, message):
    config = DinoConfig(model=named, checkpoint=str(published(held)))
    with pytest.raises(CheckpointError, match=f"is not {named}: it holds .*{message}"):
        config.encoder_spec(CLIP)


def test_a_video_models_file_is_told_by_its_shapes(tmp_path):
    file = tmp_path / "videomae.safetensors"
    save_file({"patch_embed.proj.weight": torch.zeros(384, 3, 2, 16, 16)}, file)
    with pytest.raises(CheckpointError, match=r"\(384, 3, 2, 16, 16\).*it is no image model"):
        DinoConfig(model="vit_small_patch16_224", checkpoint=str(file)).token_spec(CLIP)


@pytest.mark.parametrize("change", ["lacks", "has unknown", "has another shape for"])
def test_a_file_that_is_not_whole_is_refused(tmp_path, change):
    state, key = random_state("test_vit"), "blocks.1.attn.proj.bias"
    if change == "has unknown":
        state["blocks.1.attn.extra"] = torch.zeros(3)
    elif change == "lacks":
        del state[key]
    else:
        state[key] = state[key][:-1].clone()
    file = tmp_path / "changed.safetensors"
    save_file(state, file)
    config = TimmImageConfig(model="test_vit", checkpoint=str(file))
    message = rf"timm's test_vit: it {change} 1 weight \(blocks\.1\.attn\.(proj\.bias|extra)"
    with pytest.raises(CheckpointError, match=message):
        build_timm_image(config, clip=CLIP)
    if change != "has unknown":  # the other blocks tell, so the file's header is enough
        with pytest.raises(CheckpointError, match=message):
            config.token_spec(CLIP)


def test_positions_of_another_size_are_not_resampled_unasked(tmp_path):
    file = tmp_path / "larger.safetensors"
    save_file(random_state("test_vit", img_size=224), file)
    with pytest.raises(CheckpointError, match=r"positions for 14 x 14 patches, and not .* 10 x 10 patches"):
        TimmImageConfig(model="test_vit", checkpoint=str(file)).token_spec(CLIP)


@pytest.mark.parametrize(("changes", "what"), [({"img_size": 224}, "positions"), ({"patch_size": 20}, "patches")])
def test_other_layouts_are_not_resampled_either(tmp_path, changes, what):
    """timm's filter would, in the layout of OpenCLIP."""
    file = tmp_path / "open_clip.safetensors"
    save_file({f"visual.trunk.{key}": value for key, value in random_state("test_vit", **changes).items()}, file)
    with pytest.raises(CheckpointError, match=f"the {what} of .* are not those of test_vit"):
        build_timm_image(TimmImageConfig(model="test_vit", checkpoint=str(file)), clip=CLIP)


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "else.safetensors"
    save_file({"encoder.layer.weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"does not match timm's test_vit.*under encoder"):
        build_timm_image(TimmImageConfig(model="test_vit", checkpoint=str(file)), clip=CLIP)


def test_biases_are_never_dropped_in_silence(published, tmp_path):
    """DINOv3's authors write biases for all; timm's filter drops them for models without, whatever they are."""
    file = tmp_path / "dinov3.pth"
    torch.save(authors_dinov3(load_file(published("vit_small_patch16_dinov3_qkvb.lvd1689m"))), file)
    with pytest.raises(CheckpointError, match=r"has biases of queries .* set model to vit_small_patch16_dinov3_qkvb"):
        build_dino(DinoConfig(model="vit_small_patch16_dinov3", checkpoint=str(file)), clip=CLIP)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "evil.pth"
    torch.save({"model": print}, file)
    with pytest.raises(CheckpointError, match=r"wants to run builtins\.print"):
        DinoConfig(model=SMALL, checkpoint=str(file)).token_spec(CLIP)

"""Image teachers say what timm's models say of every frame; and the comparison notices every known mistake."""

from __future__ import annotations

import pytest
import torch
from image_oracles import (
    DinoV2Reference,
    Hooked,
    authors_dinov2,
    authors_dinov3,
    normalised,
    put_into_hub_cache,
    random_state,
    token_error,
    transformers_dinov3,
)
from safetensors.torch import load_file, save_file
from salt_vit import build_dino, build_timm_image
from salt_vit.image_config import DinoConfig, TimmImageConfig
from salt_vit.image_teacher import ImageTeacher
from torch.nn import functional
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from salt_toolkit import ClipSpec
from salt_toolkit.testing import TeacherContract, random_batch

LIMIT = 1e-5

DINO_CASES = {
    "vit_small_patch16_224.dino": (64, "drop"),
    "vit_small_patch14_dinov2.lvd142m": (56, "class"),
    "vit_small_patch14_reg4_dinov2.lvd142m": (56, "drop"),
    "vit_small_patch16_dinov3.lvd1689m": (64, "all"),
    "vit_small_patch16_dinov3_qkvb.lvd1689m": (80, "drop"),
}
OTHER_CASES = {
    "vit_base_patch16_siglip_224.webli": (64, "drop"),
    "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m": (64, "class"),
    "eva02_tiny_patch14_224.mim_in22k": (56, "all"),
    "vit_pe_core_tiny_patch16_384.fb": (64, "drop"),
    "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m": (64, "drop"),
    "vit_small_patch16_rope_mixed_224.naver_in1k": (48, "class"),
    "deit_tiny_distilled_patch16_224.fb_in1k": (64, "all"),
    "test_vit2.r160_in1k": (160, "all"),
    "test_vit3.r160_in1k": (64, "drop"),
}


class TestDino(TeacherContract):
    plugin = "salt_vit"
    section = {"use": "dino", "model": "vit_small_patch16_dinov3", "weights": "random", "layer": 3}


class TestDinoWithRegistersBeside(TeacherContract):
    plugin = "salt_vit"
    section = {
        "use": "dino",
        "model": "vit_small_patch14_reg4_dinov2",
        "weights": "random",
        "layer": [4, 2],
        "size": 42,
        "prefix": "all",
    }


class TestTimmImage(TeacherContract):
    plugin = "salt_vit"
    section = {"use": "timm_image", "model": "test_vit", "weights": "random", "prefix": "class", "norm": "own"}


class TestTimmImageWithoutPrefix(TeacherContract):
    plugin = "salt_vit"
    section = {"use": "timm_image", "model": "vit_pe_spatial_tiny_patch16_512", "weights": "random", "layer": [1, 6]}


def clip_of(size):
    return ClipSpec(frames=2, stride=1, size=size)


def compare(teacher, oracle, prefix):
    """The teacher's error against the hooked model's latents, and how far off each mistake would be."""
    batch = random_batch(clip_of(teacher.spec.size))
    found, how = teacher(batch), {"prefix": prefix, "own": teacher.norm == "own_layer"}
    error = token_error(found, oracle.latents(batch, **how))
    return error, {name: token_error(found, oracle.latents(batch, **how, mistake=name)) for name in oracle.mistakes}


@pytest.mark.parametrize(("name", "size", "prefix"), [(name, *how) for name, how in DINO_CASES.items()])
def test_dino_from_the_hubs_cache_says_what_timm_says_of_every_frame(published, hub_cache, name, size, prefix):
    config = DinoConfig(model=name, prefix=prefix)
    assert len(config.missing()) == 1
    put_into_hub_cache(hub_cache, config.published.repository, published(name))
    assert list(config.missing()) == []
    error, wrong = compare(build_dino(config, clip=clip_of(size)), Hooked(name, published(name), size), prefix)
    assert error <= LIMIT
    assert min(wrong.values()) > 100 * LIMIT, wrong


@pytest.mark.parametrize(("name", "size", "prefix"), [(name, *how) for name, how in OTHER_CASES.items()])
def test_image_models_from_a_file_say_what_timm_says_of_every_frame(published, name, size, prefix):
    config = TimmImageConfig(model=name, prefix=prefix, checkpoint=str(published(name)))
    error, wrong = compare(build_timm_image(config, clip=clip_of(size)), Hooked(name, published(name), size), prefix)
    assert error <= LIMIT
    assert min(wrong.values()) > 100 * LIMIT, wrong


def test_several_layers_come_in_the_recipes_order(published):
    name, batch = "vit_small_patch14_reg4_dinov2.lvd142m", random_batch(clip_of(42))
    file = published(name)

    def build(**settings):
        return build_dino(DinoConfig(model=name, checkpoint=str(file), **settings), clip=clip_of(42))

    several = build(layer=(-1, 2, 7))(batch)
    expected = Hooked(name, file, 42).latents(batch, layers=(12, 2, 7))
    assert token_error(several, expected) <= LIMIT
    mean = build(layer=(-1, 2, 7), join="mean")(batch)
    assert token_error(mean, expected.unflatten(-1, (3, -1)).mean(dim=-2)) <= LIMIT


@pytest.mark.parametrize("norm", ["none", "layer", "own", "own_layer"])
def test_the_norm_is_the_one_asked_for(published, norm):
    name, batch = "test_vit2.r160_in1k", random_batch(clip_of(160))
    config = TimmImageConfig(model=name, checkpoint=str(published(name)), norm=norm)
    teacher = build_timm_image(config, clip=clip_of(160))
    pixels = batch.clip * teacher.scale + teacher.shift
    (expected,) = teacher.hidden(pixels, teacher.layers)
    weights = load_file(published(name))
    if norm.startswith("own"):  # this model keeps it behind its mean, as fc_norm
        expected = functional.layer_norm(expected, (64,), weights["fc_norm.weight"], weights["fc_norm.bias"], 1e-6)
    if norm.endswith("layer"):
        expected = functional.layer_norm(expected, (64,), eps=1e-6)
    assert token_error(teacher(batch), expected) <= LIMIT


def test_a_clip_of_another_size_is_resized_for_the_teacher(published):
    name = "vit_small_patch16_224.dino"
    config = DinoConfig(model=name, checkpoint=str(published(name)), size=64, layer=2)
    large = random_batch(clip_of(96))
    small = build_dino(config, clip=clip_of(96))(large)
    assert small.shape == (2, 2 * 4 * 4, 384)
    flat = torch.full_like(large.tensors["clip"], 90)
    resized = build_dino(config, clip=clip_of(64))(large.with_tensors(clip=flat[:, :, :64, :64]))
    assert token_error(build_dino(config, clip=clip_of(96))(large.with_tensors(clip=flat)), resized) <= LIMIT


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_the_authors_dinov2_files_give_what_the_equations_give(tmp_path, name):
    state = authors_dinov2(random_state(name))
    file = tmp_path / "dinov2_pretrain.pth"
    torch.save(state, file)
    clip = ClipSpec(frames=1, stride=1, size=518)
    teacher = build_dino(DinoConfig(model=name, checkpoint=str(file), layer=2), clip=clip)
    batch = random_batch(clip, 1)
    pixels = normalised(batch.tensors["clip"][0], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = functional.layer_norm(DinoV2Reference(state, heads=6, depth=2)(pixels), (384,), eps=1e-6)
    assert token_error(teacher(batch), expected) <= LIMIT


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_patch16_dinov3"])
def test_the_authors_dinov3_files_give_what_timms_layout_gives(published, tmp_path, name, capsys):
    file = tmp_path / "dinov3_pretrain.pth"
    torch.save(authors_dinov3(load_file(published(f"{name}.lvd1689m"))), file)
    clip, settings = clip_of(48), {"model": name, "layer": 6}
    found, expected = (
        build_dino(DinoConfig(**settings, checkpoint=str(path)), clip=clip)(random_batch(clip))
        for path in (file, published(f"{name}.lvd1689m"))
    )
    assert token_error(found, expected) <= LIMIT
    assert capsys.readouterr().out == ""


def test_the_image_tower_of_an_openclip_file_is_taken_out(published, tmp_path):
    state, file = load_file(published("test_vit.r160_in1k")), tmp_path / "open_clip.safetensors"
    trunk = {f"visual.trunk.{key}": value for key, value in state.items() if not key.startswith("head.")}
    save_file({**trunk, "text.token_embedding.weight": torch.ones(9, 4), "logit_scale": torch.ones(1)}, file)
    found, expected = (
        build_timm_image(TimmImageConfig(model="test_vit", checkpoint=str(path)), clip=clip_of(48))(
            random_batch(clip_of(48))
        )
        for path in (file, published("test_vit.r160_in1k"))
    )
    assert torch.equal(found, expected)


@torch.no_grad()
def test_dinov3_is_what_transformers_computes(published):
    """Another library, with its own rotary positions."""
    name, size = "vit_small_patch16_dinov3_qkvb.lvd1689m", 80
    state = load_file(published(name))
    oracle = DINOv3ViTModel(DINOv3ViTConfig(num_register_tokens=4, image_size=size)).eval()
    oracle.load_state_dict(transformers_dinov3(state))
    clip = clip_of(size)
    batch = random_batch(clip)
    teacher = build_dino(DinoConfig(model=name, checkpoint=str(published(name))), clip=clip)
    pixels = normalised(batch.tensors["clip"].flatten(0, 1), teacher.spec.mean, teacher.spec.std)
    tokens = oracle(pixel_values=pixels).last_hidden_state[:, 5:]
    expected = functional.layer_norm(tokens, (384,), eps=1e-6).unflatten(0, (2, 2)).flatten(1, 2)
    assert token_error(teacher(batch), expected) <= LIMIT


def test_bfloat16_stays_close_to_float32(published):
    name = "vit_small_patch16_dinov3.lvd1689m"
    clip = clip_of(64)
    teacher, batch = build_dino(DinoConfig(model=name, checkpoint=str(published(name))), clip=clip), random_batch(clip)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = teacher(batch)
    assert rounded.dtype == torch.float32
    assert 1e-4 < token_error(rounded, teacher(batch)) < 0.05


def test_a_random_teacher_is_the_same_in_every_run():
    config, clip = TimmImageConfig(model="test_vit", weights="random"), clip_of(32)
    torch.manual_seed(1)
    first = build_timm_image(config, clip=clip)(random_batch(clip))
    torch.manual_seed(2)
    assert torch.equal(build_timm_image(config, clip=clip)(random_batch(clip)), first)


def test_what_is_not_needed_is_dropped(published):
    name = "vit_pe_core_tiny_patch16_384.fb"
    config = TimmImageConfig(model=name, checkpoint=str(published(name)), layer=5)
    teacher = build_timm_image(config, clip=clip_of(64))
    assert isinstance(teacher, ImageTeacher)
    assert len(teacher.model.blocks) == 5
    kept = {key.split(".")[1] for key, _ in teacher.named_parameters()}
    assert kept == {"patch_embed", "cls_token", "pos_embed", "norm_pre", "blocks", "norm"}


def test_a_classifier_of_ones_own_or_none_is_no_obstacle(tmp_path):
    batch, latents = random_batch(clip_of(32)), []
    state = random_state("test_vit", num_classes=7)
    for head in ("head.", "none"):
        file = tmp_path / f"{head}.safetensors"
        save_file({key: value for key, value in state.items() if head == "head." or not key.startswith("head.")}, file)
        config = TimmImageConfig(model="test_vit", checkpoint=str(file))
        latents.append(build_timm_image(config, clip=clip_of(32))(batch))
    assert token_error(*latents) <= LIMIT

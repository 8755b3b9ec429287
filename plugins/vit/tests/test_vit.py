"""The ViT student and the transformer predictor, against torch's own counters and timm's own images."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from make_model_table import TABLE
from make_model_table import model_table as counted_table
from pydantic import ValidationError
from salt_vit import build_timm_vit, build_transformer, student
from salt_vit.config import TimmViTConfig, TransformerPredictorConfig, model_table
from torch.utils.flop_counter import FlopCounterMode

from salt_toolkit import ClipSpec, Grid, MaskCounts, TokenSpec
from salt_toolkit.context import video_inputs
from salt_toolkit.contracts import ClipBatch, Mask
from salt_toolkit.testing import PredictorContract, StudentContract, random_batch

CLIP = ClipSpec(frames=4, stride=1, size=32)
SMALL = {"model": "vit_tiny_patch16_224", "dim": 24, "depth": 2, "heads": 3, "patch": 8}


class TestSmallStudent(StudentContract):
    plugin = "salt_vit"
    section = {"use": "timm_vit", **SMALL}


class TestLayerScaleStudent(StudentContract):
    plugin = "salt_vit"
    section = {"use": "timm_vit", "model": "vit_small_patch14_dinov2"}
    clip = ClipSpec(frames=4, stride=1, size=28)


class TestPredictor(PredictorContract):
    plugin = "salt_vit"
    section = {"use": "transformer", "dim": 24, "depth": 2, "heads": 2}


def meta_student(clip, **settings):
    config = TimmViTConfig(**settings)
    with torch.device("meta"):
        return config, build_timm_vit(config, clip=clip)


@pytest.mark.parametrize(
    ("model", "ratio"),
    [
        ("vit_tiny_patch16_224", 0.75),
        ("vit_small_patch16_224", 0.75),
        ("vit_base_patch16_224", 0.75),
        ("vit_base_patch16_224", 0.898),
    ],
)
def test_flops_are_torchs_to_the_digit(model, ratio):
    clip = ClipSpec()
    config, vit = meta_student(clip, model=model)
    spec = config.token_spec(clip)
    visible = 1568 - int(ratio * 1568)
    counts = MaskCounts(visible, 1568 - visible)
    predictor_config, teacher = TransformerPredictorConfig(), TokenSpec(spec.grid, 768)
    with torch.device("meta"):
        predictor = build_transformer(predictor_config, student=spec, teacher=teacher)
        batch = ClipBatch(("x",), {"clip": torch.zeros(1, 16, 224, 224, 3, dtype=torch.uint8)})
        mask = Mask(*(torch.zeros(1, n, dtype=torch.int64) for n in (counts.visible, counts.target)))
        with FlopCounterMode(display=False) as encoder_flops:
            tokens = vit(batch, mask.visible)
        with FlopCounterMode(display=False) as predictor_flops:
            predictor(tokens, mask)
    costs = config.cost(video_inputs(clip), visible), predictor_config.cost(spec, teacher, counts)
    assert costs[0].forward_flops == encoder_flops.get_total_flops()
    assert costs[1].forward_flops == predictor_flops.get_total_flops()


@pytest.mark.parametrize(
    "model", ["vit_small_patch16_18x2_224", "vit_so400m_patch14_siglip_224", "deit3_small_patch16_224"]
)
def test_unusual_models_are_counted_right_too(model):
    patch = model_table()[model]["patch"]
    clip = ClipSpec(frames=4, stride=1, size=4 * patch)
    config, vit = meta_student(clip, model=model)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        batch = ClipBatch(("x",), {"clip": torch.zeros(1, 4, clip.size, clip.size, 3, dtype=torch.uint8)})
        vit(batch, torch.zeros(1, 9, dtype=torch.int64))
    cost = config.cost(video_inputs(clip), 9)
    assert cost.forward_flops == counter.get_total_flops()
    assert cost.parameters == sum(parameter.numel() for parameter in vit.parameters())


@pytest.mark.slow
def test_the_table_is_what_the_installed_timm_builds():
    assert json.loads(TABLE.read_text(encoding="utf-8")) == counted_table()
    assert len(model_table()) > 140


def test_the_embedding_is_a_conv3d_over_the_normalised_clip():
    vit = build_timm_vit(TimmViTConfig(**SMALL), clip=CLIP)
    batch = random_batch(CLIP)
    mean, std = (torch.tensor(timm.get_pretrained_cfg("vit_tiny_patch16_224").to_dict()[k]) for k in ("mean", "std"))
    pixels = (batch.clip / 255 - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)
    expected = vit.embed.proj(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.embed(batch.clip), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [224, 160])
def test_inflated_weights_see_a_still_clip_as_the_image_model_sees_the_image(monkeypatch, size):
    torch.manual_seed(0)
    image_model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    monkeypatch.setattr(student, "_create", lambda config: image_model)
    clip = ClipSpec(frames=4, stride=1, size=size)
    vit = build_timm_vit(TimmViTConfig(model="vit_tiny_patch16_224", pretrained=True), clip=clip)
    picture = torch.randint(0, 256, (1, 1, size, size, 3), dtype=torch.uint8)
    still = ClipBatch(("x",), {"clip": picture.expand(1, 4, -1, -1, -1)})
    cfg = image_model.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = (picture[:, 0].permute(0, 3, 1, 2) / 255 - mean) / std
    expected = image_model.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    tokens = vit.embed(still.clip).reshape(1, 2, -1, 192)
    torch.testing.assert_close(tokens, expected.unsqueeze(1).expand_as(tokens), rtol=1e-4, atol=1e-4)
    positions = vit.positions.reshape(2, -1, 192)
    torch.testing.assert_close(positions[0], positions[1])
    if size == 224:
        torch.testing.assert_close(positions[0], image_model.pos_embed[0, 1:])
    assert vit.blocks is image_model.blocks


def test_recomputing_activations_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        vit = build_timm_vit(TimmViTConfig(**SMALL, grad_checkpointing=recompute), clip=CLIP).train()
        vit(random_batch(CLIP)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in vit.parameters() if parameter.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_narrow_students_begin_with_tokens_of_ordinary_size():
    vit = build_timm_vit(TimmViTConfig(**SMALL), clip=CLIP)
    qkv = vit.blocks[0].attn.qkv.weight
    assert qkv.std().item() == pytest.approx((2 / sum(qkv.shape)) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vit_bass_patch16_224"}, "the nearest names are vit_base_patch16_224"),
        ({"model": "vit_small_patch16_dinov3"}, "models with rotary positions"),
        (
            {"model": "vit_tiny_patch16_224", "pretrained": True, "dim": 96},
            "pretrained = true takes the model",
        ),
        ({"model": "vit_so400m_patch14_siglip_224", "depth": 3}, "are not plain"),
        ({"model": "vit_tiny_patch16_224", "dim": 96, "heads": 5}, "heads = 5; choose heads = 4 or 6"),
    ],
)
def test_students_that_cannot_be_are_refused_in_a_sentence(settings, message):
    with pytest.raises(ValidationError, match=message):
        TimmViTConfig(**settings)


def test_the_predictors_heads_must_divide_its_width():
    with pytest.raises(ValidationError, match="dim = 384 is not a multiple of heads = 7; choose heads = 6 or 8"):
        TransformerPredictorConfig(heads=7)


def test_the_predictors_mlps_have_a_width():
    with pytest.raises(ValidationError, match=r"mlp_ratio = 0.001 leaves MLPs of no width at dim = 384; choose"):
        TransformerPredictorConfig(mlp_ratio=0.001)
    spec = TokenSpec(Grid(1, 2, 2), 24)
    narrowest = TransformerPredictorConfig(dim=16, depth=1, heads=2, mlp_ratio=1 / 16)
    predictor = build_transformer(narrowest, student=spec, teacher=spec)
    cost = narrowest.cost(spec, spec, MaskCounts(visible=1, target=3))
    assert sum(parameter.numel() for parameter in predictor.parameters()) == cost.parameters


def test_only_its_place_tells_one_target_from_another():
    spec = TokenSpec(Grid(2, 4, 4), 24)
    torch.manual_seed(0)
    predictor = build_transformer(TransformerPredictorConfig(dim=24, depth=2, heads=2), student=spec, teacher=spec)
    visible, target = torch.arange(8).unsqueeze(0), torch.arange(8, 32).unsqueeze(0)
    tokens = torch.randn(1, 8, 24)
    order = torch.randperm(24)
    plain = predictor(tokens, Mask(visible, target))
    permuted = predictor(tokens, Mask(visible, target[:, order]))
    torch.testing.assert_close(permuted, plain[:, order], rtol=1e-4, atol=1e-5)
    assert plain.std(dim=1).min() > 1e-4


def test_the_last_block_leaves_out_only_what_nobody_reads():
    """The same latents and gradients as with every token asked in every block."""
    spec, wide = TokenSpec(Grid(2, 4, 4), 20), TokenSpec(Grid(2, 4, 4), 28)
    torch.manual_seed(0)
    predictor = build_transformer(TransformerPredictorConfig(dim=24, depth=3, heads=2), student=spec, teacher=wide)
    predictor.requires_grad_()
    mask = Mask(torch.arange(0, 32, 4).unsqueeze(0), torch.tensor([[1, 2, 3, 30, 31]]))
    tokens = torch.randn(1, 8, 20)
    latents = predictor(tokens, mask)
    ours = torch.autograd.grad(latents.square().sum(), list(predictor.parameters()))
    positions = predictor.positions
    together = torch.cat(
        [
            predictor.embed(tokens) + positions[:, mask.visible[0]],
            predictor.mask_token + positions[:, mask.target[0]],
        ],
        dim=1,
    )
    for block in predictor.blocks:
        together = together + block.attn(block.norm1(together))
        together = together + block.mlp(block.norm2(together))
    expected = predictor.head(predictor.norm(together[:, 8:]))
    theirs = torch.autograd.grad(expected.square().sum(), list(predictor.parameters()))
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_cost_of_every_model_of_the_table_is_what_is_built():
    """Models with the same blocks cost the same, so the shallowest with each kind of block is built."""
    deepest_first = sorted(model_table().items(), key=lambda item: -item[1]["depth"])
    kinds = {(row["dim"], row["block_parameters"], row["norm_parameters"]): name for name, row in deepest_first}
    assert len(kinds) > 40
    for model in kinds.values():
        clip = ClipSpec(frames=2, stride=1, size=3 * model_table()[model]["patch"])
        config, vit = meta_student(clip, model=model)
        with FlopCounterMode(display=False) as counter, torch.device("meta"):
            batch = ClipBatch(("x",), {"clip": torch.zeros(1, 2, clip.size, clip.size, 3, dtype=torch.uint8)})
            vit(batch, torch.zeros(1, 5, dtype=torch.int64))
        cost = config.cost(video_inputs(clip), 5)
        assert (model, cost.forward_flops) == (model, counter.get_total_flops())
        assert (model, cost.parameters) == (model, sum(parameter.numel() for parameter in vit.parameters()))


def test_changed_sizes_of_every_plain_model_are_counted_right():
    for model in {row["patch"]: name for name, row in model_table().items() if row["plain"]}.values():
        clip = ClipSpec(frames=2, stride=1, size=16)
        config, vit = meta_student(clip, model=model, dim=40, depth=2, heads=5, patch=8)
        assert config.cost(video_inputs(clip), 5).parameters == sum(parameter.numel() for parameter in vit.parameters())
        assert len(vit.blocks) == 2
        assert vit.blocks[0].attn.num_heads == 5

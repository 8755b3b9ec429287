"""FLOPs and parameters by arithmetic: against torch's own layers and counter, and against published figures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from salt_toolkit.assemble import build_dataset, build_method
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.context import video_inputs
from salt_toolkit.data.samples import collate
from salt_toolkit.flops import block_flops, block_parameters, linear_flops, linear_parameters, train_step_flops
from salt_toolkit.geometry import ClipSpec, Cost, MaskCounts
from salt_toolkit.recipe import load_recipe

CLIP = ClipSpec(frames=16, stride=2, size=224)
TOKENS = 1568
small = st.integers(1, 40)


def count(module, *tensors):
    """FLOPs that torch sees in a forward pass; on the meta device attention is two matrix products."""
    with FlopCounterMode(display=False) as counter:
        output = module(*tensors)
    return output, counter.get_total_flops()


def torch_block(heads, head_dim, mlp_dim):
    """torch's own pre-norm block, which shares no code with timm's or ours."""
    return nn.TransformerEncoderLayer(
        heads * head_dim, heads, mlp_dim, dropout=0.0, norm_first=True, batch_first=True, device="meta"
    )


@settings(deadline=None)
@given(small, st.integers(1, 4), st.integers(1, 12), small)
def test_a_block_is_what_torch_counts(tokens, heads, head_dim, mlp_dim):
    dim = heads * head_dim
    block = torch_block(heads, head_dim, mlp_dim)
    _, flops = count(block, torch.empty(1, tokens, dim, device="meta"))
    assert block_flops(tokens, dim, mlp_dim) == flops
    assert block_parameters(dim, mlp_dim) == sum(parameter.numel() for parameter in block.parameters())


@settings(deadline=None)
@given(small, small, small, st.booleans())
def test_a_linear_layer_is_what_torch_counts(tokens, inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta")
    _, flops = count(layer, torch.empty(tokens, inputs, device="meta"))
    assert linear_flops(tokens, inputs, outputs) == flops
    assert linear_parameters(inputs, outputs, bias=bias) == sum(p.numel() for p in layer.parameters())


def test_a_training_step_is_what_torch_counts_forward_and_backward():
    tokens, pixels, dim, mlp_dim = 9, 48, 24, 60
    student = nn.Sequential(nn.Linear(pixels, dim, device="meta"), torch_block(3, 8, mlp_dim))
    predictor = nn.Sequential(torch_block(2, 12, mlp_dim), nn.Linear(dim, 32, device="meta"))
    with FlopCounterMode(display=False) as counter:
        predictor(student(torch.empty(1, tokens, pixels, device="meta"))).sum().backward()
    block, embedding = block_flops(tokens, dim, mlp_dim), linear_flops(tokens, pixels, dim)
    costs = (
        Cost(parameters=0, forward_flops=embedding + block, input_flops=embedding),
        Cost(parameters=0, forward_flops=block + linear_flops(tokens, dim, 32)),
    )
    assert train_step_flops(*costs) == counter.get_total_flops()


RECIPE = """
[run]
name = "counted"
[clip]
frames = 4
size = 32
[dataset]
use = "toy_squares"
[teacher]
use = "pixels"
patch = 8
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
depth = 2
patch = 8
[predictor]
use = "transformer"
dim = 48
depth = 2
[masker]
use = "random"
[objective]
use = "mse"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 1
batch_size = 2
"""


@pytest.mark.parametrize(("fraction", "masks"), [(1.0, 1), (0.5, 1), (1.0, 3), (0.3, 2)])
def test_the_arithmetic_of_a_recipe_is_what_torch_counts_in_its_training_step(registry, tmp_path, fraction, masks):
    path = tmp_path / "counted.toml"
    path.write_text(RECIPE)
    overrides = [f"method.target_fraction={fraction}", f"method.masks_per_clip={masks}"]
    recipe = load_recipe(path, registry, overrides)
    facts = check_recipe(recipe).facts
    assert facts.teacher_gflops_per_clip == 0
    method, dataset = build_method(recipe, total_steps=1).train(), build_dataset(recipe)
    batch = method.prepare(collate([dataset.read(index, 0) for index in range(2)]), epoch=0, step=0)
    # Attention as two matrix products: fused kernels compute some of them again on the way back.
    with sdpa_kernel(SDPBackend.MATH):
        output, forward = count(method, batch)
        with FlopCounterMode(display=False) as counter:
            output.loss.backward()
    expected = facts.student_gflops_per_clip + facts.predictor_gflops_per_clip
    assert forward == round(2 * expected * 1e9)
    assert forward + counter.get_total_flops() == round(2 * facts.train_step_gflops_per_clip * 1e9)


# GFLOP of a clip: encoder's forward, predictor's forward, train step, train step with a predictor of depth 6; with
# every token embedded, and all tokens asked in the predictor's last block.
PUBLISHED = [
    ("tiny", 392, (6.50, 112.7, 356.6, 188.7)),
    ("tiny", 160, (2.86, 112.8, 345.9, 178.1)),
    ("small", 392, (21.3, 112.7, 400.3, 232.4)),
    ("small", 160, (9.12, 112.8, 363.9, 196.0)),
    ("base", 392, (75.95, 112.8, 562.7, 394.8)),
    ("base", 160, (31.8, 112.8, 430.3, 262.4)),
    ("large", 392, (256.8, 112.9, 1104.2, 936.3)),
    ("large", 160, (104.1, 112.9, 645.9, 478.1)),
]


@pytest.mark.parametrize(("size", "visible", "figures"), PUBLISHED)
def test_students_and_predictors_cost_the_published_figures(registry, size, visible, figures):
    student = registry.get("student", "timm_vit").component.config(model=f"vit_{size}_patch16_224")
    spec = student.token_spec(CLIP)
    assert spec.grid.num_tokens == TOKENS
    # The figures are of a teacher of width 768, ViT-B's.
    teacher = type(spec)(spec.grid, 768)
    counts = MaskCounts(visible, TOKENS - visible)
    encoder = student.cost(video_inputs(CLIP), visible)
    deep, shallow = (
        registry.get("predictor", "transformer").component.config(depth=depth).cost(spec, teacher, counts)
        for depth in (12, 6)
    )
    # What is left out here: the embedding of hidden tokens; and queries, projection, MLP and attention of the
    # visible ones in the last block, 384 wide.
    embedding = 2 * (TOKENS - visible) * 3 * 2 * 16**2 * spec.dim
    last_block = visible * (2 * 2 * 384**2 + 2 * 2 * 384 * 4 * 384 + 4 * TOKENS * 384)
    found = (
        encoder.forward_flops + embedding,
        deep.forward_flops + last_block,
        train_step_flops(encoder, deep) + 2 * embedding + 3 * last_block,
        train_step_flops(encoder, shallow) + 2 * embedding + 3 * last_block,
    )
    for flops, figure in zip(found, figures, strict=True):
        decimals = len(str(figure).partition(".")[2]) if figure < 100 else 1
        assert flops / 1e9 == pytest.approx(figure, abs=0.51 * 10**-decimals)


@pytest.mark.parametrize(("size", "millions"), [("tiny", 5.6), ("small", 21.9), ("base", 86.2), ("large", 303.9)])
def test_students_have_the_published_number_of_parameters(registry, size, millions):
    student = registry.get("student", "timm_vit").component.config(model=f"vit_{size}_patch16_224")
    # The published figures leave the table of positions out.
    positions = TOKENS * student.token_spec(CLIP).dim
    assert (student.cost(video_inputs(CLIP), 392).parameters - positions) / 1e6 == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize(
    ("name", "gigaflops"),
    [
        ("small-finetuned-kinetics", 113.8),
        ("base", 360.7),
        ("large", 1193.7),
        ("huge-finetuned-kinetics", 2382.0),
    ],
)
def test_teachers_cost_the_published_figures(registry, monkeypatch, tmp_path, name, gigaflops):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    teacher = registry.get("teacher", "videomae").component.config(checkpoint=f"MCG-NJU/videomae-{name}")
    assert teacher.cost(video_inputs(CLIP)).forward_flops / 1e9 == pytest.approx(gigaflops, abs=0.051)

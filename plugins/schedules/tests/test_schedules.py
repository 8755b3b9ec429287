"""A schedule is a pure function of the step: exact at its ends, equal to torch's own schedulers between."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from salt_schedules import build_constant, build_cosine, build_linear, build_warmup_cosine
from salt_schedules.config import ConstantConfig, CosineConfig, LinearConfig, WarmupCosineConfig

from salt_toolkit.contracts import Schedule
from salt_toolkit.errors import RecipeError

BUILDERS = {
    ConstantConfig: build_constant,
    LinearConfig: build_linear,
    CosineConfig: build_cosine,
    WarmupCosineConfig: build_warmup_cosine,
}

values = st.floats(-1e6, 1e6, allow_nan=False)
configs = st.one_of(
    st.builds(ConstantConfig, value=values),
    st.builds(LinearConfig, start=values, end=values),
    st.builds(CosineConfig, start=values, end=values),
    st.builds(
        WarmupCosineConfig,
        peak=st.floats(1, 1e6),
        floor=st.floats(0, 1),
        warmup_steps=st.integers(1, 500),
        start=st.floats(0, 1),
        horizon=st.floats(1, 10),
    ),
)


def build(config, total_steps: int) -> Schedule:
    return BUILDERS[type(config)](config, total_steps=total_steps)


def torch_rates(make_scheduler, rate: float, num_steps: int) -> list[float]:
    """What torch's optimiser reads at steps 0 to num_steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(num_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@given(config=configs, extra=st.integers(0, 2000), where=st.floats(0, 1), again=st.floats(0, 1))
def test_every_step_has_a_finite_value_that_never_changes(config, extra, where, again):
    total = getattr(config, "warmup_steps", 0) + 1 + extra
    schedule = build(config, total)
    step = round(where * total)
    value = schedule(step)
    schedule(round(again * total))
    assert math.isfinite(value)
    assert value == schedule(step) == build(config, total)(step)


@pytest.mark.parametrize("total", [1, 3, 7, 1000, 15834])
def test_ends_are_exact(total):
    assert build(ConstantConfig(value=0.05), total)(total) == 0.05
    for config in (LinearConfig(start=0.04, end=0.4), CosineConfig(start=0.04, end=0.4)):
        assert build(config, total)(0) == 0.04
        assert build(config, total)(total) == 0.4
        assert build(config, total)(total + 5) == 0.4
    warmup = total // 2
    schedule = build(WarmupCosineConfig(peak=1.5e-4, floor=3e-5, warmup_steps=warmup), total)
    assert schedule(0) == (0.0 if warmup else 1.5e-4)
    assert schedule(warmup) == 1.5e-4
    assert schedule(total) == schedule(total + 5) == 3e-5


def test_linear_is_torchs():
    expected = torch_rates(lambda opt: torch.optim.lr_scheduler.LinearLR(opt, 0.1, 0.7, total_iters=20), 2.0, 20)
    schedule = build(LinearConfig(start=0.2, end=1.4), 20)
    assert [schedule(step) for step in range(21)] == pytest.approx(expected, rel=1e-12)


def test_cosine_is_torchs():
    expected = torch_rates(lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 37, eta_min=0.04), 0.4, 37)
    schedule = build(CosineConfig(start=0.4, end=0.04), 37)
    assert [schedule(step) for step in range(38)] == pytest.approx(expected, rel=1e-12)


def test_warmup_cosine_is_torchs():
    def chain(optimizer):
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, 1.0, total_iters=10)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.1)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, fall], milestones=[10])

    schedule = build(WarmupCosineConfig(peak=0.8, floor=0.1, warmup_steps=10, start=0.2), 50)
    assert [schedule(step) for step in range(51)] == pytest.approx(torch_rates(chain, 0.8, 50), rel=1e-9)


def test_horizon_stretches_the_schedule_beyond_the_run():
    # V-JEPA: the cosine's length is 1.25 * 100 - 20 steps, of which the run sees 80.
    schedule = build(WarmupCosineConfig(peak=6.25e-4, floor=1e-6, warmup_steps=20, horizon=1.25), 100)
    left = (1 + math.cos(math.pi * 80 / 105)) / 2
    assert schedule(100) == pytest.approx(1e-6 + (6.25e-4 - 1e-6) * left, rel=1e-12)
    longer = build(WarmupCosineConfig(peak=6.25e-4, floor=1e-6, warmup_steps=20), 125)
    assert [schedule(step) for step in range(101)] == [longer(step) for step in range(101)]


@given(warmup=st.integers(0, 50), rest=st.integers(1, 50))
def test_warmup_cosine_rises_then_falls(warmup, rest):
    config = WarmupCosineConfig(peak=1.0, floor=0.1, warmup_steps=warmup)
    schedule = build(config, warmup + rest)
    values = [schedule(step) for step in range(warmup + rest + 1)]
    assert values[: warmup + 1] == sorted(values[: warmup + 1])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert max(values) == values[warmup] == 1.0


@pytest.mark.parametrize("total", [499, 500])
def test_a_warm_up_that_fills_the_run_is_refused(total):
    with pytest.raises(RecipeError, match=f"500 steps leaves no step .* run of {total}; choose at most {total - 1}"):
        build(WarmupCosineConfig(peak=1e-3, warmup_steps=500), total)


@pytest.mark.parametrize("config", [ConstantConfig(value=1.0), LinearConfig(start=0.0, end=1.0)])
def test_a_run_without_steps_is_refused(config):
    with pytest.raises(RecipeError, match="at least 1 step"):
        build(config, 0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"peak": 1e-4, "floor": 1e-3}, "floor = 0.001 is above peak = 0.0001"),
        ({"peak": 1e-4, "start": 1e-3, "warmup_steps": 5}, "start = 0.001 is above peak = 0.0001"),
        ({"peak": 1e-4, "start": 1e-5}, "start = 1e-05 has no effect without a warm-up"),
        ({"peak": 1e-4, "horizon": 0.5}, "greater than or equal to 1"),
        ({"peak": 1e-4, "warmup_steps": -1}, "greater than or equal to 0"),
        ({"peak": -1e-3}, r"peak\n +Input should be greater than or equal to 0"),
        ({"peak": 1e-4, "floor": -1e-5}, r"floor\n +Input should be greater than or equal to 0"),
        ({"peak": 1e-4, "start": -1e-5, "warmup_steps": 5}, r"start\n +Input should be greater than or equal to 0"),
        ({"peak": float("inf")}, "finite"),
        ({"peak": 1e-4, "warmup": 5}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        WarmupCosineConfig(**settings)

"""Losses equal torch's and numpy's own, whatever the precision around them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from salt_objectives import build_cosine, build_l1, build_mse, build_smooth_l1
from salt_objectives.config import LatentLossConfig, SmoothL1Config

from salt_toolkit import Grid, TokenSpec
from salt_toolkit.contracts import Objective
from salt_toolkit.errors import RunError

TEACHER = TokenSpec(Grid(2, 3, 2), 5)


def objective(target_norm: str = "none", **settings) -> Objective:
    return build_mse(LatentLossConfig(target_norm=target_norm, **settings), teacher=TEACHER)


def calibrate(standard: Objective, batches) -> None:
    for batch in batches:
        standard.observe(batch)
    standard.calibrate()


def latents(num_clips: int, seed: int = 0) -> torch.Tensor:
    """Channels of very different means and spreads, as in real teachers."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_clips, 12, 5, generator=generator)
    position = torch.linspace(-3, 3, 12)[:, None]
    spread = torch.tensor([1.0, 1e-2, 30.0, 0.5, 2.0])
    return noise * spread + torch.tensor([0.0, 100.0, -20.0, 1.0, 5.0]) + position


@pytest.mark.parametrize(
    ("build", "config", "expected"),
    [
        (build_mse, LatentLossConfig(), lambda p, t: np.mean((p - t) ** 2)),
        (build_l1, LatentLossConfig(), lambda p, t: np.mean(np.abs(p - t))),
        (
            build_smooth_l1,
            SmoothL1Config(beta=0.5),
            lambda p, t: np.mean(np.where(np.abs(p - t) < 0.5, (p - t) ** 2, np.abs(p - t) - 0.25)),
        ),
        (
            build_cosine,
            LatentLossConfig(),
            lambda p, t: np.mean(1 - np.sum(p * t, axis=-1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(t, axis=-1)),
        ),
    ],
    ids=["mse", "l1", "smooth_l1", "cosine"],
)
def test_losses_equal_their_equations(build, config, expected):
    torch.manual_seed(0)
    predicted, targets = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    loss = build(config, teacher=TEACHER)(predicted, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected(predicted.double().numpy(), targets.double().numpy()), rel=1e-5)


@pytest.mark.parametrize("build", [build_mse, build_l1, build_cosine])
def test_the_loss_is_float32_under_autocast(build):
    torch.manual_seed(0)
    loss_of = build(LatentLossConfig(), teacher=TEACHER)
    predicted = torch.randn(3, 4, 5).bfloat16().requires_grad_()
    targets = torch.randn(3, 4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(predicted, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == loss_of(predicted.float(), targets).item()
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().sum() > 0


def test_no_normalization_is_the_latents_in_float32():
    raw = latents(2).bfloat16()
    targets = objective("none").targets(raw)
    assert targets.dtype == torch.float32
    assert torch.equal(targets, raw.float())


def test_layer_normalization_is_over_each_tokens_numbers():
    raw = latents(4)
    array = raw.double().numpy()
    expected = (array - array.mean(-1, keepdims=True)) / np.sqrt(array.var(-1, keepdims=True) + 1e-6)
    assert objective("layer").calibration_clips == 0
    np.testing.assert_allclose(objective("layer").targets(raw).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("target_norm", "axes"), [("channel", (0, 1)), ("position", (0,))])
@pytest.mark.parametrize("batch_sizes", [[40], [1] * 40, [7, 30, 3]])
def test_statistics_are_numpys_whatever_the_batches(target_norm, axes, batch_sizes):
    raw = latents(40)
    standard = objective(target_norm, calibration_clips=40)
    assert standard.calibration_clips == 40
    calibrate(standard, raw.split(batch_sizes))
    array = raw.double().numpy()
    expected = (array - array.mean(axes)) / array.std(axes)
    # float32 holds 100 +- 0.01 to about 1e-5 of the 0.01.
    np.testing.assert_allclose(standard.targets(raw).numpy(), expected, rtol=1e-3, atol=2e-3)
    state = standard.state_dict()
    np.testing.assert_allclose(state["normalization.mean"].numpy(), array.mean(axes), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(state["normalization.std"].numpy(), array.std(axes), rtol=1e-6)


def test_the_spread_of_latents_far_from_zero_is_kept():
    # A sum of squares in float32 would find a spread of zero, or of 30, where it is 0.01.
    generator = torch.Generator().manual_seed(0)
    raw = 1000 + 0.01 * torch.randn(64, 12, 5, generator=generator, dtype=torch.float64)
    standard = objective("channel", calibration_clips=64)
    calibrate(standard, raw.split(8))
    np.testing.assert_allclose(standard.state_dict()["normalization.std"].numpy(), 0.01, rtol=0.1)


@pytest.mark.parametrize("target_norm", ["channel", "position"])
def test_a_channel_that_never_varies_does_not_blow_up(target_norm):
    raw = latents(40)
    raw[..., 1] = 0.1  # not exact in binary, so mean and value may differ by a rounding error
    standard = objective(target_norm, calibration_clips=40)
    calibrate(standard, [raw])
    assert standard.targets(raw)[..., 1].abs().max() < 1e-3
    later = raw.clone()
    later[..., 1] += 0.01
    assert standard.targets(later).abs().max() < 10


@pytest.mark.parametrize("statistics", ["calibration", "running"])
def test_a_position_that_never_varies_does_not_drown_the_others(statistics):
    """A corner that nothing visited so far, and something visits later."""
    raw = latents(40)
    raw[:, 3] = raw[:1, 3]
    if statistics == "running":
        standard = objective("position", statistics=statistics).train()
        standard.targets(raw)
        standard.eval()
    else:
        standard = objective("position", calibration_clips=40)
        calibrate(standard, [raw])
    assert standard.targets(raw).abs().max() < 6
    usual = raw.std(dim=0).mean(dim=0)  # of each channel, over the positions
    later = raw[:1].clone()
    later[:, 3] += usual
    # One usual deviation counts as ten, where nothing ever varied; not as thousands.
    expected = torch.full((5,), 10.0)
    expected[1] = 1e3 * usual[1] / usual.mean()  # a channel that hardly varies anywhere is held by the others
    torch.testing.assert_close(standard.targets(later)[0, 3], expected, rtol=0.03, atol=0.01)


def test_statistics_travel_in_the_state():
    raw = latents(40)
    first, second = objective("position", calibration_clips=40), objective("position", calibration_clips=40)
    calibrate(first, [raw])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.targets(raw), second.targets(raw))
    owner = torch.nn.ModuleDict({"objective": objective("position", calibration_clips=40)})
    owner.load_state_dict({f"objective.{name}": tensor for name, tensor in first.state_dict().items()})
    assert torch.equal(first.targets(raw), owner["objective"].targets(raw))


@pytest.mark.parametrize("target_norm", ["channel", "position", "phi_s"])
def test_use_before_calibration_is_an_error(target_norm):
    teacher = TokenSpec(Grid(2, 3, 2), 4)
    fresh, loaded = (build_mse(LatentLossConfig(target_norm=target_norm), teacher=teacher) for _ in range(2))
    loaded.load_state_dict(fresh.state_dict())
    for standard in (fresh, loaded):
        with pytest.raises(RunError, match="before its statistics were taken"):
            standard.targets(latents(2)[..., :4])


@pytest.mark.parametrize(
    ("batches", "sentence"),
    [
        ([], "got 0 clips, and needs at least 2"),
        ([latents(1)], "got 1 clips, and needs at least 2"),
        ([torch.ones(4, 12, 5)], "the same in all calibration clips"),
        ([torch.full((4, 12, 5), float("nan"))], "NaN or infinite"),
        ([torch.randn(4, 12, 6)], r"shape \(4, 12, 6\), where the teacher promises 2 x 3 x 2"),
    ],
    ids=["none", "one", "constant", "nan", "shape"],
)
def test_latents_that_cannot_be_standardized_are_refused(batches, sentence):
    standard = objective("position", calibration_clips=4)
    with pytest.raises(RunError, match=sentence):
        calibrate(standard, batches)
    with pytest.raises(RunError, match="before its statistics were taken"):
        standard.targets(latents(2))


@pytest.mark.parametrize("target_norm", ["none", "layer"])
def test_calibration_clips_without_effect_are_refused(target_norm):
    with pytest.raises(ValidationError, match="calibration_clips = 512 has no effect with target_norm"):
        LatentLossConfig(target_norm=target_norm, calibration_clips=512)
    config = LatentLossConfig(target_norm=target_norm)
    assert LatentLossConfig(**config.model_dump()) == config


@pytest.mark.parametrize("target_norm", ["none", "layer", "phi_s"])
def test_running_statistics_where_there_are_none_are_refused(target_norm):
    with pytest.raises(ValidationError, match=f"'running' does not work with target_norm = '{target_norm}'"):
        LatentLossConfig(target_norm=target_norm, statistics="running")


def test_running_statistics_want_no_calibration_clips():
    config = LatentLossConfig(target_norm="channel", statistics="running")
    assert build_mse(config, teacher=TEACHER).calibration_clips == 0
    assert LatentLossConfig(**config.model_dump()) == config
    with pytest.raises(ValidationError, match="calibration_clips = 512 has no effect with statistics = 'running'"):
        LatentLossConfig(target_norm="channel", statistics="running", calibration_clips=512)


def test_beta_must_be_positive():
    with pytest.raises(ValidationError, match="greater than 0"):
        SmoothL1Config(beta=0.0)


def test_targets_and_loss_compile_into_one_graph():
    """No wait for the device and no break: the calibration flag is not read from the device.

    In a process of its own: the run-time type checks of these tests would be compiled as well.
    """
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "same losses"


def compile_and_compare() -> None:
    """Run as a script: compiled and plain objectives give equal losses and statistics."""
    torch._dynamo.config.error_on_recompile = True
    calibrated = [{"target_norm": name} for name in ("none", "layer", "channel", "position", "phi_s")]
    running = [{"target_norm": name, "statistics": "running"} for name in ("channel", "position")]
    for settings in calibrated + running:
        torch._dynamo.reset()
        teacher = TokenSpec(Grid(2, 3, 2), 4)
        pair = [build_mse(LatentLossConfig(**settings), teacher=teacher).train() for _ in range(2)]
        if pair[0].calibration_clips:
            calibrate(pair[0], [latents(8)[..., :4]])
            pair[1].load_state_dict(pair[0].state_dict())
        steps = [lambda raw, predicted, one=one: one(predicted, one.targets(raw)) for one in pair]
        steps[0] = torch.compile(steps[0], fullgraph=True, backend="aot_eager")
        for seed in range(3):
            raw, predicted = latents(4, seed)[..., :4], torch.zeros(4, 12, 4)
            torch.testing.assert_close(*(step(raw, predicted) for step in steps))
        torch.testing.assert_close(*(one.state_dict() for one in pair))
    sys.stdout.write("same losses\n")


if __name__ == "__main__":
    compile_and_compare()

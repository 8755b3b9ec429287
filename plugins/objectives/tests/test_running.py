"""Running statistics: exact, saved, and untouched in evaluation mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from salt_objectives import build_mse
from salt_objectives.config import LatentLossConfig

from salt_toolkit import Grid, TokenSpec
from salt_toolkit.contracts import Objective
from salt_toolkit.errors import RunError

TEACHER = TokenSpec(Grid(2, 3, 2), 5)
AXES = {"channel": (0, 1), "position": (0,)}


def running(target_norm: str = "channel") -> Objective:
    return build_mse(LatentLossConfig(target_norm=target_norm, statistics="running"), teacher=TEACHER)


def latents(num_clips: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_clips, 12, 5, generator=generator)
    return noise * torch.tensor([1.0, 0.1, 30.0, 0.5, 2.0]) + torch.tensor([0.0, 100.0, -20.0, 1.0, 5.0])


@pytest.mark.parametrize("target_norm", AXES)
@pytest.mark.parametrize("batch_sizes", [[64], [1] * 64, [7, 30, 27]])
def test_statistics_are_numpys_over_all_that_was_met(target_norm, batch_sizes):
    raw = latents(64)
    objective = running(target_norm).train()
    for batch in raw.split(batch_sizes):
        objective.targets(batch)
    array, axes = raw.double().numpy(), AXES[target_norm]
    state = objective.state_dict()
    assert state["normalization.count"] == np.prod([array.shape[axis] for axis in axes])
    np.testing.assert_allclose(state["normalization.mean"], array.mean(axes), rtol=1e-5, atol=1e-5)
    std = (state["normalization.deviations"] / state["normalization.count"]).sqrt()
    np.testing.assert_allclose(std, array.std(axes), rtol=1e-3)
    objective.eval()
    # float32 holds 100 +- 0.1 to about 1e-5 of the 0.1.
    expected = (array - array.mean(axes)) / array.std(axes)
    np.testing.assert_allclose(objective.targets(raw), expected, rtol=1e-2, atol=2e-3)


def test_a_long_run_loses_no_digits():
    """Sums in float32 stand still once a batch is below their last digit."""
    objective = running().train()
    with torch.no_grad():
        objective.normalization.count.fill_(10**9)
        objective.normalization.deviations.fill_(1e9)
    objective.targets(torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)))
    grown = objective.state_dict()["normalization.deviations"] - 1e9
    assert (grown > 5).all() and (grown < 100).all()


def test_the_present_batch_counts():
    """So the first targets are standardised already."""
    raw = latents(8)
    targets = running().train().targets(raw)
    np.testing.assert_allclose(targets.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(targets.std((0, 1), correction=0), 1, rtol=1e-3)


def test_evaluation_changes_nothing():
    objective = running().train()
    objective.targets(latents(8))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.eval()
    first = objective.targets(latents(8, seed=1))
    assert torch.equal(first, objective.targets(latents(8, seed=1)))
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)


def test_a_loaded_state_goes_on_where_it_was():
    straight, broken = running().train(), running().train()
    straight.targets(latents(8))
    broken.load_state_dict(straight.state_dict())
    again = [objective.targets(latents(8, seed=1)) for objective in (straight, broken)]
    assert torch.equal(*again)
    torch.testing.assert_close(straight.state_dict(), broken.state_dict(), rtol=0, atol=0)


def test_evaluation_before_any_training_is_an_error():
    with pytest.raises(RunError, match="in evaluation mode before any training"):
        running().eval().targets(latents(2))


@pytest.mark.parametrize("target_norm", AXES)
def test_what_has_not_varied_yet_stays_finite(target_norm):
    objective = running(target_norm).train()
    assert torch.equal(objective.targets(latents(1)[:, :1].expand(1, 12, 5)), torch.zeros(1, 12, 5))
    raw = latents(8)
    raw[..., 1] = 0.1
    assert torch.isfinite(running(target_norm).train().targets(raw)).all()


def test_a_device_without_float64_gets_float32():
    def move(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return tensor.clone()

    objective = running().train()
    objective.targets(latents(8))
    objective._apply(move)
    assert objective.state_dict()["normalization.mean"].dtype == torch.float32
    assert torch.isfinite(objective.targets(latents(8))).all()

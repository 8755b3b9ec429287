"""PHI-S: variance 1 in every channel, and nothing stretched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from salt_objectives import build_mse
from salt_objectives.config import LatentLossConfig

from salt_toolkit import GeometryError, Grid, TokenSpec
from salt_toolkit.contracts import Objective
from salt_toolkit.errors import RunError

GRID, DIM = Grid(2, 3, 2), 20


def phi_s(dim: int = DIM) -> Objective:
    config = LatentLossConfig(target_norm="phi_s", calibration_clips=64)
    return build_mse(config, teacher=TokenSpec(GRID, dim))


def calibrated(raw: torch.Tensor, batch_size: int = 16) -> Objective:
    objective = phi_s(raw.shape[-1])
    for batch in raw.split(batch_size):
        objective.observe(batch)
    objective.calibrate()
    return objective


def rotation(seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def latents(seed: int = 0, num_clips: int = 64) -> torch.Tensor:
    """Correlated channels whose variances span six orders of magnitude, far from zero."""
    generator = np.random.default_rng(seed)
    spread = np.geomspace(1e-2, 10, DIM)
    raw = generator.standard_normal((num_clips, GRID.num_tokens, DIM)) * spread @ rotation(9)
    return torch.from_numpy(raw + 5 * generator.standard_normal(DIM)).float()


def covariance(values: torch.Tensor) -> np.ndarray:
    return np.cov(values.double().flatten(0, 1).numpy().T, bias=True)


def test_every_channel_has_mean_0_and_variance_1():
    raw = latents()
    targets = calibrated(raw).targets(raw)
    assert targets.dtype == torch.float32
    np.testing.assert_allclose(targets.double().mean((0, 1)).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(np.diag(covariance(targets)), 1, rtol=1e-4)


def test_nothing_is_stretched():
    """A rotation and one number: distances keep their proportions, so the variances of the axes do too."""
    raw = latents()
    targets = calibrated(raw).targets(raw)
    before, after = np.linalg.eigvalsh(covariance(raw)), np.linalg.eigvalsh(covariance(targets))
    phi = np.sqrt(before.mean())
    np.testing.assert_allclose(after[-8:], before[-8:] / phi**2, rtol=1e-4)
    distances = [torch.cdist(each[0].double(), each[0].double()) for each in (raw, targets)]
    torch.testing.assert_close(distances[1], distances[0] / phi, rtol=1e-4, atol=1e-4)


def test_it_is_the_papers_equation():
    raw = latents()
    found = calibrated(raw).state_dict()["normalization.rotation"].double().numpy()
    variances, axes = np.linalg.eigh(covariance(raw))
    # H = R phi U is a normalised Hadamard matrix, whatever the signs of the axes.
    hadamard = found @ axes * np.sqrt(variances.mean())
    np.testing.assert_allclose(np.abs(hadamard), 1 / np.sqrt(DIM), rtol=1e-3)
    # And those signs are settled: turned back by H, the rotation has each axis with its largest number positive.
    settled = _mixing().numpy().T @ found
    assert (np.take_along_axis(settled, np.abs(settled).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_a_rotation_of_the_latents_changes_signs_of_axes_at_most():
    raw = latents()
    turned = (raw.double() @ torch.from_numpy(rotation(3))).float()
    targets, others = calibrated(raw).targets(raw), calibrated(turned).targets(turned)
    np.testing.assert_allclose(np.diag(covariance(others)), 1, rtol=1e-4)
    # The same numbers up to signs of the principal axes: turned back by H, each axis is equal or opposite.
    axes = [each.double().flatten(0, 1) @ _mixing() for each in (targets, others)]
    agreement = (axes[0] * axes[1]).sum(0) / axes[0].square().sum(0)
    strong = axes[0].square().mean(0) > 1e-3
    np.testing.assert_allclose(agreement[strong].abs().numpy(), 1, rtol=1e-3)


def _mixing() -> torch.Tensor:
    from salt_objectives.hadamard import hadamard_matrix

    return torch.from_numpy(hadamard_matrix(DIM)).double() / DIM**0.5


def test_equal_variances_are_only_scaled():
    """Where no direction is special, PHI-S is a rotation of the plain standardisation."""
    white = torch.from_numpy(np.random.default_rng(0).standard_normal((768, DIM)))
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / len(white))).T
    raw = (7 * white + 3).float().reshape(64, GRID.num_tokens, DIM)
    targets = calibrated(raw).targets(raw)
    np.testing.assert_allclose(covariance(targets), np.eye(DIM), atol=1e-4)
    norms = [each.double().norm(dim=-1) for each in (raw - 3, targets)]
    torch.testing.assert_close(norms[1], norms[0] / 7, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_statistics_do_not_depend_on_the_batches(batch_size):
    raw = latents()
    torch.testing.assert_close(
        calibrated(raw, batch_size).state_dict(), calibrated(raw).state_dict(), rtol=1e-4, atol=1e-5
    )


def test_directions_without_any_variance_do_no_harm():
    """As after a LayerNorm, whose numbers always sum to zero."""
    raw = latents()
    raw = torch.nn.functional.layer_norm(raw, (DIM,))
    targets = calibrated(raw).targets(raw)
    np.testing.assert_allclose(np.diag(covariance(targets)), 1, rtol=1e-4)


def test_autocast_does_not_coarsen_the_targets():
    raw = latents()
    objective = calibrated(raw)
    expected = objective.targets(raw)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(objective.targets(raw), expected, rtol=0, atol=0)
        assert torch.equal(calibrated(raw).targets(raw), expected)


def test_a_width_without_a_matrix_is_refused():
    with pytest.raises(GeometryError, match="none of width 18 can be made here"):
        phi_s(18)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (torch.full((4, 12, DIM), 0.1), "the same in all calibration clips"),
        (torch.full((4, 12, DIM), float("nan")), "NaN or infinite"),
        (torch.zeros(1, 12, DIM), "got 1 clips, and needs at least 2"),
    ],
    ids=["constant", "nan", "one"],
)
def test_latents_without_statistics_are_refused(raw, sentence):
    with pytest.raises(RunError, match=sentence):
        calibrated(raw)

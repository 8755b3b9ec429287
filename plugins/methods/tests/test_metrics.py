"""What the metrics promise: 0 for the mean, 1 for perfection, and finite numbers always."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from salt_methods.metrics import explained_variance, mean_cosine


def targets(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 5, generator=generator) * 3 + torch.tensor([0.0, 10.0, -50.0, 1.0, 2.0])


def test_predicting_the_batch_mean_explains_exactly_nothing():
    wanted = targets()
    mean = wanted.mean(dim=(0, 1)).expand_as(wanted)
    assert explained_variance(mean, wanted) == 0


def test_a_perfect_prediction_explains_exactly_everything():
    assert explained_variance(targets(), targets()) == 1


def test_explained_variance_is_its_equation():
    wanted, predicted = targets(), targets() + torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    array, guess = wanted.double().numpy(), predicted.double().numpy()
    variance = np.mean((array - array.mean((0, 1))) ** 2)
    expected = 1 - np.mean((guess - array) ** 2) / variance
    assert explained_variance(predicted, wanted).item() == pytest.approx(expected, rel=1e-5)


def test_worse_than_the_mean_is_below_zero():
    assert explained_variance(-targets(), targets()) < 0


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e-30])
def test_targets_that_never_vary_leave_nothing_to_explain(value):
    wanted = torch.full((3, 4, 5), value)
    for predicted in (wanted, wanted + 1, torch.zeros(3, 4, 5)):
        assert explained_variance(predicted, wanted) == 0
        assert torch.isfinite(mean_cosine(predicted, wanted))


def test_a_small_spread_far_from_zero_still_counts():
    wanted = 100 + 0.01 * targets()
    assert explained_variance(wanted, wanted) == 1


def test_cosine_is_its_equation():
    predicted, wanted = targets(1), targets(2)
    guess, array = predicted.double().numpy(), wanted.double().numpy()
    cosine = np.sum(guess * array, -1) / np.linalg.norm(guess, axis=-1) / np.linalg.norm(array, axis=-1)
    assert mean_cosine(predicted, wanted).item() == pytest.approx(cosine.mean(), rel=1e-5)
    assert mean_cosine(7 * wanted, wanted).item() == pytest.approx(1, rel=1e-6)
    assert mean_cosine(-wanted, wanted).item() == pytest.approx(-1, rel=1e-6)
    assert mean_cosine(torch.zeros(3, 4, 5), wanted) == 0

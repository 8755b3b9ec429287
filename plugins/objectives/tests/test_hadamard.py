"""Hadamard matrices: entries 1 and -1, and rows orthogonal to one another, at every width that teachers have."""

from __future__ import annotations

import numpy as np
import pytest
from salt_objectives.config import LatentLossConfig
from salt_objectives.hadamard import hadamard_matrix, known_order

from salt_toolkit import GeometryError, Grid, TokenSpec

WIDTHS = (192, 384, 512, 768, 1024, 1152, 1280, 1408, 1536, 1664, 2048, 2560, 3072, 4096)
"""Of the encoders that teach, and of some of their layers side by side."""


def assert_hadamard(matrix, order):
    assert matrix.shape == (order, order)
    assert np.isin(matrix, (-1, 1)).all()
    # Sums of at most 4096 ones are exact in float32.
    whole = matrix.astype(np.float32)
    np.testing.assert_array_equal(whole @ whole.T, order * np.eye(order))


@pytest.mark.parametrize("order", WIDTHS)
def test_every_width_of_a_teacher(order):
    assert known_order(order)
    assert_hadamard(hadamard_matrix(order), order)


def test_an_order_is_known_if_and_only_if_a_matrix_is_made():
    # Beyond 2 there is none but at multiples of 4; 52 and 100 need fields of 25 and 49, and 92 another construction.
    for order in range(1, 101):
        assert known_order(order) == (order <= 2 or (order % 4 == 0 and order not in (52, 92, 100)))
        if known_order(order):
            assert_hadamard(hadamard_matrix(order), order)


def test_small_ones_are_the_ones_in_books():
    np.testing.assert_array_equal(hadamard_matrix(2), [[1, 1], [1, -1]])
    # Paley's first of order 4, from the squares modulo 3.
    np.testing.assert_array_equal(hadamard_matrix(4), [[1, 1, 1, 1], [-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]])


def test_a_width_without_a_matrix_is_refused_with_what_to_do():
    config = LatentLossConfig(target_norm="phi_s")
    config.check(TokenSpec(Grid(8, 14, 14), 768))
    with pytest.raises(GeometryError, match=r"none of width 770 .* choose target_norm = 'channel'"):
        config.check(TokenSpec(Grid(8, 14, 14), 770))
    LatentLossConfig(target_norm="channel").check(TokenSpec(Grid(8, 14, 14), 770))

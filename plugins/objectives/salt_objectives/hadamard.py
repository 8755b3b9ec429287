"""Hadamard matrices: square, of entries 1 and -1, with rows that are orthogonal to one another; no torch.

Made by the constructions of Sylvester (doubling) and of Paley (1933, from the squares of a prime field), which
together reach the width of every usual encoder.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int8


def known_order(order: int) -> bool:
    """Whether `hadamard_matrix` can make a matrix of this order; for the answer, nothing is built."""
    return _paley_prime(order) is not None or order in (1, 2) or (order % 2 == 0 and known_order(order // 2))


def hadamard_matrix(order: int) -> Int8[np.ndarray, "order order"]:
    """A matrix H of 1 and -1 with ``H @ H.T == order * identity``; always the same one.

    Args:
        order: One that `known_order` accepts.
    """
    prime = _paley_prime(order)
    if order == 1:
        return np.ones((1, 1), dtype=np.int8)
    if prime is None:
        half = hadamard_matrix(order // 2)
        return np.block([[half, half], [half, -half]])
    return _first_paley(prime) if order == prime + 1 else _second_paley(prime)


def _paley_prime(order: int) -> int | None:
    """The prime from which Paley's first or second construction makes this order."""
    if order % 4 == 0:
        if _is_prime(order - 1):  # it is 3 modulo 4
            return order - 1
        if _is_prime(order // 2 - 1) and order // 2 % 4 == 2:
            return order // 2 - 1
    return None


def _first_paley(prime: int) -> Int8[np.ndarray, "order order"]:
    """Of order ``prime + 1``, for a prime of 3 modulo 4: the identity and a skew conference matrix."""
    conference = _conference(prime)
    conference[1:, 0] = -1
    return conference + np.eye(prime + 1, dtype=np.int8)


def _second_paley(prime: int) -> Int8[np.ndarray, "order order"]:
    """Of order ``2 (prime + 1)``, for a prime of 1 modulo 4: a symmetric conference matrix in blocks."""
    conference, identity = _conference(prime), np.eye(prime + 1, dtype=np.int8)
    positive, negative = conference + identity, conference - identity
    return np.block([[positive, negative], [negative, -positive]])


def _conference(prime: int) -> Int8[np.ndarray, "order order"]:
    """Zero on the diagonal; elsewhere 1, or whether the difference of the places is a square modulo the prime."""
    character = np.full(prime, -1, dtype=np.int8)
    character[np.arange(1, prime, dtype=np.int64) ** 2 % prime] = 1
    character[0] = 0
    places = np.arange(prime, dtype=np.int64)
    matrix = np.ones((prime + 1, prime + 1), dtype=np.int8)
    matrix[0, 0] = 0
    matrix[1:, 1:] = character[(places[:, None] - places[None, :]) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))

"""Randomness as a pure function of its purpose, independent of worker, rank, batch and order."""

from __future__ import annotations

import hashlib

import numpy as np

Key = str | int


def seed_for(*key: Key) -> int:
    """A 64-bit seed that depends on every part of the key, the same on every machine.

    Args:
        key: What the randomness is for, such as ``(seed, "mask", epoch, clip_id)``.
    """
    # repr separates the parts: ("ab", "c") and ("a", "bc") must differ, and so must 1 and "1".
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def generator_for(*key: Key) -> np.random.Generator:
    """An independent generator for one purpose; see :func:`seed_for`."""
    return np.random.Generator(np.random.PCG64(seed_for(*key)))

"""Whole or nothing: whether a file holds exactly the weights of a model, by names and shapes; without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from salt_toolkit.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each weight, by its key."""

SHOWN = 6
"""How many keys an error lists before it says how many more there are."""


def require_whole(found: Shapes, wanted: Shapes, *, what: str, name: str, beside: Sequence[str] = ()) -> None:
    """Refuses a checkpoint in which a weight is missing, unknown or of another shape.

    Args:
        found: In the file, by the model's own keys.
        wanted: By the model.
        what: What the model is, for the error, such as "VideoMAE's base encoder".
        name: The checkpoint, as the recipe names it.
        beside: Regular expressions (matched at a key's start) of weights that published files hold
            besides the model, such as decoders.

    Raises:
        CheckpointError: With the keys, and what the file looks like instead.
    """
    given = without(found, beside)
    differing = [key for key in wanted.keys() & given.keys() if given[key] != wanted[key]]
    wrong = {
        "lacks": sorted(wanted.keys() - given.keys()),
        "has unknown": sorted(given.keys() - wanted.keys()),
        "has another shape for": sorted(f"{key} {given[key]} for {wanted[key]}" for key in differing),
    }
    differences = [f"{verb} {_listed(keys)}" for verb, keys in wrong.items() if keys]
    if differences:
        raise CheckpointError(
            f"{name} does not match {what}: it {'; it '.join(differences)}. Partial loading "
            f"would leave random weights; name another checkpoint. {looks_like(found)}"
        )


def without(found: Shapes, beside: Sequence[str]) -> Shapes:
    """Leaves out the keys that begin with one of some regular expressions."""
    ignored = re.compile("|".join(beside)) if beside else None
    return {key: shape for key, shape in found.items() if not (ignored and ignored.match(key))}


def looks_like(found: Shapes) -> str:
    """What a file holds, in a sentence, for errors."""
    tops = sorted({key.partition(".")[0] for key in found})
    numbers = sum(math.prod(shape) for shape in found.values())
    return f"The file holds {len(found)} weights ({numbers / 1e6:.1f} M numbers) under {', '.join(tops[:SHOWN])}"


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {'weight' if len(keys) == 1 else 'weights'} ({', '.join(keys[:SHOWN])}{more})"

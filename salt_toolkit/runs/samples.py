"""Whose samples a run learns from: enough to tell another list, or other files under the same names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salt_toolkit.contracts import Dataset, FileDataset
from salt_toolkit.errors import DataError
from salt_toolkit.recipe import Recipe
from salt_toolkit.seeding import generator_for

NUM_FILES = 64
"""Files that are compared; of 1,000 changed in 100,000, one is among them in half of all cases."""

ENDS = 1 << 16
"""Bytes of a file's beginning and end that are compared, besides its size."""


def samples_identity(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What decides the samples of a run, in plain values.

    Args:
        recipe: A valid recipe.
        dataset: Built from it; one that reads files is a `FileDataset`.

    Raises:
        DataError: A file cannot be read.
    """
    about = dict(recipe.dataset.config.identity(recipe.inputs()))
    identity = {
        "use": recipe.dataset.use,
        **about,
        "num_clips": len(dataset.clip_ids),
        "ids": _digest(dataset.clip_ids),
        "classes": _digest(dataset.class_names),
    }
    if isinstance(dataset, FileDataset):
        identity["files"] = _files_digest(dataset)
    return json.loads(json.dumps(identity))


def sample_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words; what only one side knows is not compared."""
    named = {
        "ids": "its clips have other ids, or another order",
        "classes": "its classes are others",
        "files": "its files hold something else",
    }
    return [
        named.get(key, f"{key} was {json.dumps(before[key])}, now {json.dumps(now[key])}")
        for key in before.keys() & now.keys()
        if before[key] != now[key]
    ]


def _files_digest(dataset: FileDataset) -> str:
    """Over size, beginning and end of some files, the same ones for the same list."""
    count = len(dataset.clip_ids)
    chosen = generator_for("files to compare", count).permutation(count)[:NUM_FILES]
    digest = hashlib.sha256()
    for index in sorted(chosen.tolist()):
        digest.update(_ends(dataset.path_of(index)))
    return f"sha256:{digest.hexdigest()[:16]}"


def _ends(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = file.read(ENDS)
            file.seek(max(0, size - ENDS))
            return f"{size}:".encode() + begin + file.read(ENDS)
    except (FileNotFoundError, IsADirectoryError):
        return b"missing"  # a bad clip; it has to stay one
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); see its permissions and its disk") from error


def _digest(names: Sequence[str]) -> str:
    text = json.dumps(list(names))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

"""The errors a user may meet. Each message says what was found, what was expected, and what to do."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class SaltError(Exception):
    """A mistake or a fault that the user can mend; the command line prints it without a traceback."""


class GeometryError(SaltError):
    """Numbers of frames, pixels, patches or tokens that do not fit together."""


class PluginError(SaltError):
    """A plugin that is missing, broken, or at odds with another one."""


def mistake_of_a_plugin(error: Exception) -> str:
    """What to tell of an error that a plugin did not mean to raise: what it is, and where it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    # A config's attribute that does not exist is missed by pydantic, on behalf of the plugin.
    place = next((frame for frame in reversed(frames) if "pydantic" not in Path(frame.filename).parts), frames[-1])
    return (
        f"the plugin made a mistake, not the recipe: {type(error).__name__}: {error} ({place.filename}, line "
        f"{place.lineno}); tell its authors"
    )


class MissingArtifact(SaltError):
    """Something that a recipe names is not on this machine: a data set, weights, an earlier run.

    Args:
        what: What is missing, with its path, as a clause ("the data set root /mnt/ssv2 does not exist").
        fix: What the user can do about it, as a sentence.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}. {fix}")
        self.what = what
        self.fix = fix


class CheckpointError(SaltError):
    """Weights that are not what they should be: torn, of another model, incomplete, or unsafe to load."""


class BadClip(SaltError):
    """One clip that cannot be used: unreadable, truncated, empty, too short.

    A dataset raises it; the loader records it and reads a deterministic replacement.

    Args:
        path: The file that was read.
        reason: Why it cannot be used, as a clause.
        fix: What helps if many clips have this fault, as a sentence; empty where only mending the files does.
    """

    def __init__(self, path: str, reason: str, fix: str = "") -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.fix = fix


class DataError(SaltError):
    """A data set as a whole that cannot be used, such as one with too many bad clips."""


class CacheError(SaltError):
    """A latent cache that is damaged, unfinished, of another teacher, or no cache at all."""


class RunError(SaltError):
    """A run directory that cannot be started, resumed or read."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        key: Dotted key, such as ``masker.ratio``; empty for the file as a whole.
        message: What was found, what is allowed, and the nearest valid name.
        file: The TOML file that holds the key, or ``--set`` for an override.
        line: Line number in that file, counted from 1; None when there is none.
    """

    key: str
    message: str
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.message) if part)


class RecipeError(SaltError):
    """Everything that is wrong with a recipe, all at once.

    Args:
        problems: At least one problem, in the order in which a reader meets them.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

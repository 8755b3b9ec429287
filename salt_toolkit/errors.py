"""The errors a user may meet. Each message says what was found, what was expected, and what to do.

Code decides by an error's class and fields, never by its words: those are made for people, here and in the
constructors' callers. `explain` turns any other exception into one of these.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SaltError(Exception):
    """A mistake or a fault that the user can fix; the command line prints it without a traceback.

    It survives pickling with all its fields, whatever arguments a subclass takes.

    Args:
        what: What was found, and what was expected.
        fix: What to do about it, as a sentence; "" where ``what`` says it.
    """

    def __init__(self, what: str = "", fix: str = "") -> None:
        super().__init__(f"{what}. {fix}" if fix else what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[SaltError], arguments: tuple[Any, ...], fields: Mapping[str, Any]) -> SaltError:
    """An error as it was pickled; its constructor, which may want other arguments than the message, is not called."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(fields)
    return error


class GeometryError(SaltError):
    """Numbers of frames, pixels, patches or tokens that do not fit together."""


class SettingError(SaltError, ValueError):
    """A rule between settings that does not hold; what validators of configs raise.

    Args:
        message: What was found, and what to do instead.
        fields: The settings that the rule is about. It is not asked while one of them is wrong in itself.
        leave_out: Those of them that the message advises to leave out; `salt check` then says how an inherited one
            is taken away.
    """

    def __init__(self, message: str, fields: Sequence[str] = (), leave_out: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.fields = (*fields, *(name for name in leave_out if name not in fields))
        self.leave_out = tuple(leave_out)


class PluginError(SaltError):
    """A plugin that is missing, broken, or at odds with another one."""


class PluginMistake(PluginError):
    """An exception that a plugin did not mean to raise.

    Args:
        error: What it raised.

    Attributes:
        kind: The exception's class.
        file: Where it was raised; "" if that is unknown.
        line: Line in that file, from 1.
    """

    def __init__(self, error: BaseException) -> None:
        self.kind = type(error).__name__
        self.file, self.line = _place_of(error)
        place = f" ({self.file}, line {self.line})" if self.file else ""
        super().__init__(
            f"the plugin made a mistake, not the recipe: {self.kind}: {message_of(error)}{place}; tell its authors"
        )


class MissingArtifact(SaltError):
    """Something that a recipe names is not on this machine: a data set, weights, an earlier run.

    Args:
        what: What is missing, with its path, as a clause ("the data set root /mnt/ssv2 does not exist").
        fix: What the user can do about it, as a sentence.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)


class CheckpointError(SaltError):
    """Weights that are not what they should be: torn, of another model, incomplete, or unsafe to load."""


class BadClip(SaltError):
    """One clip that cannot be used: unreadable, truncated, empty, too short.

    A dataset raises it; the loader records it and reads a deterministic replacement.

    Args:
        path: The file that was read.
        reason: Why it cannot be used, as a clause.
        fix: What helps if many clips have this fault, as a sentence; empty where only repairing the files does. It
            is no part of the message.
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


class RunConflict(RunError):
    """A run directory that holds something which the present recipe cannot continue.

    The fix names options of ``salt run``; whoever runs recipes by other means replaces it by what applies there.
    """


@dataclass(frozen=True)
class RecipeChange:
    """A key of a recipe that differs from the one its run began with.

    Attributes:
        key: Dotted key, such as ``masker.ratio``.
        before: The value that the run began with, as JSON; "absent" where there was none.
        now: The present value, likewise.
        allowed: Whether the run may go on all the same.
        note: Why not, where the key alone does not tell.
    """

    key: str
    before: str
    now: str
    allowed: bool
    note: str = ""

    def __str__(self) -> str:
        return f"{self.key}: was {self.before}, now {self.now}{f' ({self.note})' if self.note else ''}"


class RecipeChanged(RunConflict):
    """A run directory whose run began with another recipe.

    Args:
        directory: Of the run.
        changes: All keys that differ, those that may differ among them.
        fix: What to do, as a sentence.
    """

    def __init__(self, directory: Path, changes: Sequence[RecipeChange], fix: str) -> None:
        lines = "\n".join(f"  {change}{' (safe to change)' if change.allowed else ''}" for change in changes)
        super().__init__(f"{directory} holds a run of another recipe:\n{lines}\n{fix}")
        self.what = f"{directory} holds a run of another recipe:\n{lines}"
        self.fix = fix
        self.directory = directory
        self.changes = tuple(changes)


class SystemFault(SaltError):
    """What the operating system refused: a file without permission, a full disk, too many open files.

    Args:
        error: What was raised.
        path: What was read or written, where ``error`` does not know.

    Attributes:
        path: The file or directory; "" if that is unknown.
        reason: The system's words.
        errno: The system's number of the fault; None if there is none.
    """

    def __init__(self, error: OSError, path: Path | str | None = None) -> None:
        self.path = str(error.filename if error.filename is not None else path or "")
        self.reason = error.strerror or message_of(error)
        self.errno = error.errno
        super().__init__(f"{self.path}: {self.reason}" if self.path else self.reason, advice_on(error))


ADVICE: Mapping[int, str] = {
    errno.ENOENT: "Check the path.",
    errno.EACCES: "Fix the permissions, or choose another place.",
    errno.EPERM: "Fix the permissions, or choose another place.",
    errno.EROFS: "This file system is read-only: choose another place.",
    errno.ENOSPC: "Make room on that disk, or choose another.",
    errno.EDQUOT: "Your quota is used up: make room, or choose another disk.",
    errno.EFBIG: "This file system, or `ulimit -f`, allows no file as large: choose another place.",
    errno.EISDIR: "Name a file, not a directory.",
    errno.ENOTDIR: "A part of that path is a file, not a directory: choose another.",
    errno.EEXIST: "Something else has that name: choose another.",
    errno.ENOTEMPTY: "Something else has that name: choose another.",
    errno.ENXIO: "It is a pipe or a device, not a file: choose another.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "It is a symbolic link that leads back to itself: fix the link.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), or lower loader.workers.",
    errno.ENFILE: "This machine has too many files open: end other programs.",
    errno.ENOMEM: "End other programs, or lower train.batch_size and loader.prefetch.",
    errno.ESTALE: "The network disk has lost that file: mount it again, and repeat the command.",
    errno.EIO: "The disk or the network failed: look at it, and repeat the command.",
}
"""What to do about a fault of the operating system, by its number."""


def advice_on(error: OSError) -> str:
    """What to do about a fault of the operating system, as a sentence."""
    return ADVICE.get(error.errno or 0, "Look at that disk or that address, and repeat the command.")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        key: Dotted key, such as ``masker.ratio``; empty for the file as a whole.
        message: What was found, what is allowed, and the nearest valid name.
        file: The TOML file that holds the key, or ``--set`` for an override.
        line: Line number in that file, counted from 1; None when there is none.
        kind: What sort of problem. For a setting it is Pydantic's error type (``missing``, ``extra_forbidden``,
            ``string_type``, ...), or ``rule`` for a rule between settings. Else: ``component``, ``section``,
            ``remove``, ``override`` or ``file``.
        leave_out: Dotted keys that the message advises to leave out.
    """

    key: str
    message: str
    file: str = ""
    line: int | None = None
    kind: str = ""
    leave_out: tuple[str, ...] = ()

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


def explain(error: BaseException, path: Path | str | None = None) -> SaltError:
    """The error in the user's words, whoever raised it: the toolkit, the operating system or a plugin.

    A third party's code may raise anything, from `SystemExit` to the panic of a library in Rust, which is no
    `Exception`; whoever asks it catches `BaseException` and calls this.

    Args:
        error: What was raised.
        path: What was read or written, for an `OSError` that does not know.

    Returns:
        ``error`` itself where it is a `SaltError`; a `SystemFault` for an `OSError` or a `MemoryError`; else a
        `PluginMistake`.

    Raises:
        BaseException: ``error`` again, where it is not for anybody to explain: Ctrl-C, or a generator's end.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        raise error
    if isinstance(error, SaltError):
        return error
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, "out of memory")
    return SystemFault(error, path) if isinstance(error, OSError) else PluginMistake(error)


def message_of(error: BaseException) -> str:
    """An exception's words, even where a third party's class fails to give them."""
    try:
        return str(error)
    except Exception as unprintable:
        return f"(its message cannot be had: {type(unprintable).__name__})"


def _place_of(error: BaseException) -> tuple[str, int]:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "", 0
    # A config's attribute that does not exist is missed by pydantic, on behalf of the plugin.
    place = next((frame for frame in reversed(frames) if "pydantic" not in Path(frame.filename).parts), frames[-1])
    return place.filename, place.lineno or 0

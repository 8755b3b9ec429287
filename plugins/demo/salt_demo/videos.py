"""The demo's video set on disk: what `salt demo-data` writes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from av.error import FFmpegError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from salt_demo.motion import LABELS, write_motion_videos
from salt_toolkit.errors import DataError, SystemFault
from salt_toolkit.system.files import write_json

MANIFEST = "demo.json"


def write_demo_data(directory: Path, *, num_train: int, num_validation: int, seed: int) -> int:
    """Writes a labelled set of motion videos, with a progress line; what is there already stays.

    Args:
        directory: Gets ``train/<label>/*.mp4`` and ``validation/<label>/*.mp4``.
        num_train: Videos to train on.
        num_validation: Held-out videos, of other digits.
        seed: Decides every video.

    Returns:
        How many videos were written now.

    Raises:
        DataError: The directory holds something else, or cannot be written.
    """
    settings = {"labels": list(LABELS), "num_train": num_train, "num_validation": num_validation, "seed": seed}
    with _writing(directory):
        _claim(directory, settings)
    columns = (TextColumn("videos"), BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("ETA"))
    console = Console(stderr=True)
    shown = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with _writing(directory), shown as bar:
        task = bar.add_task("videos", total=None)
        return write_motion_videos(
            directory,
            num_train=num_train,
            num_validation=num_validation,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Tells of a disk that does not take what is written, in the user's words."""
    try:
        yield
    except (OSError, FFmpegError) as error:
        fault = SystemFault(OSError(error.errno, error.strerror), directory)
        raise DataError(
            f"{directory} cannot be written ({fault.reason})",
            f"{fault.fix} The same command continues where it stopped.",
        ) from error


def _claim(directory: Path, settings: dict[str, object]) -> None:
    """Marks the directory as a demo set with these settings, or refuses to mix two sets."""
    manifest = directory / MANIFEST
    if manifest.is_file():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{manifest} is damaged ({error}); delete {directory}, or name another") from error
        if found != settings:
            raise DataError(
                f"{directory} holds another demo set: {_differences(found, settings)}; name another directory"
            )
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DataError(f"{directory} is there and holds no demo set; name a new or empty directory")
    write_json(manifest, settings)


def _differences(found: object, wanted: dict[str, object]) -> str:
    """The settings that differ, in the words of ``salt demo-data``'s options."""
    if not isinstance(found, dict):
        return f"{MANIFEST} does not hold its settings"
    words = {"num_train": "--train", "num_validation": "--validation", "seed": "--seed"}
    told = [
        f"it was made with {option} {found.get(key)}, not {wanted[key]}"
        for key, option in words.items()
        if found.get(key) != wanted[key]
    ]
    if found.get("labels") != wanted["labels"]:
        told.append("its labels are those of another version of salt_toolkit")
    return "; ".join(told) or f"{MANIFEST} has settings that this version does not know"

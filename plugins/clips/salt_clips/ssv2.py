"""Something-Something v2 as it is shipped: JSON annotations, and a WebM file for each numbered clip. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from salt_clips.listing import Listing, Video
from salt_toolkit.errors import DataError

NUM_CLIPS = {"train": 168_913, "validation": 24_777, "test": 27_157}
"""The published sizes of the splits."""

VIDEOS = "20bn-something-something-v2"
"""Folder of the videos, as the archive unpacks."""

_ANNOTATION_FOLDERS = (".", "labels", "annotations")


def find_annotation(root: Path, name: str) -> Path | None:
    """The file ``<name>.json``, or its longer name, in the usual places below the root; None where it is not."""
    for folder in _ANNOTATION_FOLDERS:
        for file in (root / folder / f"{name}.json", root / folder / f"something-something-v2-{name}.json"):
            if file.is_file():
                return file
    return None


def find_videos(root: Path, videos: str | None) -> Path | None:
    """The folder of the videos: the named one, or the usual places; None where it is not."""
    if videos is not None:
        return root / videos if (root / videos).is_dir() else None
    for folder in (root / VIDEOS, root / "videos"):
        if folder.is_dir():
            return folder
    # A root that holds the videos themselves; the first one found is enough.
    return root if next(root.glob("*.webm"), None) else None


def count_clips(annotation: Path) -> int:
    """Number of clips in a split's annotation."""
    return len(_read_entries(annotation))


def list_ssv2(annotation: Path, labels: Path | None, videos: Path) -> Listing:
    """Joins a split's annotation with the table of classes.

    Args:
        annotation: ``train.json``, ``validation.json`` or ``test.json``.
        labels: ``labels.json``; None for the test split, whose clips have no labels.
        videos: Folder of the videos.

    Raises:
        DataError: A file that is not what Something-Something v2 ships.
    """
    number = {} if labels is None else _read_labels(labels)
    found: dict[str, Video] = {}
    for entry in _read_entries(annotation):
        clip_id = str(entry.get("id", "")) if isinstance(entry, dict) else ""
        if not clip_id.isdecimal():
            raise DataError(f'{annotation}: expected entries such as {{"id": "78687", ...}}, found {entry!r}')
        if clip_id in found:
            raise DataError(f"{annotation}: the id {clip_id} stands there twice")
        label = None
        if "template" in entry:
            template = str(entry["template"]).replace("[", "").replace("]", "")
            if template not in number:
                raise DataError(f"{annotation}: the template {template!r} of {clip_id} is not a class of {labels}")
            label = number[template]
        found[clip_id] = Video(clip_id, str(videos / f"{clip_id}.webm"), label, entry.get("label"))
    if not found:
        raise DataError(f"{annotation} lists no clips")
    return Listing(tuple(found.values()), tuple(number))


def _read_labels(file: Path) -> dict[str, int]:
    """Class numbers by name, in the order of the numbers."""
    table = _read_json(file)
    try:
        number = {name: int(value) for name, value in sorted(table.items(), key=lambda item: int(item[1]))}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f'{file}: expected {{"class name": "number", ...}}: {error}') from error
    if list(number.values()) != list(range(len(number))):
        raise DataError(f"{file}: the classes are not numbered 0 to {len(number) - 1}, each once")
    return number


def _read_entries(file: Path) -> list[Any]:
    entries = _read_json(file)
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a list of clips, found {type(entries).__name__}")
    return entries


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error

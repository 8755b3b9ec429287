"""Something-Something v2 as it is shipped: JSON annotations, and a WebM file for each numbered clip. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

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
    try:
        with os.scandir(root) as entries:
            return root if any(entry.name.endswith(".webm") for entry in entries) else None
    except OSError:
        return None


@dataclass(slots=True)
class _NumberedEntry:
    """All that counting needs of an entry."""

    id: Annotated[str, Field(pattern="^[0-9]+$")]


def count_clips(annotation: Path) -> int:
    """Number of clips in a split's annotation.

    Raises:
        DataError: The file is not what Something-Something v2 ships.
    """
    try:
        # The whole file is checked, and only the ids become objects of Python: a third of the usual time.
        entries = TypeAdapter(list[_NumberedEntry]).validate_json(_read_bytes(annotation))
        num_ids = len({entry.id for entry in entries})
    except ValidationError:
        entries, num_ids = [], 0
    # Unusual files, such as those with numbers for ids, and mistakes, which are reported as the listing reports them.
    return num_ids if num_ids == len(entries) > 0 else sum(1 for _ in _read_entries(annotation))


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
    start = os.path.join(videos, "")
    found: list[Video] = []
    for clip_id, entry in _read_entries(annotation):
        label = None
        if "template" in entry:
            template = str(entry["template"]).replace("[", "").replace("]", "")
            if template not in number:
                raise DataError(f"{annotation}: the template {template!r} of {clip_id} is not a class of {labels}")
            label = number[template]
        found.append(Video(clip_id, f"{start}{clip_id}.webm", label, entry.get("label")))
    return Listing(tuple(found), tuple(number))


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


def _read_entries(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry of a split's annotation, with its id."""
    entries = _read_json(file)
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a list of clips, found {type(entries).__name__}")
    if not entries:
        raise DataError(f"{file} lists no clips")
    seen: set[str] = set()
    for entry in entries:
        clip_id = str(entry.get("id", "")) if isinstance(entry, dict) else ""
        if not clip_id.isdecimal():
            raise DataError(f'{file}: expected entries such as {{"id": "78687", ...}}, found {entry!r}')
        if clip_id in seen:
            raise DataError(f"{file}: the id {clip_id} stands there twice")
        seen.add(clip_id)
        yield clip_id, entry


def _read_json(file: Path) -> Any:
    content = _read_bytes(file)
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error

"""Which videos there are, found without opening any: folders of classes, and list files. No torch here."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salt_toolkit.errors import DataError

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".webm", ".wmv", ".y4m"}
)
"""What a video's name may end in; upper or lower case."""

Delimiter = Literal["space", "comma"]


@dataclass(frozen=True)
class Video:
    """One video of a data set.

    Attributes:
        clip_id: Its name, unique in the data set and the same on every machine.
        path: Where it lies.
        label: Class number, if there is one.
        caption: Text, if there is one.
    """

    clip_id: str
    path: str
    label: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Listing:
    """All videos of one split, in a stable order, and the names of the classes."""

    videos: tuple[Video, ...]
    class_names: tuple[str, ...]


def list_folder(root: Path, split: str) -> Listing:
    """Lists ``root/<split>/<class>/**``; the class of a video is the first folder of its path.

    Videos may also lie straight in ``root/<split>``, all of them: then they have no class. Classes are
    numbered over the folders of all splits together, so that a number means the same in each of them.

    Raises:
        DataError: There are no videos, or some have a class and others have none.
    """
    folder = root / split
    names = sorted(f"{place}{name}" for place, found in _walk_videos(folder) for name in found)
    loose = [name for name in names if "/" not in name]
    if not names:
        found = ", ".join(sorted(entry.name for entry in _entries(str(folder)))[:5]) or "nothing"
        raise DataError(
            f"{folder} holds no videos; looked for {folder}/<class>/*{{{','.join(sorted(VIDEO_EXTENSIONS))}}} "
            f"and found {found}"
        )
    if loose and len(loose) < len(names):
        raise DataError(
            f"{folder} holds videos with a class ({next(name for name in names if '/' in name)}) and without "
            f"({loose[0]}); move the latter into a class folder"
        )
    classes = () if loose else _class_folders(root)
    number = {name: label for label, name in enumerate(classes)}
    base = os.path.join(folder, "")
    videos = tuple(Video(name, f"{base}{name}", number.get(name.partition("/")[0])) for name in names)
    return Listing(videos, classes)


def count_folder(root: Path, split: str) -> int:
    """How many videos `list_folder` lists, at a small part of its cost.

    Raises:
        DataError: As there.
    """
    num_loose = num_classed = 0
    for place, found in _walk_videos(root / split):
        if place:
            num_classed += len(found)
        else:
            num_loose += len(found)
    if (num_loose > 0) == (num_classed > 0):
        # A mistake, and the listing says which.
        return len(list_folder(root, split).videos)
    return num_loose + num_classed


def _class_folders(root: Path) -> tuple[str, ...]:
    splits = (split for split in _entries(str(root)) if not split.name.startswith(".") and _is_folder(split))
    folders = (entry for split in splits for entry in _entries(split.path))
    return tuple(sorted({entry.name for entry in folders if not entry.name.startswith(".") and _is_folder(entry)}))


def _walk_videos(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """All that is named like a video and is not hidden, folder by folder.

    Yields:
        A folder's posix path relative to ``folder``, with a slash behind it, empty for the folder itself; and the
        names of the videos straight in it.
    """
    top = os.path.realpath(folder)
    here = Path(os.path.abspath(folder))
    # Beside each folder, where it really lies, and where those above it do: a link to one of them would be walked
    # for ever.
    pending = [("", top, frozenset((top, *(os.path.realpath(parent) for parent in (here, *here.parents)))))]
    while pending:
        place, real, above = pending.pop()
        found: list[str] = []
        for entry in _entries(os.path.join(folder, place)):
            name = entry.name
            if name.startswith("."):
                continue
            if _is_folder(entry):
                really = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, name)
                if really not in above:
                    pending.append((f"{place}{name}/", really, above | {really}))
            elif name[name.rfind(".") :].lower() in VIDEO_EXTENSIONS:
                found.append(name)
        yield place, found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds; nothing where there is none.

    Raises:
        DataError: It may not be read, so that nobody knows how many videos it hides.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"the folder {folder.rstrip('/')} cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def list_file(pattern: Path, split: str, *, root: Path, labels: bool, delimiter: Delimiter) -> Listing:
    """Reads a list of videos, one a line, as V-JEPA, VideoMAE and UniFormer use them.

    Args:
        pattern: The list; ``{split}`` in it stands for the split. Class names are collected from the
            lists of all splits, so that a number means the same in each of them.
        split: Which list to read.
        root: Folder that relative paths start from.
        labels: Whether a label ends each line.
        delimiter: "space": the label is what follows the last blank, so paths may hold blanks.
            "comma": columns ``path,label`` with the usual quotes, and perhaps a heading.

    Raises:
        DataError: A line without path or label, a path twice, labels of two kinds, or no lines.
    """
    rows = _read_rows(_file_of(pattern, split), labels, delimiter)
    classes = _class_names(pattern, rows, delimiter) if labels else ()
    number = {name: label for label, name in enumerate(classes)}
    base = os.path.abspath(root)
    videos: list[Video] = []
    for (_, name, label), path in zip(rows, _paths(rows, base), strict=True):
        within = path.startswith(base + os.sep)
        clip_id = path[len(base) + 1 :].replace(os.sep, "/") if within else name
        videos.append(Video(clip_id, path, number[label] if labels else None))
    return Listing(tuple(videos), classes)


def count_file(pattern: Path, split: str, *, root: Path, labels: bool, delimiter: Delimiter) -> int:
    """How many videos `list_file` lists, at a part of its cost; the arguments are the same.

    Raises:
        DataError: As there.
    """
    rows = _read_rows(_file_of(pattern, split), labels, delimiter)
    if labels:
        _class_names(pattern, rows, delimiter)
    return len(_paths(rows, os.path.abspath(root)))


def _file_of(pattern: Path, split: str) -> Path:
    return Path(str(pattern).replace("{split}", split))


_Row = tuple[str, str, str]
"""Where it stands (file:line), the path as written, the label as written."""


def _paths(rows: Sequence[_Row], base: str) -> list[str]:
    """Where each row's video lies, no two in one place."""
    start = os.path.join(base, "")
    paths = [_join(start, name) for _, name, _ in rows]
    if len(set(paths)) < len(paths):
        line_of: dict[str, str] = {}
        for (place, name, _), path in zip(rows, paths, strict=True):
            if path in line_of:
                raise DataError(f"{place}: {name} stands already at {line_of[path]}; remove one of the two")
            line_of[path] = place
    return paths


def _join(start: str, name: str) -> str:
    # Nearly every name is plain, and the general way takes many times as long.
    is_plain = not (name[0] == "/" or name[-1] in "/." or "./" in name or "//" in name)
    return f"{start}{name}" if is_plain else os.path.normpath(os.path.join(start, name))


def _read_rows(file: Path, labels: bool, delimiter: Delimiter) -> list[_Row]:
    try:
        # newline="" leaves line ends inside quotes to the csv module; the BOM of some editors is dropped.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            read = _comma_rows if delimiter == "comma" else _space_rows
            rows = list(read(file, lines, labels))
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file in UTF-8: {error.reason} at byte {error.start}") from error
    except csv.Error as error:
        raise DataError(f"{file} is not a table of comma-separated values: {error}") from error
    if not rows:
        raise DataError(f"{file} lists no videos")
    return rows


def _space_rows(file: Path, lines: Iterator[str], labels: bool) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        place, line = f"{file}:{number}", line.strip()
        if not line:
            continue
        if not labels:
            yield place, line, ""
            continue
        path, label = (["", *line.rsplit(maxsplit=1)])[-2:]
        has_comma = "," in label or ("," in path and Path(path).suffix.lower() not in VIDEO_EXTENSIONS)
        if has_comma or not path:
            hint = 'delimiter = "comma" reads `path,label`' if "," in line else "labels = false reads bare paths"
            raise DataError(f"{place}: expected a path, a space and a label, found {line!r}; {hint}")
        yield place, path, label


def _comma_rows(file: Path, lines: Iterator[str], labels: bool) -> Iterator[_Row]:
    table = csv.reader(lines, strict=True, skipinitialspace=True)
    for position, row in enumerate(table):
        place = f"{file}:{table.line_num}"
        cells = [cell.strip() for cell in row]
        if not any(cells) or (position == 0 and _is_heading(cells)):
            continue
        if len(cells) != 1 + labels or not all(cells):
            wanted = "a path and a label" if labels else "a path alone (labels = false)"
            raise DataError(
                f"{place}: expected {wanted}, found {len(cells)} columns: {','.join(row)!r}; "
                "a path that holds a comma needs quotes"
            )
        yield place, cells[0], cells[1] if labels else ""


def _is_heading(cells: Sequence[str]) -> bool:
    return cells[0].lower() in {"path", "file", "filename", "video", "video_path", "name"}


def _class_names(pattern: Path, rows: Sequence[_Row], delimiter: Delimiter) -> tuple[str, ...]:
    """The names of all labels, by number: the labels themselves where they are numbers."""
    rows = list(rows)
    for other in sorted(glob.glob(glob.escape(str(pattern)).replace("{split}", "*"))):
        if not rows[0][0].startswith(f"{other}:"):
            rows += _read_rows(Path(other), True, delimiter)
    # A list has many lines and few labels.
    labels = {label for _, _, label in rows}
    numbers = {label for label in labels if label.removeprefix("-").isdecimal()}
    if not numbers:
        return tuple(sorted(labels))
    if len(numbers) < len(labels):
        place, _, label = next(row for row in rows if row[2] not in numbers)
        other, _, number = next(row for row in rows if row[2] in numbers)
        raise DataError(f"{place}: the label {label!r} is a name, but {other} has the number {number}")
    wrong = {label for label in numbers if int(label) < 0 or str(int(label)) != label}
    if wrong:
        place, path, label = next(row for row in rows if row[2] in wrong)
        raise DataError(
            f"{place}: {label} is not a class number (0, 1, 2, ...); for VideoMAEv2's `path 0 -1`, "
            f"keep the path ({path.split()[0]}) and set labels = false"
        )
    return tuple(str(label) for label in range(1 + max(int(label) for label in numbers)))

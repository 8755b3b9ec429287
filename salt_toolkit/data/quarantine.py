"""The book of bad clips: which, where, why; and when there are too many of them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from salt_toolkit.errors import BadClip, DataError
from salt_toolkit.system.files import writing

EARLY_LOOK = 200
"""Clips read before the share of bad ones among them is taken for the share in the whole dataset."""


class Quarantine:
    """Records bad clips in a file, one JSON object a line, and stops the run above a share.

    Clips that the file already names (from an earlier start of the run) stay out without being
    read again, so that a resumed run sees the clips that an uninterrupted one would have seen.

    Args:
        file: ``bad_clips.jsonl`` of the run; None keeps the book in memory only.
        others: Books that other processes of the run have written.
        num_clips: Clips in the dataset.
        max_fraction: Largest share of bad clips.

    Attributes:
        reasons: Why each bad clip cannot be used, by its id.
        num_found: Bad clips that this process has found since it began.

    Raises:
        DataError: Earlier starts have found too many, or a line of a book is none of these.
    """

    def __init__(self, file: Path | None, *, num_clips: int, max_fraction: float, others: Sequence[Path] = ()) -> None:
        self.file = file
        self.num_clips = num_clips
        self.max_fraction = max_fraction
        self.reasons: dict[str, str] = {}
        self._fixes: set[str] = set()
        self.num_found = 0
        self._num_read = 0
        self._lock = threading.Lock()
        for book in (*others, *([file] if file is not None else ())):
            self.reasons |= _read_book(book)
        if self.reasons:
            self._fixes.add("")
        if len(self.reasons) > max_fraction * num_clips:
            raise DataError(self._too_many("those of earlier starts"))

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.reasons

    def count_read(self, number: int = 1) -> None:
        """Counts clips that were read, good or bad."""
        with self._lock:
            self._num_read += number

    def record(self, clip_id: str, bad: BadClip) -> None:
        """Enters a bad clip, once.

        Raises:
            DataError: The share of bad clips is above the limit, or the book cannot be written.
        """
        with self._lock:
            if clip_id in self.reasons:
                return
            self.reasons[clip_id] = bad.reason
            self._fixes.add(bad.fix)
            self.num_found += 1
            if self.file is not None:
                self._write(self.file, {"clip_id": clip_id, "path": bad.path, "reason": bad.reason})
            of_all = len(self.reasons) / self.num_clips
            # Those of earlier starts were read by earlier starts.
            of_read = self.num_found / self._num_read if self._num_read >= EARLY_LOOK else 0.0
        if max(of_all, of_read) > self.max_fraction:
            raise DataError(self._too_many(f"the last one: {bad}"))

    def _write(self, file: Path, entry: dict[str, str]) -> None:
        with writing(file, DataError), file.open("ab+") as book:
            if book.tell() and not _ends_a_line(book):
                book.write(b"\n")  # a kill has cut the line before short
            book.write(_line_of(entry))

    def _too_many(self, which: str) -> str:
        several = len(self.reasons) > 1
        mend = "" in self._fixes  # some of them have come without advice
        mended = "; delete the lines of clips that were mended" if mend else ""
        where = [f"{'They are' if several else 'It is'} listed in {self.file}{mended}."] if self.file else []
        last = "Mend the files, or raise loader.max_bad_fraction." if mend else "Or raise loader.max_bad_fraction."
        found = f"{len(self.reasons)} bad clip{'s' * several}, of {self.num_clips} in the data set"
        allowed = f"loader.max_bad_fraction = {self.max_fraction:g} allows ({which})."
        what = f"{found} ({self._num_read} read), {'are' if several else 'is'} more than {allowed}"
        return " ".join([what, *where, *sorted(self._fixes - {""}), last])


def _read_book(file: Path) -> dict[str, str]:
    """Reasons by clip; a line that a kill cut short is left out."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); mend its rights, or delete it") from error
    reasons: dict[str, str] = {}
    # Only the line feed ends a line here; str.splitlines knows others, which may stand in a clip's id.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("clip_id", "reason")):
            raise DataError(
                f'{file}:{number}: expected {{"clip_id": "...", "path": "...", "reason": "..."}}, '
                f"found {line.strip()}; mend or delete the line"
            )
        reasons[entry["clip_id"]] = entry["reason"]
    return reasons


def _line_of(entry: dict[str, str]) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a name whose bytes are no UTF-8: escaped, it is read back as it is
        return json.dumps(entry).encode() + b"\n"


def _ends_a_line(book: BinaryIO) -> bool:
    book.seek(-1, os.SEEK_END)
    return book.read(1) == b"\n"

"""The book of bad clips: which, where, why; and when there are too many of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from salt_toolkit.errors import BadClip, DataError
from salt_toolkit.files import read_lines

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
    """

    def __init__(self, file: Path | None, *, num_clips: int, max_fraction: float, others: Sequence[Path] = ()) -> None:
        self.file = file
        self.num_clips = num_clips
        self.max_fraction = max_fraction
        self.reasons: dict[str, str] = {}
        self._num_read = 0
        self._lock = threading.Lock()
        for book in (*others, *([file] if file is not None else ())):
            self.reasons |= {entry["clip_id"]: entry["reason"] for entry in read_lines(book)}

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.reasons

    def count_read(self) -> None:
        """Counts one clip that was read, good or bad."""
        with self._lock:
            self._num_read += 1

    def record(self, clip_id: str, bad: BadClip) -> None:
        """Enters a bad clip, once.

        Raises:
            DataError: The share of bad clips is above the limit.
        """
        with self._lock:
            if clip_id in self.reasons:
                return
            self.reasons[clip_id] = bad.reason
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as book:
                    entry = {"clip_id": clip_id, "path": bad.path, "reason": bad.reason}
                    book.write(json.dumps(entry, ensure_ascii=False) + "\n")
            num_bad = len(self.reasons)
            of_all = num_bad / self.num_clips
            of_read = num_bad / self._num_read if self._num_read >= EARLY_LOOK else 0.0
        if max(of_all, of_read) > self.max_fraction:
            raise DataError(self._too_many(num_bad, bad))

    def _too_many(self, num_bad: int, last: BadClip) -> str:
        where = f" They are listed in {self.file}." if self.file is not None else ""
        return (
            f"{num_bad} bad clips among {self._num_read} read ({self.num_clips} in the dataset) are more than "
            f"loader.max_bad_fraction = {self.max_fraction:g} allows. The last one: {last}.{where} "
            f"Mend the files, or raise loader.max_bad_fraction."
        )

"""The bad-clip log: which clips, where, why; and when there are too many."""

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
"""Clips to read before their share of bad clips counts as an estimate for the dataset."""


class Quarantine:
    """Records bad clips in a file, one JSON object per line, and stops the run if their share is too high.

    Clips already in the file (from an earlier start of the run) are excluded without being read again, so that a
    resumed run sees the same clips as an uninterrupted one.

    Args:
        file: ``bad_clips.jsonl`` of the run; None keeps the log in memory only.
        others: Logs written by the run's other processes.
        num_clips: Clips in the dataset.
        max_fraction: Largest share of bad clips.

    Attributes:
        reasons: Why each bad clip cannot be used, by its id.
        num_found: Bad clips that this process has found since it started.

    Raises:
        DataError: Earlier starts found too many, or a line of a log is malformed.
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
        for log in (*others, *([file] if file is not None else ())):
            self.reasons |= _read_log(log)
        if self.reasons:
            self._fixes.add("")
        if len(self.reasons) > max_fraction * num_clips:
            raise DataError(self._too_many("those of earlier starts"))

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.reasons

    def count_read(self, number: int = 1) -> None:
        """Counts clips that were read, whether good or bad."""
        with self._lock:
            self._num_read += number

    def record(self, clip_id: str, bad: BadClip) -> None:
        """Records a bad clip, once.

        Raises:
            DataError: The share of bad clips is above the limit, or the log cannot be written.
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
            # Bad clips of earlier starts are not among the clips this process has read.
            of_read = self.num_found / self._num_read if self._num_read >= EARLY_LOOK else 0.0
        if max(of_all, of_read) > self.max_fraction:
            raise DataError(self._too_many(f"the last one: {bad}"))

    def _write(self, file: Path, entry: dict[str, str]) -> None:
        with writing(file, DataError), file.open("ab+") as log:
            if log.tell() and not _ends_a_line(log):
                log.write(b"\n")  # a kill truncated the previous line
            log.write(_line_of(entry))

    def _too_many(self, which: str) -> str:
        several = len(self.reasons) > 1
        fixable = "" in self._fixes  # some came without advice, so the file itself may be at fault
        fixed = "; delete the lines of clips that you have fixed" if fixable else ""
        where = [f"{'They are' if several else 'It is'} listed in {self.file}{fixed}."] if self.file else []
        last = "Fix the files, or raise loader.max_bad_fraction." if fixable else "Or raise loader.max_bad_fraction."
        found = f"{len(self.reasons)} bad clip{'s' * several}, of {self.num_clips} in the data set"
        allowed = f"loader.max_bad_fraction = {self.max_fraction:g} allows ({which})."
        what = f"{found} ({self._num_read} read), {'are' if several else 'is'} more than {allowed}"
        return " ".join([what, *where, *sorted(self._fixes - {""}), last])


def _read_log(file: Path) -> dict[str, str]:
    """Reasons by clip; a line that a kill truncated is skipped."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); fix its permissions, or delete it") from error
    reasons: dict[str, str] = {}
    # Not str.splitlines: it also splits at characters that can occur in a clip's id.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("clip_id", "reason")):
            raise DataError(
                f'{file}:{number}: expected {{"clip_id": "...", "path": "...", "reason": "..."}}, '
                f"found {line.strip()}; fix or delete the line"
            )
        reasons[entry["clip_id"]] = entry["reason"]
    return reasons


def _line_of(entry: dict[str, str]) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, it survives a round trip
        return json.dumps(entry).encode() + b"\n"


def _ends_a_line(log: BinaryIO) -> bool:
    log.seek(-1, os.SEEK_END)
    return log.read(1) == b"\n"

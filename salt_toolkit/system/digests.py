"""Digests of the files that samples come from, each computed once."""

from __future__ import annotations

import hashlib
import os
import threading

DIGEST_BYTES = 16


def digest_of(path: str) -> str:
    """The blake2b of a file's bytes, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()


class Digests:
    """Computes digests of files; of one that many samples come from only once, until it changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()

    def of(self, path: str) -> tuple[int, str]:
        """Size and digest of a file."""
        status = os.stat(path)
        key = (path, status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = digest_of(path)
            with self._lock:
                self._known[key] = known
        return status.st_size, known

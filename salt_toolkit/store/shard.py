"""A shard: one safetensors file with the streams of some clips, checksums and all; no torch.

The file is the unit of commitment. It is written beside its name, synced and renamed, so that a
reader finds a whole shard or none. Its header is the only place that says what is in it:

- one tensor for each stream, of shape (rows, ...), rows in the order of the lists below;
- ``__metadata__["salt"]``: JSON with the format, the layer's fingerprint, the shard's number, its
  clips' ids, views, places in the cache, labels, captions and sources, one crc32 for each row and
  stream, clips that could not be used, and constants of the streams' encoding;
- ``__metadata__["crc32"]``: of the header's bytes with these eight digits as zeros.

The header is padded with blanks to a multiple of 4,096 bytes, so rows start on a page.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salt_toolkit.errors import CacheError
from salt_toolkit.store.row import BadRow, Row, StoredRows

FORMAT = 2
"""Of base, layers and shards alike."""

PAGE = 4096
MAX_HEADER = 64 << 20
"""Longer headers are taken for damage before anything is allocated."""

DTYPE_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "BF16": 2,
    "F16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
"""Bytes of a number, by safetensors' names."""

_NO_CRC = "0" * 8


@dataclass(frozen=True)
class Stream:
    """One named tensor of every clip.

    Attributes:
        name: Such as ``latents`` or ``clip``.
        dtype: As safetensors names it.
        shape: Of one clip's tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one clip's tensor."""
        return DTYPE_BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class ShardHeader:
    """All that a shard says of itself.

    Attributes:
        fingerprint: Of the layer that it belongs to.
        number: The shard's number within the layer.
        streams: What each row consists of.
        rows: The clips, in the order of the rows.
        bad: Clips that should be here and could not be used.
        constants: What decodes the streams, by stream.
    """

    fingerprint: str
    number: int
    streams: tuple[Stream, ...]
    rows: Sequence[Row]
    bad: tuple[BadRow, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)

    def keys(self) -> Iterator[tuple[str, int]]:
        """Id and view of each row, without making rows."""
        if isinstance(self.rows, StoredRows):
            return zip(self.rows.ids, self.rows.views, strict=True)
        return ((row.clip_id, row.view) for row in self.rows)

    def classes(self) -> Sequence[str]:
        """The names of its rows' classes, without making rows."""
        if isinstance(self.rows, StoredRows):
            return self.rows.classes or ()
        return sorted({row.label for row in self.rows if isinstance(row.label, str)})

    def places(self) -> set[int]:
        """Places in the cache of all clips that are done with, usable or not."""
        rows = self.rows
        indices = rows.indices if isinstance(rows, StoredRows) else (row.index for row in rows)
        return {*indices, *(bad.index for bad in self.bad)}

    def encode(self, room: int = 0) -> bytes:
        """The header as it stands at the file's beginning.

        Args:
            room: Bytes to fill at least; a multiple of 4,096.
        """
        entries: dict[str, Any] = {"__metadata__": {"salt": self._salt(), "crc32": _NO_CRC}}
        offset = 0
        for stream in self.streams:
            end = offset + len(self.rows) * stream.row_bytes
            shape = [len(self.rows), *stream.shape]
            entries[stream.name] = {"dtype": stream.dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        size = max(room, -(-(8 + len(text)) // PAGE) * PAGE)
        text = text.ljust(size - 8)
        crc = f"{zlib.crc32(text):08x}"
        place = text.index(b'"crc32":"' + _NO_CRC.encode())
        text = text[: place + 9] + crc.encode() + text[place + 17 :]
        return struct.pack("<Q", len(text)) + text

    def _salt(self) -> str:
        crcs = ["".join(f"{row.checksums[column]:08x}" for row in self.rows) for column in range(len(self.streams))]
        values: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "number": self.number,
            "streams": [stream.name for stream in self.streams],
            "ids": [row.clip_id for row in self.rows],
            "views": [row.view for row in self.rows],
            "indices": [row.index for row in self.rows],
            "crc32": crcs,
        }
        for name in ("label", "caption", "source"):
            column = [getattr(row, name) for row in self.rows]
            if any(value is not None for value in column):
                values[f"{name}s"] = column
        names = sorted({label for label in values.get("labels", ()) if isinstance(label, str)})
        if names:
            # By name, so that a class that comes later shifts no label; each name once.
            numbers = {name: number for number, name in enumerate(names)}
            values |= {"classes": names, "labels": [numbers.get(label) for label in values["labels"]]}
        if self.bad:
            values["bad"] = [[bad.clip_id, bad.view, bad.index, bad.reason] for bad in self.bad]
        if self.constants:
            values["constants"] = dict(self.constants)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def decode_header(text: bytes, name: str) -> ShardHeader:
    """Reads a header's JSON, without the eight bytes before it.

    Raises:
        CacheError: It is damaged, or of another kind or format.
    """
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__")
        crc = metadata["crc32"]
        place = text.index(b'"crc32":"' + crc.encode()) + 9
        if zlib.crc32(text[:place] + _NO_CRC.encode() + text[place + 8 :]) != int(crc, 16):
            raise ValueError("its checksum is wrong")
        salt = json.loads(metadata["salt"])
        if salt["format"] != FORMAT:
            raise CacheError(
                f"{name} has the cache format {salt['format']}, and this salt reads {FORMAT}; "
                "recreate the cache, or use the salt that made it"
            )
        return _header(entries, salt)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(f"{name} has a damaged header ({error}); drop it with `salt cache repair`") from error


def _header(entries: Mapping[str, Any], salt: Mapping[str, Any]) -> ShardHeader:
    streams = tuple(Stream(name, entries[name]["dtype"], tuple(entries[name]["shape"][1:])) for name in salt["streams"])
    rows = StoredRows(
        salt["ids"],
        salt["views"],
        salt["indices"],
        salt["crc32"],
        **{name: salt.get(name) for name in ("labels", "classes", "captions", "sources")},
    )
    count = len(rows)
    columns = (rows.views, rows.indices, rows.labels, rows.captions, rows.sources)
    if any(column is not None and len(column) != count for column in columns) or any(
        len(hexes) != 8 * count for hexes in rows.checksums
    ):
        raise ValueError("its lists differ in length")
    bad = tuple(BadRow(*values) for values in salt.get("bad", ()))
    return ShardHeader(salt["fingerprint"], salt["number"], streams, rows, bad, salt.get("constants", {}))


class ShardFile:
    """What a committed shard says of itself, and where its rows lie.

    Args:
        path: Of the file, or its name where ``read`` reads it.
        size: Bytes of the file; with ``read``.
        read: Gives bytes of the file, by offset and length; the local file by default.

    Attributes:
        header: What it says of itself.
        checksum: crc32 of the header's text, as eight hexadecimal digits. The header holds the checksums of
            all rows, so this tells whether two shards are the same.
        offsets: Where each stream begins in the file, and where the file ends.

    Raises:
        CacheError: The file is torn, damaged, or no shard.
    """

    def __init__(
        self, path: Path | str, *, size: int | None = None, read: Callable[[int, int], bytes] | None = None
    ) -> None:
        self.path = path
        if size is None or read is None:
            with open(path, "rb", buffering=0) as file:
                self._read_header(os.fstat(file.fileno()).st_size, lambda at, n: os.pread(file.fileno(), n, at))
        else:
            self._read_header(size, read)

    def _read_header(self, size: int, read: Callable[[int, int], bytes]) -> None:
        length = struct.unpack("<Q", read(0, 8).ljust(8, b"\xff"))[0]
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise CacheError(f"{self.path} is torn or no shard: its header claims {length} of {size} bytes; {_REPAIR}")
        text = read(8, length)
        self.header = decode_header(text, str(self.path))
        self.checksum = f"{zlib.crc32(text):08x}"
        self.offsets = offsets(self.header.streams, len(self.header.rows), start=8 + length)
        if size != self.offsets[-1]:
            raise CacheError(f"{self.path} has {size} bytes, and its header promises {self.offsets[-1]}; {_REPAIR}")

    def place(self, stream: int, row: int) -> tuple[int, int]:
        """Where a row of a stream begins in the file, and how many bytes it has."""
        length = self.header.streams[stream].row_bytes
        return self.offsets[stream] + row * length, length


_REPAIR = "drop it with `salt cache repair`"


def offsets(streams: Sequence[Stream], rows: int, *, start: int) -> list[int]:
    """Where each stream begins in a file whose rows begin at ``start``, and where the file ends."""
    found = [start]
    for stream in streams:
        found.append(found[-1] + rows * stream.row_bytes)
    return found

"""The manifest of a layer: whose streams it holds, in clear, and how its clips are spread over shards; no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from salt_toolkit.errors import CacheError
from salt_toolkit.store.shard import FORMAT, Stream
from salt_toolkit.system.files import sync

BASE = "cache.json"
LAYER = "layer.json"
SHARDS = "shards"
PARTS = 10**6
"""Shards of one view at most: shard ``view * PARTS + part`` holds the part-th clips of a view."""


@dataclass(frozen=True)
class Manifest:
    """What all shards of a layer have in common.

    Attributes:
        base: Fingerprint of the cache that the layer belongs to: which samples, seen how.
        identity: Everything else that decides the streams' values, in plain values: the teacher, its
            precision, how numbers are stored. Two layers with equal identities are interchangeable.
        streams: What each row consists of.
        clips_per_shard: Clips of a shard; a power of two, so that the shards of several layers nest.
        constants: What decodes the streams, such as channels' means; measured, not chosen.
        measured: What encoding costs: relative error and explained variance lost, by stream.
        made_with: Versions and machine; for people.
    """

    base: str
    identity: Mapping[str, Any]
    streams: tuple[Stream, ...]
    clips_per_shard: int
    constants: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over all that decides or decodes a row."""
        values = asdict(self)
        return fingerprint_of({key: values[key] for key in values if key not in ("measured", "made_with")})

    @property
    def row_bytes(self) -> int:
        """Bytes of one view of one clip."""
        return sum(stream.row_bytes for stream in self.streams)

    def num_parts(self, num_clips: int) -> int:
        """Shards that hold one view of so many clips."""
        return -(-num_clips // self.clips_per_shard)

    def places(self, number: int, num_clips: int) -> tuple[int, range]:
        """Which view a shard holds, and the places of its clips in the cache."""
        view, part = divmod(number, PARTS)
        begin = part * self.clips_per_shard
        return view, range(begin, min(begin + self.clips_per_shard, num_clips))

    def number(self, view: int, place: int) -> int:
        """The shard that holds a view of the clip at a place."""
        return view * PARTS + place // self.clips_per_shard

    def as_dict(self) -> dict[str, Any]:
        """The manifest in plain values."""
        return {"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)}


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits over plain values; equal for equal values, on every machine."""
    text = json.dumps({"format": FORMAT, **values}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def shard_name(number: int) -> str:
    """What a shard's file is called: two digits of its view, six of its part."""
    return f"{number:08d}.safetensors"


def shard_path(directory: Path, number: int) -> Path:
    """Where a shard of a layer stands."""
    return directory / SHARDS / shard_name(number)


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a layer in a directory; see `parse_manifest`."""
    return parse_manifest((directory / LAYER).read_text(encoding="utf-8"), str(directory))


def parse_manifest(text: str, name: str) -> Manifest:
    """Reads a manifest's text.

    Raises:
        CacheError: It is damaged, or of another format.
    """
    file = f"{name}/{LAYER}"
    values = parse(text, file, name)
    try:
        streams = tuple(Stream(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in values["streams"])
        names = ("base", "identity", "clips_per_shard", "constants", "measured", "made_with")
        manifest = Manifest(streams=streams, **{name: values[name] for name in names})
        stated = values["fingerprint"]
    except (KeyError, TypeError) as error:
        raise CacheError(f"{file} is damaged (no {error}); restore it, or recreate the cache") from error
    if manifest.fingerprint != stated:
        raise changed_by_hand(file)
    return manifest


def parse(text: str, file: str, name: str) -> dict[str, Any]:
    """Reads the JSON of a base, a layer or a list of ids.

    Raises:
        CacheError: It is damaged, something else, or of another format.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CacheError(f"{file} is damaged ({error}); restore it, or recreate the cache") from error
    if not isinstance(values, dict) or "fingerprint" not in values:
        raise CacheError(f"{file} is no part of a latent cache; name another directory")
    if values.get("format") != FORMAT:
        raise CacheError(
            f"{name} has the cache format {values.get('format')}, and this salt reads {FORMAT}; "
            "recreate the cache, or use the salt that made it"
        )
    return values


def changed_by_hand(file: str) -> CacheError:
    """The error for a file whose fingerprint does not match its contents."""
    return CacheError(f"{file} was changed by hand: its fingerprint does not match its contents; restore it")


def claim(directory: Path, manifest: Manifest) -> Manifest:
    """Writes the manifest of a new layer, or takes the one that is there.

    Of several that begin at once, one writes; all use what it wrote.

    Raises:
        CacheError: The directory holds another layer, or something else.
    """
    make_folder(directory / SHARDS)
    write_first(directory / LAYER, manifest.as_dict())
    present = read_manifest(directory)
    require_same(directory, present.identity, manifest.identity)
    return present


def make_folder(directory: Path) -> None:
    """Makes a folder of a cache, and those above it.

    Raises:
        CacheError: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from error


def write_first(path: Path, values: Mapping[str, Any]) -> bool:
    """Writes a JSON file, complete or not at all, unless there is one.

    Returns:
        Whether it was this call that wrote it.

    Raises:
        CacheError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(values, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk leaves half of it
            temporary.unlink()
        raise _unwritable(path.parent, error) from error
    try:
        os.link(temporary, path)  # fails where one is there: the first wins
        sync(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _unwritable(directory: Path, error: OSError) -> CacheError:
    return CacheError(f"{directory} cannot be written ({error.strerror}); name another directory")


def require_same(
    directory: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any], fix: str = "make the recipe agree"
) -> None:
    """Compares identities.

    Args:
        directory: Of the cache or layer.
        found: What it says of itself.
        wanted: What it should say.
        fix: What helps besides another directory.

    Raises:
        CacheError: With every field that differs.
    """
    different = differences(found, wanted)
    if different:
        raise CacheError(
            f"the cache in {directory} belongs to something else: {'; '.join(different)}. "
            f"Name another cache.dir, or {fix}"
        )


def differences(found: Any, wanted: Any, key: str = "") -> Sequence[str]:
    """The dotted keys whose values differ, with both values."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        missing = {}
        pairs = {name: (found.get(name, missing), wanted.get(name, missing)) for name in (*found, *wanted)}
        return [
            text
            for name, (one, other) in pairs.items()
            for text in differences(
                "nothing" if one is missing else one,
                "nothing" if other is missing else other,
                f"{key}.{name}" if key else name,
            )
        ]
    return [] if found == wanted else [f"{key} is {_shown(found)} in the cache, and {_shown(wanted)} here"]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

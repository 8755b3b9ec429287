"""The manifest: whose latents a cache holds, in clear, and how its clips are spread over shards; no torch."""

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

FILE = "manifest.json"
SHARDS = "shards"


@dataclass(frozen=True)
class Manifest:
    """What all shards of a cache have in common.

    Attributes:
        identity: Everything that decides the streams' values, in plain values: teachers, clips, data
            set, numbers' types. Two caches with equal identities are interchangeable.
        streams: What each row consists of.
        num_clips: Clips of the data set.
        clips_per_shard: Clips of a shard; shard k holds those from ``k * clips_per_shard`` on.
        constants: What decodes the streams, such as channels' means; measured, not chosen.
        measured: What encoding costs: relative error and explained variance lost, by stream.
        made_with: Versions and machine; for people.
    """

    identity: Mapping[str, Any]
    streams: tuple[Stream, ...]
    num_clips: int
    clips_per_shard: int
    constants: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @property
    def views(self) -> int:
        """Views of each clip that are stored."""
        return self.identity["clip"]["views"]

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over the identity."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def row_bytes(self) -> int:
        """Bytes of one view of one clip."""
        return sum(stream.row_bytes for stream in self.streams)

    @property
    def num_shards(self) -> int:
        """Shards of the whole cache: all of one view, then those of the next."""
        return self.views * self.shards_per_view

    @property
    def shards_per_view(self) -> int:
        """Shards that hold one view of every clip."""
        return -(-self.num_clips // self.clips_per_shard)

    def places(self, number: int) -> tuple[int, range]:
        """Which view a shard holds, and the indices of its clips in the data set."""
        view, part = divmod(number, self.shards_per_view)
        begin = part * self.clips_per_shard
        return view, range(begin, min(begin + self.clips_per_shard, self.num_clips))

    def as_dict(self) -> dict[str, Any]:
        """The manifest in plain values."""
        return {"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)}


def shard_path(directory: Path, number: int) -> Path:
    """Where a shard stands."""
    return directory / SHARDS / f"{number:06d}.safetensors"


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a cache in a directory; see `parse_manifest`."""
    return parse_manifest((directory / FILE).read_text(encoding="utf-8"), str(directory))


def parse_manifest(text: str, name: str) -> Manifest:
    """Reads a manifest's text.

    Raises:
        CacheError: It is damaged, or of another format.
    """
    file = f"{name}/{FILE}"
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CacheError(f"{file} is damaged ({error}); restore it, or make the cache anew") from error
    if not isinstance(values, dict) or "identity" not in values:
        raise CacheError(f"{file} is no manifest of a latent cache; name another directory")
    if values.get("format") != FORMAT:
        raise CacheError(
            f"{name} has the cache format {values.get('format')}, and this salt reads {FORMAT}; "
            "make the cache anew, or use the salt that made it"
        )
    try:
        streams = tuple(Stream(entry["name"], entry["dtype"], tuple(entry["shape"])) for entry in values["streams"])
        names = ("identity", "num_clips", "clips_per_shard", "constants", "measured", "made_with")
        manifest = Manifest(streams=streams, **{name: values[name] for name in names})
        told = values["fingerprint"]
    except (KeyError, TypeError) as error:
        raise CacheError(f"{file} is damaged (no {error}); restore it, or make the cache anew") from error
    if manifest.fingerprint != told:
        raise CacheError(f"{file} was changed by hand: its fingerprint does not fit its identity; restore it")
    return manifest


def claim(directory: Path, manifest: Manifest) -> Manifest:
    """Writes the manifest of a new cache, or takes the one that is there.

    Of several that begin at once, one writes; all use what it wrote.

    Raises:
        CacheError: The directory holds another cache, or something else.
    """
    beside = directory / f".{FILE}.{os.uname().nodename}.{os.getpid()}"
    try:
        (directory / SHARDS).mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            json.dump(manifest.as_dict(), file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk leaves half of it
            beside.unlink()
        raise CacheError(f"{directory} cannot be written ({error.strerror}); name another directory") from error
    try:
        os.link(beside, directory / FILE)  # fails where one is there: the first wins
        sync(directory)
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    found = read_manifest(directory)
    require_same(directory, found.identity, manifest.identity)
    return found


def require_same(directory: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares identities.

    Raises:
        CacheError: With every field that differs.
    """
    different = differences(found, wanted)
    if different:
        raise CacheError(
            f"the cache in {directory} belongs to something else: {'; '.join(different)}. "
            "Name another cache.dir, or make the recipe agree"
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

"""Checkpoint files: finding, downloading and hashing them, without torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salt_toolkit.errors import CheckpointError, MissingArtifact
from salt_toolkit.system.files import CHUNK, user_cache, write_json
from salt_toolkit.weights.headers import first_line, tensor_shapes, torn

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""Searched in this order: next to a single complete file, an index is a leftover of another save."""


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint on this machine.

    Attributes:
        name: As the recipe names it.
        weights: The files with the weights; several where they are sharded.
        config: The contents of config.json; None for a lone file.
    """

    name: str
    weights: tuple[Path, ...]
    config: Mapping[str, Any] | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight; see `tensor_shapes`.

        Raises:
            CheckpointError: Also where two files hold the same weight.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file in self.weights:
            shapes = tensor_shapes(file)
            twice = found.keys() & shapes.keys()
            if twice:
                raise CheckpointError(f"{self.name} holds {min(twice)} twice, once in {file.name}; download it again")
            found |= shapes
        return found


def find_checkpoint(name: str) -> CheckpointFiles | None:
    """Finds a file, a directory in Hugging Face layout, or a hub id in the hub's cache.

    Args:
        name: As the recipe names it; ``./x``, ``/x`` and whatever exists here are paths.

    Returns:
        None where it is not on this machine.

    Raises:
        CheckpointError: A directory without config.json or without weights, or a broken config.json.
    """
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return CheckpointFiles(name, (path,))
        if path.is_dir():
            return _in_directory(name, path)
    except PermissionError as error:
        raise CheckpointError(f"{name} cannot be read ({error.strerror}); change its permissions") from error
    except (OSError, RuntimeError):  # too long for a path, or ``~user`` of an unknown user
        return None
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if not isinstance(cached, str):
        return None
    folder = Path(cached).parent
    # An interrupted download leaves some files: treat it as not downloaded, not as broken.
    return _in_directory(name, folder) if _is_whole(folder) else None


def is_hub_id(name: str) -> bool:
    """Whether a name could be a repository of the hub, such as ``owner/model``."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.endswith((".pth", ".pt", ".bin", ".safetensors"))


def fetch_checkpoint(name: str, *, known: Sequence[str] = (), hint: str = "") -> CheckpointFiles:
    """Finds a checkpoint, or downloads it from the hub; see `find_checkpoint`.

    Args:
        name: As the recipe names it.
        known: Hub ids to name in the error.
        hint: A sentence to end the error with.

    Raises:
        MissingArtifact: It is neither on this machine nor downloadable.
        CheckpointError: See `find_checkpoint`.
    """
    found = find_checkpoint(name)
    if found is not None:
        return found
    if not is_hub_id(name):
        raise not_here(name, known, hint=hint)
    from huggingface_hub import HfApi, snapshot_download

    try:
        # Ask first, with a short timeout: without a connection, a download retries for half a minute.
        files = [entry.rfilename for entry in HfApi().model_info(name, timeout=10).siblings or ()]
        ending = ".safetensors*" if any(file.endswith(".safetensors") for file in files) else ".bin*"
        folder = snapshot_download(name, allow_patterns=["config.json", f"*{ending}"])
    except Exception as error:  # the hub's client changes its HTTP library, and its exceptions, now and then
        raise not_here(name, known, first_line(error), hint) from error
    return _in_directory(name, Path(folder))


def not_here(name: str, known: Sequence[str] = (), reason: str = "", hint: str = "") -> MissingArtifact:
    """The error that says that a checkpoint is not on this machine, and how to get it."""
    what = f"the checkpoint {name} is not on this machine"
    if reason:
        what += f", and cannot be downloaded: {reason.rstrip('.')}"
    if name in known:
        fix = f"Download it once with `hf download {name}`, or name a local file or directory."
    else:
        ids = f", or one of the hub's: {', '.join(known)}" if known else ", or a hub id"
        fix = f"Name a file, a directory in Hugging Face layout{ids}.{hint and ' ' + hint}"
    return MissingArtifact(what, fix)


def file_digest(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal.

    The hub's cache names large files by their sha256. For other large files the answer is kept in
    `user_cache`, together with size and time of change.
    """
    path = file.resolve()
    if path.parent.name == "blobs" and len(path.name) == 64:
        return path.name
    status = path.stat()
    key = f"{path}:{status.st_size}:{status.st_mtime_ns}"
    keeps = status.st_size > 64 * CHUNK
    remembered = _remembered() if keeps else {}
    if key not in remembered:
        with path.open("rb") as opened:
            remembered[key] = hashlib.file_digest(opened, "sha256").hexdigest()
        if keeps:
            _remember(remembered)
    return remembered[key]


def _in_directory(name: str, folder: Path) -> CheckpointFiles:
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"the directory {name} has no config.json, so it is no checkpoint in Hugging Face layout; "
            "name a directory made by save_pretrained, or the file with the weights itself"
        )
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config} cannot be read ({first_line(error)}); download the checkpoint again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{config} holds no table of settings; download the checkpoint again")
    for candidate in (*SAFETENSORS, *PICKLES):
        if (folder / candidate).is_file():
            return CheckpointFiles(name, _shards(folder / candidate), values)
    raise CheckpointError(f"the directory {name} has no weights ({SAFETENSORS[0]}); download the checkpoint again")


def _is_whole(folder: Path) -> bool:
    """Whether the weights are there: the file, or every file that its index names."""
    for candidate in (*SAFETENSORS, *PICKLES):
        if (folder / candidate).is_file():
            return all(file.is_file() for file in _named(folder / candidate))
    return False


def _shards(file: Path) -> tuple[Path, ...]:
    """The files with the weights: the file itself, or those that an index names."""
    shards = _named(file)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{file} names files that are not there: {', '.join(missing)}; download the checkpoint again"
        )
    return shards


def _named(file: Path) -> tuple[Path, ...]:
    if file.suffix != ".json":
        return (file,)
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = tuple(file.parent / name for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(torn(file, first_line(error))) from error
    if not shards:
        raise CheckpointError(torn(file, "it names no files"))
    return shards


def _digests() -> Path:
    return user_cache() / "digests.json"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_digests().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(digests: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a home that cannot be written: the digest is computed again next time
        write_json(_digests(), digests)

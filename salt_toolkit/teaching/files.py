"""Checkpoints as files: where they lie, what shapes they hold, and their digest; without torch.

Shapes are read from headers alone, so `salt check` can tell a wrong or a torn file from a right one
in milliseconds. Pickles are walked by an unpickler that builds nothing.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from salt_toolkit.errors import CheckpointError, MissingArtifact
from salt_toolkit.files import CHUNK, write_json

SAFETENSORS = ("model.safetensors.index.json", "model.safetensors")
PICKLES = ("pytorch_model.bin.index.json", "pytorch_model.bin")
WRAPPERS = ("model", "module", "state_dict")
"""Keys under which training scripts put the weights."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""What DistributedDataParallel, torch.compile and detection code put before every key."""

ValueT = TypeVar("ValueT")


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
        """The shape of every weight; see `tensor_shapes`."""
        return {key: shape for file in self.weights for key, shape in tensor_shapes(file).items()}


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
    except (OSError, RuntimeError):  # too long for a path, or in the home of somebody who has none
        return None
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    if not isinstance(cached, str):
        return None
    folder = Path(cached).parent
    # An interrupted download leaves config.json alone: that is a checkpoint to be fetched, not a broken one.
    return _in_directory(name, folder) if any((folder / file).is_file() for file in (*SAFETENSORS, *PICKLES)) else None


def is_hub_id(name: str) -> bool:
    """Whether a name could be a repository of the hub, such as ``owner/model``."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not name.endswith((".pth", ".pt", ".bin", ".safetensors"))


def fetch_checkpoint(name: str, *, known: Sequence[str] = (), hint: str = "") -> CheckpointFiles:
    """`find_checkpoint`; what is not here is downloaded from the hub.

    Args:
        name: As the recipe names it.
        known: Hub ids to name in the error.
        hint: A sentence to end the error with.

    Raises:
        MissingArtifact: It is neither here nor to be had.
        CheckpointError: See `find_checkpoint`.
    """
    found = find_checkpoint(name)
    if found is not None:
        return found
    if not is_hub_id(name):
        raise not_here(name, known, hint=hint)
    from huggingface_hub import HfApi, snapshot_download

    try:
        # One question first: a download without a connection tries again for half a minute.
        files = [entry.rfilename for entry in HfApi().model_info(name, timeout=10).siblings or ()]
        ending = ".safetensors*" if any(file.endswith(".safetensors") for file in files) else ".bin*"
        folder = snapshot_download(name, allow_patterns=["config.json", f"*{ending}"])
    except Exception as error:  # whatever the hub's client raises; it changes its HTTP library now and then
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


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's weights, from its header alone, with wrappers and their prefixes taken off.

    Args:
        file: safetensors, or what torch.save wrote (either of its formats).

    Raises:
        CheckpointError: The file is torn, holds no weights, or would run code when loaded.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(1)
            is_zip = zipfile.is_zipfile(opened)
            opened.seek(0)
            if is_safetensors(file):  # asked first: the length before its header may begin like a pickle
                found = _safetensors_shapes(file)
            elif is_zip:
                found = _zip_shapes(file)
            elif start == b"\x80":
                found = _legacy_shapes(opened)
            else:
                raise CheckpointError(_torn(file, "it is neither safetensors nor a file of torch.save"))
        shapes = {key: value.shape for key, value in unwrap(found).items() if isinstance(value, _Tensor)}
    except CheckpointError:
        raise
    except Exception as error:  # a torn pickle may raise anything
        raise CheckpointError(_torn(file, first_line(error))) from error
    if not shapes:
        raise CheckpointError(f"{file} holds no weights; name the file of a model's state_dict")
    return shapes


def is_safetensors(file: Path) -> bool:
    """Whether a file is safetensors, by its first bytes: a length, and a table in JSON."""
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def unwrap(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Takes a state_dict out of what training scripts put around it, and off the prefixes of its keys.

    What has no name for a key, such as an optimizer's numbered state, is left out.
    """
    for wrapper in WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, Mapping) and inner:
            return unwrap(inner)
    return strip_prefixes({key: value for key, value in state.items() if isinstance(key, str)}, PREFIXES)


def strip_prefixes(state: Mapping[str, ValueT], prefixes: Sequence[str]) -> dict[str, ValueT]:
    """Takes prefixes off while every key has one of them."""
    stripped = dict(state)
    for prefix in (*prefixes, *prefixes):
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def file_digest(file: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal.

    The hub's cache names large files by their sha256. For other large files the answer is kept in
    ``$XDG_CACHE_HOME/salt_toolkit``, together with size and time of change.
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


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
        raise CheckpointError(f"{config} cannot be read ({first_line(error)}); get the checkpoint anew") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{config} holds no table of settings; get the checkpoint anew")
    for candidate in (*SAFETENSORS, *PICKLES):
        if (folder / candidate).is_file():
            return CheckpointFiles(name, _shards(folder / candidate), values)
    raise CheckpointError(f"the directory {name} has no weights ({SAFETENSORS[-1]}); get the checkpoint anew")


def _shards(file: Path) -> tuple[Path, ...]:
    if file.suffix != ".json":
        return (file,)
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = {name: file.parent / name for name in names}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(_torn(file, first_line(error))) from error
    if not shards:
        raise CheckpointError(_torn(file, "it names no files"))
    missing = [name for name, shard in shards.items() if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{file} names files that are not there: {', '.join(missing)}; get the checkpoint anew")
    return tuple(shards.values())


def _torn(file: Path, reason: str) -> str:
    return f"{file} is torn or no checkpoint ({reason}); get it anew"


def _safetensors_shapes(file: Path) -> dict[str, _Tensor]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    size, expected = file.stat().st_size, 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    if size != expected:
        raise ValueError(f"it has {size} bytes, and its header promises {expected}")
    return {key: _Tensor(tuple(entry["shape"])) for key, entry in header.items()}


def _zip_shapes(file: Path) -> Mapping[Any, Any]:
    with zipfile.ZipFile(file) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith("/data.pkl"))
        with archive.open(name) as opened:
            return _walk(opened, file)


def _legacy_shapes(opened: IO[bytes]) -> Mapping[Any, Any]:
    """Files from before torch 1.6: four pickles (magic number, protocol, system, object), then the numbers."""
    for _ in range(3):
        _walk(opened, Path(opened.name))
    return _walk(opened, Path(opened.name))


def _walk(opened: IO[bytes] | zipfile.ZipExtFile, file: Path) -> Mapping[Any, Any]:
    walker = _Walker(opened)
    try:
        value = walker.load()
    except Exception:  # what was refused cannot be followed any further
        if not walker.refused:
            raise
        value = None
    if walker.refused:
        raise CheckpointError(
            f"{file} wants to run {', '.join(sorted(walker.refused))} when it is loaded, which salt never does; "
            "save the model's state_dict alone (torch.save(model.state_dict(), ...), or safetensors)"
        )
    return value if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]


class _Nothing:
    """Stands for whatever a pickle would build besides tensors and containers."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    extend = append


SAFE_GLOBALS = {
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.serialization._get_layout",
}
"""What may stand in a pickle besides torch's own: training scripts save their arguments beside the weights.

All of it is what ``torch.load(weights_only=True)`` takes, with argparse.Namespace allowed.
"""


_REBUILD_TENSOR = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_REBUILD_PARAMETER = {f"torch._utils._rebuild_parameter{kind}" for kind in ("", "_with_state")}


class _Walker(pickle._Unpickler):
    """Follows a pickle and builds shapes instead of tensors; nothing that it names is imported.

    It is Python's own unpickler in Python: the one in C sets aside whatever memory a torn or malicious
    pickle asks for, up to 64 GB for four wrong bytes.
    """

    def __init__(self, file: IO[bytes] | zipfile.ZipExtFile) -> None:
        super().__init__(file)
        self.refused: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"  # torch.save writes Python 2's names
        if full in _REBUILD_TENSOR:
            return lambda _storage, _offset, size, *_: _Tensor(tuple(size))
        if full in _REBUILD_PARAMETER:
            return lambda tensor, *_: tensor
        if full == "torch._tensor._rebuild_from_type_v2":
            return lambda rebuild, _type, arguments, _state: rebuild(*arguments)
        if full in ("collections.OrderedDict", "torch.Size", "builtins.set"):
            return {"OrderedDict": collections.OrderedDict, "Size": tuple, "set": set}[name]
        if full not in SAFE_GLOBALS and module not in ("torch", "torch._utils", "torch.storage"):
            self.refused.add(full)
        return _Nothing

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _digests() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt_toolkit" / "digests.json"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_digests().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(digests: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a home that cannot be written: the digest is computed again next time
        write_json(_digests(), digests)

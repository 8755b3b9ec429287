"""The shapes of a checkpoint's weights, read from file headers alone, without torch.

This lets `salt check` recognise a wrong or truncated file in milliseconds. Pickles are walked by an unpickler that
builds nothing.
"""

from __future__ import annotations

import collections
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from salt_toolkit.errors import CheckpointError

WRAPPERS = ("model", "module", "state_dict")
"""Keys under which training scripts store the weights."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""Prefixes that DistributedDataParallel, torch.compile and detection code add to every key."""

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
"""Globals allowed in a pickle besides torch's own: training scripts save their arguments with the weights.

``torch.load(weights_only=True)`` accepts all of these, once argparse.Namespace is allowed.
"""

_REBUILD_TENSOR = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_REBUILD_PARAMETER = {f"torch._utils._rebuild_parameter{kind}" for kind in ("", "_with_state")}

ValueT = TypeVar("ValueT")


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's weights, from its header alone, with wrappers and key prefixes removed.

    Args:
        file: A safetensors file, or a file of torch.save (in either of its formats).

    Raises:
        CheckpointError: The file is truncated, contains no weights, or would run code when loaded.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(1)
            is_zip = zipfile.is_zipfile(opened)
            opened.seek(0)
            if is_safetensors(file):  # checked first: its length field may look like the start of a pickle
                found = _safetensors_shapes(file)
            elif is_zip:
                found = _zip_shapes(file)
            elif start == b"\x80":
                found = _legacy_shapes(opened)
            else:
                raise CheckpointError(torn(file, "it is neither safetensors nor a file of torch.save"))
        shapes = {key: value.shape for key, value in unwrap(found).items() if isinstance(value, _Tensor)}
    except CheckpointError:
        raise
    except Exception as error:  # a truncated pickle may raise anything
        raise CheckpointError(torn(file, first_line(error))) from error
    if not shapes:
        raise CheckpointError(f"{file} holds no weights; name the file of a model's state_dict")
    return shapes


def metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files."""
    return _header(file)[0].get("__metadata__", {}) if is_safetensors(file) else {}


def is_safetensors(file: Path) -> bool:
    """Whether a file is safetensors, by its first bytes: a length, and a table in JSON."""
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def unwrap(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Extracts a state_dict from the wrappers of training scripts, and removes key prefixes.

    Entries without a string key, such as an optimizer's numbered state, are dropped.
    """
    for wrapper in WRAPPERS:
        inner = state.get(wrapper)
        if isinstance(inner, Mapping) and inner:
            return unwrap(inner)
    return strip_prefixes({key: value for key, value in state.items() if isinstance(key, str)}, PREFIXES)


def strip_prefixes(state: Mapping[str, ValueT], prefixes: Sequence[str]) -> dict[str, ValueT]:
    """Removes prefixes that every key has in common."""
    stripped = dict(state)
    for prefix in (*prefixes, *prefixes):
        if stripped and all(key.startswith(prefix) for key in stripped):
            stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def torn(file: Path, reason: str) -> str:
    """The error text for a damaged file."""
    return f"{file} is truncated or not a checkpoint ({reason}); download it again"


def _safetensors_shapes(file: Path) -> dict[str, _Tensor]:
    header, length = _header(file)
    header.pop("__metadata__", None)
    size, expected = file.stat().st_size, 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    if size != expected:
        raise ValueError(f"it has {size} bytes, and its header promises {expected}")
    return {key: _Tensor(tuple(entry["shape"])) for key, entry in header.items()}


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and its length in bytes."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        return json.loads(opened.read(length)), length


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
    """Placeholder for every object in a pickle that is not a tensor or container."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    extend = append


class _Walker(pickle._Unpickler):
    """Walks a pickle and builds shapes instead of tensors; nothing it names is imported.

    Based on Python's pure-Python unpickler: the C one allocates whatever memory a truncated or malicious pickle asks
    for, up to 64 GB for four wrong bytes.
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

"""What headers of checkpoints say, with wrappers taken off; and what torn files say instead."""

from __future__ import annotations

import argparse
import collections
import io
import json
import pickletools
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from salt_toolkit import CheckpointError
from salt_toolkit.weights.headers import is_safetensors, strip_prefixes, tensor_shapes, unwrap
from salt_toolkit.weights.loading import read_weights
from salt_toolkit.weights.locate import CheckpointFiles

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A small state_dict with numbers of every rank."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "embed.weight": (6, 3, 2, 4, 4),
        "blocks.0.weight": (6, 6),
        "blocks.0.bias": (6,),
        "scale": (),
        "no": (0, 2),
    }
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


SHAPES = {key: tuple(value.shape) for key, value in state().items()}


def write_safetensors(path: Path) -> Path:
    save_file(state(), path)
    return path


def write_zip(path: Path) -> Path:
    torch.save(state(), path)
    return path


def write_legacy(path: Path) -> Path:
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    return path


WRITERS = {"safetensors": write_safetensors, "zip": write_zip, "legacy": write_legacy}
EVERY_FORMAT = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def said_of(path: Path) -> str:
    """The one sentence of both readers; neither may succeed, or raise anything else."""
    with pytest.raises(CheckpointError) as caught:
        tensor_shapes(path)
    with pytest.raises(CheckpointError):
        read_weights(CheckpointFiles("x", (path,)))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@EVERY_FORMAT
def test_shapes_from_headers_are_those_of_torch_and_safetensors(tmp_path, write):
    path = write(tmp_path / "checkpoint")
    assert tensor_shapes(path) == SHAPES
    if write is write_safetensors:
        with safe_open(path, "pt") as opened:
            assert set(opened.keys()) == SHAPES.keys()
            assert tensor_shapes(path) == {key: tuple(opened.get_slice(key).get_shape()) for key in SHAPES}
    else:
        loaded = torch.load(path, weights_only=True)
        assert tensor_shapes(path) == {key: tuple(value.shape) for key, value in loaded.items()}


@given(
    st.dictionaries(st.text(min_size=1, max_size=12), st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=5)
)
@settings(shared, max_examples=40)
def test_any_names_and_shapes_are_read_from_any_format(tmp_path, shapes):
    """Names as people have them; wrappers' own are another test's."""
    shapes = {f"w.{key}".replace("\ud800", ""): tuple(shape) for key, shape in shapes.items()}
    tensors = {key: torch.ones(shape) for key, shape in shapes.items()}
    torch.save(tensors, tmp_path / "zip")
    torch.save(tensors, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "safetensors")
    for name in WRITERS:
        assert tensor_shapes(tmp_path / name) == shapes


KINDS = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.uint16]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_number_counts(tmp_path, kind):
    tensors = {"a": torch.ones(2, 3).to(kind), "b": torch.zeros(4).to(kind)}
    torch.save(tensors, tmp_path / "zip")
    save_file(tensors, tmp_path / "safetensors")
    assert tensor_shapes(tmp_path / "zip") == tensor_shapes(tmp_path / "safetensors") == {"a": (2, 3), "b": (4,)}


@pytest.mark.parametrize("legacy", [False, True])
def test_every_way_to_hold_a_tensor_counts(tmp_path, legacy):
    class Tagged(torch.nn.Parameter):
        pass

    tagged = torch.nn.Parameter(torch.ones(3))
    tagged.note = 1
    base = torch.arange(12.0)
    held = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "buffer": torch.nn.Buffer(torch.ones(3, 1)),
        "with a note": tagged,
        "expanded": torch.ones(1).expand(4, 5),
        "a view": base[3:7],
        "transposed": base.reshape(3, 4).T,
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    found = {key: tuple(value.shape) for key, value in read_weights(CheckpointFiles("x", (path,))).items()}
    assert tensor_shapes(path) == found == {key: tuple(value.shape) for key, value in held.items()}


def test_a_modules_own_state_dict_counts(tmp_path):
    """An OrderedDict with an attribute, as torch makes it."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    torch.save(module.state_dict(), tmp_path / "checkpoint.pth")
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert tensor_shapes(tmp_path / "checkpoint.pth") == expected


def prefixed(prefix):
    return {f"{prefix}{key}": value for key, value in state().items()}


BESIDE = {
    "epoch": 7,
    "args": argparse.Namespace(lr=1e-3, names=["a"], nested=argparse.Namespace(x=(1, 2))),
    "optimizer": {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
        "param_groups": [{"betas": (0.9, 1)}],
    },
    "scaler": {"scale": 65536.0, "_growth_tracker": 0},
    "best": float("-inf"),
    "seen": {1, 2},
    "raw": b"bytes",
    "counts": collections.Counter("aab"),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "size": torch.Size([2, 3]),
    "rng": torch.zeros(4, dtype=torch.uint8),
}
WRAPPED = {
    "bare": state(),
    "ordered": collections.OrderedDict(state()),
    "in model": {"model": state()},
    "in module": {"module": state(), "dp_world_size": 8},
    "in state_dict": {"state_dict": state()},
    "wrapped twice": {"model": {"state_dict": state()}},
    "with a training's remains": {"model": state(), **BESIDE},
    "by DataParallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled, by DataParallel": {"model": prefixed("module._orig_mod.")},
    "by DataParallel, compiled": {"model": prefixed("_orig_mod.module.")},
    "of a detector": {"state_dict": prefixed("backbone.")},
    "with a numbered key": {0: torch.ones(3), **state()},
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrappers_and_their_prefixes_come_off(tmp_path, name, legacy):
    path = tmp_path / "checkpoint.pth"
    torch.save(WRAPPED[name], path, _use_new_zipfile_serialization=not legacy)
    assert tensor_shapes(path) == SHAPES
    weights = read_weights(CheckpointFiles("x", (path,)))
    assert weights.keys() == SHAPES.keys()
    assert all(torch.equal(weights[key], value) for key, value in state().items())


def test_a_prefix_that_not_every_key_has_is_part_of_the_name():
    assert strip_prefixes({"a.b": 1, "a.c": 2}, ["a."]) == {"b": 1, "c": 2}
    assert strip_prefixes({"a.b": 1, "c": 2}, ["a."]) == {"a.b": 1, "c": 2}
    assert strip_prefixes({}, ["a."]) == {}
    assert unwrap({"module.a": 1, "modules.b": 2}) == {"module.a": 1, "modules.b": 2}
    assert unwrap({"model": 5, "a": 1}) == {"model": 5, "a": 1}  # a weight called so, and no wrapper


def test_the_ending_of_a_name_tells_nothing(tmp_path):
    """Formats are told by content: people rename files."""
    for write, ending in ((write_safetensors, ".pth"), (write_zip, ".safetensors"), (write_legacy, ".safetensors")):
        path = write(tmp_path / f"{write.__name__}{ending}")
        assert is_safetensors(path) is (write is write_safetensors)
        assert tensor_shapes(path) == SHAPES
        assert read_weights(CheckpointFiles("x", (path,))).keys() == SHAPES.keys()


def length_of_pickles(content: bytes) -> int:
    """Of the four at the beginning of an old file: magic number, protocol, system, object."""
    opened = io.BytesIO(content)
    for _ in range(4):
        for _ in pickletools.genops(opened):
            pass
    return opened.tell()


@EVERY_FORMAT
def test_a_file_cut_anywhere_in_its_header_is_torn(tmp_path, write):
    whole = write(tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    end = length_of_pickles(whole) if write is write_legacy else len(whole)
    for kept in {*range(40), *range(40, end, 61), end - 1}:
        path.write_bytes(whole[:kept])
        assert "is truncated or not a checkpoint" in said_of(path), kept


def test_an_old_file_cut_in_its_numbers_is_torn_when_it_is_read(tmp_path):
    """Its shapes come first, and are whole."""
    whole = write_legacy(tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for lost in (1, 7, 8, 9, 64, 200):
        path.write_bytes(whole[:-lost])
        with pytest.raises(CheckpointError, match="cut"):
            read_weights(CheckpointFiles("x", (path,)))


@EVERY_FORMAT
@given(data=st.data())
@settings(shared, max_examples=60)
def test_a_damaged_file_is_an_error_in_a_sentence_or_has_all_its_weights(tmp_path, write, data):
    """Never another exception, and never fewer weights than the header names."""
    damaged = bytearray(write(tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # The old format names tensors by their addresses, so that its length differs from one writing to the next.
        damaged[data.draw(st.integers(0, 2**24)) % len(damaged)] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    try:
        shapes = tensor_shapes(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    try:
        weights = read_weights(CheckpointFiles("x", (path,)))
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert {key: tuple(value.shape) for key, value in weights.items()} == shapes


@given(st.binary(max_size=300))
@settings(shared, max_examples=150)
@pytest.mark.parametrize("start", [b"", b"\x80\x02", b"PK\x03\x04", struct.pack("<Q", 20) + b"{", b"\x93NUMPY"])
def test_noise_is_no_checkpoint(tmp_path, start, noise):
    path = tmp_path / "noise.pth"
    path.write_bytes(start + noise)
    said_of(path)


@pytest.mark.parametrize("text", ["", "not found\n", "version https://git-lfs.github.com/spec/v1\n", "<html>", "{}"])
def test_a_text_is_no_checkpoint(tmp_path, text):
    path = tmp_path / "checkpoint.pth"
    path.write_text(text)
    assert said_of(path).endswith("(it is neither safetensors nor a file of torch.save); download it again")


HEADERS = [
    {},
    {"__metadata__": {"format": "pt"}},
    {"a": 1},
    {"a": {"shape": [2]}},
    {"a": {"dtype": "F32", "shape": 5, "data_offsets": [0, 8]}},
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}},
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": "from 0 to 8"}},
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_a_header_that_makes_no_sense_is_torn(tmp_path, header):
    path, text = tmp_path / "a.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    said_of(path)


def test_a_header_longer_than_any_memory_is_torn(tmp_path):
    path = tmp_path / "a.safetensors"
    for length in (2**40, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + b'{"a"')
        said_of(path)


def test_a_header_whose_shapes_are_not_its_bytes_fails_when_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    text = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be loaded"):
        read_weights(CheckpointFiles("x", (path,)))


@pytest.mark.parametrize(
    "held", [[torch.ones(2)], torch.ones(2), {}, {"student": {"a": torch.ones(2)}}, {0: torch.ones(2)}, 5]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_without_named_weights_holds_none(tmp_path, held, legacy):
    path = tmp_path / "checkpoint.pth"
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    assert said_of(path) == f"{path} holds no weights; name the file of a model's state_dict"


def test_a_state_that_holds_itself_is_refused(tmp_path):
    held = {"a": torch.ones(2)}
    held["model"] = held
    torch.save(held, tmp_path / "checkpoint.pth")
    said_of(tmp_path / "checkpoint.pth")


def test_a_few_wrong_bytes_do_not_ask_for_gigabytes(tmp_path):
    """Python's own unpickler in C sets memory aside for the highest number of a remembered object, here 2 ** 26."""
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**26) + b"." + bytes(100))
    tracemalloc.start()
    said_of(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_a_zip_of_something_else_is_torn(tmp_path):
    path = tmp_path / "checkpoint.pth"
    for names in (["hello.txt"], ["a/data.pkl", "b/data.pkl"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        said_of(path)

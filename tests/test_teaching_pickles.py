"""Pickles that want to run code: refused by the reader of headers and by the reader of weights, and never run."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from salt_toolkit import CheckpointError
from salt_toolkit.weights.headers import tensor_shapes
from salt_toolkit.weights.loading import read_weights
from salt_toolkit.weights.locate import CheckpointFiles


def state() -> dict[str, torch.Tensor]:
    return {"blocks.0.weight": torch.ones(6, 6), "blocks.0.bias": torch.ones(6)}


def said_of(path: Path) -> str:
    """The one sentence of both readers; neither may succeed, or raise anything else."""
    with pytest.raises(CheckpointError) as caught:
        tensor_shapes(path)
    with pytest.raises(CheckpointError):
        read_weights(CheckpointFiles("x", (path,)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class RunsCommand:
    """Unpickled, it runs a command that leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch '{self.proof}'",)


def global_by_hand(module: str, name: str, argument: str) -> bytes:
    """Opcodes GLOBAL and REDUCE, as no pickler would write them for a state_dict."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(V" + argument.encode() + b"\ntR."


WAYS = ["zip", "zip, beside the weights", "legacy", "legacy, first of its pickles", "plain", "opcode", "opcode INST"]


def write_attack(path: Path, way: str, proof: Path) -> None:
    attack = RunsCommand(proof)
    if way.startswith("zip"):
        torch.save({"args": attack, "model": state()} if "beside" in way else {"a": attack}, path)
    elif way == "legacy":
        torch.save({"args": attack, "model": state()}, path, _use_new_zipfile_serialization=False)
    elif way.startswith("legacy"):
        torch.save(state(), path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        path.write_bytes(pickle.dumps(attack, protocol=2) + content)
    elif way == "plain":
        path.write_bytes(pickle.dumps({"model": {"a": attack}}, protocol=2))
    elif way == "opcode":
        path.write_bytes(global_by_hand("posix", "system", f"touch '{proof}'"))
    else:
        path.write_bytes(b"\x80\x02(V" + f"touch '{proof}'".encode() + b"\niposix\nsystem\n.")


def run_it(path: Path, way: str) -> None:
    """Unpickles what Python's own unpickler would: the proof that the file written here is an attack."""
    content = io.BytesIO(path.read_bytes())
    if way.startswith("zip"):
        with zipfile.ZipFile(path) as archive:
            (name,) = (entry for entry in archive.namelist() if entry.endswith("data.pkl"))
            content = io.BytesIO(archive.read(name))
    elif way == "legacy":
        for _ in range(3):
            pickle.load(content)
    pickle.load(content)


@pytest.mark.parametrize("way", WAYS)
def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run_it(tmp_path, way):
    path, proof = tmp_path / "checkpoint.pth", tmp_path / "it ran"
    write_attack(path, way, proof)
    message = said_of(path)
    assert f"{path} wants to run posix.system when it is loaded, which salt never does" in message
    assert not proof.exists()
    # The reader of weights would refuse it too, had nobody read the header.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salt_toolkit.weights.locate.tensor_shapes", lambda _: {})
        with pytest.raises(CheckpointError) as caught:
            read_weights(CheckpointFiles("x", (path,)))
    assert "weights_only" not in str(caught.value)  # torch advises to load it all the same
    assert not proof.exists()
    with contextlib.suppress(Exception):  # the attack is a real one
        run_it(path, way)
    assert proof.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("collections", "OrderedDict.fromkeys"),
        ("pathlib", "Path"),
        ("numpy", "load"),
        ("__builtin__", "exec"),
    ],
)
def test_nothing_but_containers_and_tensors_is_followed(tmp_path, module, name):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(global_by_hand(module, name, "1"))
    assert "wants to run" in said_of(path)


def test_nothing_that_a_pickle_names_is_imported(tmp_path):
    path = tmp_path / "checkpoint.pth"
    (tmp_path / "a_module_with_effects.py").write_text("raise SystemExit(7)")
    path.write_bytes(global_by_hand("a_module_with_effects", "anything", "1"))
    code = (
        "import sys; from pathlib import Path; from salt_toolkit.weights.headers import tensor_shapes\n"
        "try: tensor_shapes(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "CheckpointError"), done.stderr


def test_a_torn_pickle_that_wants_to_run_code_is_said_to(tmp_path):
    """Rather than that it should be fetched anew."""
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(global_by_hand("os", "system", "1")[:-1])
    assert "wants to run os.system" in said_of(path)

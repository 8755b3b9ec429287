"""Errors are data: they travel between processes with all their fields, and anything else becomes one of them."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import salt_toolkit
from salt_toolkit.check.findings import findings_of
from salt_toolkit.errors import (
    ADVICE,
    BadClip,
    MissingArtifact,
    PluginMistake,
    Problem,
    RecipeChange,
    RecipeChanged,
    RecipeError,
    SaltError,
    SystemFault,
    explain,
)

ROOT = Path(__file__).parents[1]
PACKAGES = ["salt_toolkit", *sorted(path.name for path in (ROOT / "plugins").glob("*/salt_*"))]
OWN_CONSTRUCTORS = {
    BadClip: ("clip.mp4", "it is empty", "Record it again."),
    MissingArtifact: ("the file x does not exist", "Download it."),
    PluginMistake: (KeyError("width"),),
    RecipeChanged: (Path("runs/a"), [RecipeChange("run.seed", "0", "1", allowed=False, note="why")], "Rename it."),
    RecipeError: ([Problem("masker.ratio", "found 2", "a.toml", 7), Problem("", "no table")],),
    SystemFault: (OSError(errno.EACCES, "Permission denied"), "/data"),
}


def every_kind() -> list[type[SaltError]]:
    """Every subclass in the core and in the bundled plugins, all modules of which are imported for it."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__") and "make_" not in found.name:
                importlib.import_module(found.name)
    kinds, queue = [], [SaltError]
    while queue:
        kind = queue.pop()
        kinds.append(kind)
        queue += [each for each in kind.__subclasses__() if each.__module__.startswith("salt_")]
    return sorted(set(kinds), key=lambda kind: kind.__name__)


def made(kind: type[SaltError]) -> SaltError:
    return kind(*OWN_CONSTRUCTORS.get(kind, ("what was found", "What to do.")))


def test_every_error_survives_pickling_with_all_its_fields():
    kinds = every_kind()
    assert len(kinds) >= 14
    for kind in kinds:
        error = made(kind)
        error.add_note("seen by process 3")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert vars(again)["fix"] == error.fix


def test_an_error_travels_to_another_process():
    error = made(RecipeError)
    script = "import pickle, sys; e = pickle.load(sys.stdin.buffer); print(e.problems[0].line, e)"
    done = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(error), capture_output=True, check=True)
    assert done.stdout.decode() == f"7 {error}\n"


def test_a_message_ends_with_what_to_do():
    assert str(SaltError("a is missing", "Bring it back.")) == "a is missing. Bring it back."
    assert str(SaltError("a is missing")) == "a is missing"
    assert str(made(BadClip)) == "clip.mp4: it is empty"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_of_the_toolkit_explains_itself():
    error = made(MissingArtifact)
    assert explain(error) is error


@pytest.mark.parametrize("number", ADVICE)
def test_a_fault_of_the_system_names_the_path_the_reason_and_what_to_do(number):
    fault = explain(OSError(number, os.strerror(number), "/data/x.toml"))
    assert isinstance(fault, SystemFault)
    assert (fault.path, fault.errno) == ("/data/x.toml", number)
    assert str(fault) == f"/data/x.toml: {os.strerror(number)}. {ADVICE[number]}"


def test_a_fault_of_the_system_without_a_path_takes_that_of_the_caller():
    assert explain(OSError(errno.EIO, "Input/output error"), "/data").what == "/data: Input/output error"
    assert explain(OSError("the wire is cut"), "/data").what == "/data: the wire is cut"
    assert explain(OSError(errno.EMFILE, "Too many open files")).what == "Too many open files"
    assert explain(OSError(12345, "odd")).fix
    assert explain(MemoryError()).fix == ADVICE[errno.ENOMEM]


class Panic(BaseException):
    """What a library in Rust raises."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [KeyError("width"), Panic("boom"), SystemExit(3), Unprintable()], ids=repr)
def test_whatever_a_plugin_raises_is_its_mistake_with_a_place(error):
    fault = explain(raised(error))
    assert isinstance(fault, PluginMistake)
    assert (fault.kind, Path(fault.file).name) == (type(error).__name__, "test_errors.py")
    assert fault.line > 0 and f"line {fault.line}" in str(fault)
    assert "the plugin made a mistake, not the recipe" in str(fault)


def test_an_exception_that_nobody_raised_has_no_place():
    assert "line" not in str(explain(KeyError("width")))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_users_interrupt_is_nobodys_mistake(error):
    with pytest.raises(type(error)):
        explain(error)
    with pytest.raises(type(error)):
        findings_of("teacher", error)


def test_findings_of_errors():
    (missing,) = findings_of("teacher", made(MissingArtifact))
    assert (missing.severity, missing.key, missing.fix) == ("missing", "teacher", "Download it.")
    (fault,) = findings_of("dataset", OSError(errno.EACCES, "Permission denied", "/data"))
    assert (fault.severity, fault.message) == ("error", "/data: Permission denied")
    assert fault.fix == ADVICE[errno.EACCES]
    own = findings_of("masker", RecipeError([Problem("ratio", "is 2"), Problem("", "hides all")]))
    assert [finding.key for finding in own] == ["masker.ratio", "masker"]
    recipes = findings_of("method", made(RecipeError), whole_recipe=True)
    assert [finding.key for finding in recipes] == ["masker.ratio", ""]


def test_every_name_that_the_package_offers_is_there():
    assert salt_toolkit.SaltError is SaltError
    for name in salt_toolkit.__all__:
        assert getattr(salt_toolkit, name) is not None
    with pytest.raises(ImportError, match="Teechers"):
        from salt_toolkit import Teechers  # noqa: F401

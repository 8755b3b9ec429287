"""What stands in the way of using an earlier run is told so that the next command works."""

from __future__ import annotations

import pytest

from salt_toolkit.errors import MissingArtifact
from salt_toolkit.runs.directory import NUM_SHOWN, find_student


@pytest.fixture
def runs(tmp_path):
    """A folder of runs, as far as their layout goes."""
    for number in range(NUM_SHOWN + 2):
        (tmp_path / f"run{number}" / "checkpoints" / "step_1").mkdir(parents=True)
        (tmp_path / f"run{number}" / "recipe.toml").touch()
        (tmp_path / f"run{number}" / "student.safetensors").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    return tmp_path


def missing(path) -> MissingArtifact:
    with pytest.raises(MissingArtifact) as told:
        find_student(path)
    return told.value


@pytest.mark.parametrize("inside", ["student.safetensors", "recipe.toml", "checkpoints", "checkpoints/step_1"])
def test_a_path_inside_a_run_is_told_the_run(runs, inside):
    told = missing(runs / "run1" / inside)
    kind = "file" if "." in inside else "folder"
    assert told.what == f"{runs / 'run1' / inside} is a {kind} inside a run"
    assert told.fix == f"Name the run's directory, {runs / 'run1'}."
    assert find_student(runs / "run1") == runs / "run1" / "student.safetensors"


def test_a_folder_of_runs_lists_some_of_them(runs):
    told = missing(runs)
    assert told.what.startswith(f"the directory {runs} holds no run")
    listed = ", ".join(str(runs / f"run{number}") for number in range(NUM_SHOWN))
    assert told.fix == f"Name one of the runs in it: {listed}, ..."


def test_what_has_nothing_to_do_with_a_run_is_not_taken_for_one(runs):
    assert missing(runs / "notes" / "notes.txt").what.endswith("notes.txt is a file, not the directory of a run")
    for name in ("notes", "nowhere", "run1/nowhere"):
        told = missing(runs / name)
        assert told.what == f"the directory {runs / name} holds no run (no recipe.toml in it)"
        assert told.fix == "Train it first with `salt run`, or name another run directory."

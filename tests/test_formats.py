"""Every file that salt writes says its format, and one in another format is refused with the version to use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from salt_toolkit import __version__
from salt_toolkit.runs.directory import RunDirectory, check_student, load_student, run_recipe
from salt_toolkit.store import shard
from salt_toolkit.system.formats import FORMATS, FormatError, check_format, stamp
from salt_toolkit.teaching import fingerprint
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.run import run_recipe as train

PAGE = Path(__file__).parents[1] / "docs" / "stability.md"


def test_the_page_lists_every_format_and_its_number():
    listed = {name: int(number) for name, number in re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE.read_text(), re.M)}
    assert listed == {**FORMATS, "cache": shard.FORMAT, "fingerprint": fingerprint.FORMAT}


def test_another_number_is_refused_with_the_version_that_wrote_it(tmp_path):
    path = tmp_path / "file.json"
    check_format("run", stamp("run"), path)
    here = rf"the run format 7, and this salt_toolkit \({__version__}\) reads run format 1"
    with pytest.raises(FormatError, match=here):
        check_format("run", {**stamp("run"), "format": 7}, path)
    with pytest.raises(FormatError, match=r"Use salt_toolkit 9\.3, which wrote it"):
        check_format("run", {"format": 7, "salt_toolkit": "9.3"}, path)
    with pytest.raises(FormatError, match="no format number"):
        check_format("run", {}, path)


@pytest.fixture
def trained(small_recipe):
    recipe = small_recipe("train.max_steps=2")
    train(recipe)
    return recipe


def rewritten(path, **values):
    """Changes a JSON file, and gives its text before."""
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), **values}))
    return text


def test_a_run_in_another_format_is_refused(trained):
    directory = RunDirectory.of(trained)
    text = rewritten(directory.environment, format=2, salt_toolkit="0.9.0")
    for refuses in (lambda: run_recipe(directory.path), lambda: check_student(directory.path), lambda: train(trained)):
        with pytest.raises(FormatError, match=r"environment\.json has the run format 2.*Use salt_toolkit 0\.9\.0"):
            refuses()
    directory.environment.write_text(text)
    check_student(directory.path)


def test_a_checkpoint_in_another_format_is_refused_and_not_taken_for_damaged(trained):
    state = checkpoints.paths(RunDirectory.of(trained).checkpoints)[-1] / checkpoints.STATE
    text = rewritten(state, format=0)
    with pytest.raises(FormatError, match="the checkpoint format 0"):
        train(trained)
    state.write_text(text)


def test_a_student_in_another_format_is_refused(trained):
    weights = RunDirectory.of(trained).student
    with safe_open(weights, "pt") as file:
        about = file.metadata()
    assert json.loads(about["salt"]) == {**stamp("student"), "steps": 2}
    content, tensors = weights.read_bytes(), load_file(weights)
    save_file(tensors, weights, {"salt": json.dumps({**stamp("student"), "format": 3})})
    for refuses in (check_student, load_student):
        with pytest.raises(FormatError, match="the student format 3"):
            refuses(weights.parent)
    weights.write_bytes(content)
    load_student(weights.parent)

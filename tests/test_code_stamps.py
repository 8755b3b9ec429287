"""A teacher is another one when its plugin's code changes, unless its config states a revision."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from typing import ClassVar

import pytest

from salt_toolkit.component import TeacherConfig
from salt_toolkit.teaching.code import code_stamps, source_stamp

PLUGIN = """
from salt_toolkit.component import TeacherConfig


class MineConfig(TeacherConfig):
    pass


class StatedConfig(TeacherConfig):
    revision = 3
"""


@pytest.fixture
def stamps(tmp_path, monkeypatch):
    """The stamps of a plugin in two files, as a new process would see them."""
    package = tmp_path / "stamped_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "config.py").write_text(PLUGIN)
    (package / "network.py").write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = importlib.import_module("stamped_plugin.config")

    def stamps(name="MineConfig", **changes):
        for file, text in changes.items():
            (package / f"{file}.py").write_text(text)
        source_stamp.cache_clear()
        return code_stamps(getattr(config, name)())

    yield stamps
    source_stamp.cache_clear()
    for name in [name for name in sys.modules if name.startswith("stamped_plugin")]:
        del sys.modules[name]


def test_a_changed_line_anywhere_in_a_plugin_makes_another_teacher(stamps):
    before = stamps()
    assert list(before) == ["stamped_plugin"] and before == stamps()
    after = stamps(network="SCALE = 2\n")
    assert after != before
    assert stamps(network="SCALE = 1\n") == before
    assert stamps(further="") != before


def test_a_stated_revision_counts_alone(stamps):
    assert stamps("StatedConfig") == {"stamped_plugin": 3} == stamps("StatedConfig", network="SCALE = 2\n")


def test_a_revision_does_not_speak_for_code_that_builds_on_it(stamps):
    stated = type(sys.modules["stamped_plugin.config"].StatedConfig())

    class Derived(stated):
        own: ClassVar[int] = 1

    found = code_stamps(Derived())
    assert found["stamped_plugin"] == 3
    assert str(found[__name__]).startswith("sha256:")


def test_the_core_is_not_listed():
    assert code_stamps(TeacherConfig()) == {}


def test_every_bundled_teacher_states_its_revision(registry):
    """So that a refactoring keeps caches. The template's does not: it shows what a new plugin gets."""
    stamps = {
        provided.component.name: code_stamps(provided.component.config.model_construct(), provided.component.build)
        for provided in registry.of_kind("teacher")
        if provided.plugin.name != "toy"
    }
    assert len(stamps) == 7
    assert {name: found for name, found in stamps.items() if not all(isinstance(s, int) for s in found.values())} == {}


THEIRS = """
from salt_toolkit import Component, Cost, Grid, TeacherConfig, TokenSpec, hookimpl

class Config(TeacherConfig):
    def token_spec(self, clip):
        return TokenSpec(Grid.of(clip, tubelet=2, patch=8), 4)

    def cost(self, inputs):
        return Cost(parameters=0, forward_flops=0)

def build(config, *, clip):
    import torch
    from salt_toolkit.contracts import Teacher

    class Constant(Teacher):
        def __init__(self):
            super().__init__()
            self.token_spec = config.token_spec(clip)
            self.eval()

        def forward(self, batch):
            clips = batch.tensors["clip"]
            return torch.full((len(clips), self.token_spec.grid.num_tokens, 4), 1.0, device=clips.device)

    return Constant()

@hookimpl
def salt_teachers():
    yield Component("theirs", Config, build, "A stranger's teacher.")
"""

RECIPE = """
[run]
name = "stamped"
[clip]
frames = 4
size = 16
[dataset]
use = "toy_squares"
clips = 8
[method]
use = "toy_dense"
[teacher]
use = "theirs"
[student]
use = "toy_mixer"
[objective]
use = "toy_log_cosh"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 1
batch_size = 4
[cache]
dir = "latents"
"""


def test_no_command_goes_on_with_latents_of_code_that_has_changed(tmp_path):
    information = tmp_path / "site" / "theirs_plugin-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[salt_toolkit]\ntheirs = theirs_plugin\n")
    source = tmp_path / "site" / "theirs_plugin.py"
    source.write_text(THEIRS)
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def salt(command, code=0):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "site")}
        words = [sys.executable, "-m", "salt_toolkit", command, "recipe.toml"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return " ".join(done.stderr.split())

    salt("cache")
    shards = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    source.write_text(THEIRS.replace("1.0, device", "2.0, device"))
    for command in ("run", "cache"):
        told = salt(command, code=1)
        assert "belongs to something else: in teachers/teacher, teacher.code.theirs_plugin" in told
        assert "give this teacher another name" in told and "Traceback" not in told
    assert shards and {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == shards
    source.write_text(THEIRS)
    assert "latents come from latents/train" in salt("run")

"""A teacher is another one when its plugin's code changes, unless its config states a revision."""

from __future__ import annotations

import importlib
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

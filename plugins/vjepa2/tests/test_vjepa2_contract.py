"""The component keeps the promises of every teacher."""

from __future__ import annotations

import pytest
from vjepa2_files import save

from salt_toolkit import ClipSpec
from salt_toolkit.testing import TeacherContract


class TestVJEPA2(TeacherContract):
    plugin = "salt_vjepa2"

    @pytest.fixture(autouse=True)
    def checkpoint(self, tmp_path):
        path = save(tmp_path / "checkpoint")
        self.section = {"use": "vjepa2", "checkpoint": str(path), "layer": [1, 2]}


class TestResizingVJEPA2(TestVJEPA2):
    clip = ClipSpec(frames=6, size=20)

    @pytest.fixture(autouse=True)
    def resizing(self, checkpoint):
        self.section = {**self.section, "size": 24, "layer": "last", "norm": "none"}


class TestUntrainedVJEPA2(TestVJEPA2):
    @pytest.fixture(autouse=True)
    def untrained(self, checkpoint):
        self.section = {**self.section, "layer": 2, "weights": "random"}

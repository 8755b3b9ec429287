"""Both components keep the promises of every teacher."""

from __future__ import annotations

import pytest
from videomae_files import SHORT, encoder_weights, save_transformers, save_videomae2, transformers_keys

from salt_toolkit.testing import TeacherContract


class TestVideoMAE(TeacherContract):
    plugin = "salt_videomae"

    @pytest.fixture(autouse=True)
    def checkpoint(self, tmp_path):
        path = save_transformers(tmp_path / "checkpoint", transformers_keys(encoder_weights(SHORT)), SHORT)
        self.section = {"use": "videomae", "checkpoint": str(path), "layer": [1, 2]}


class TestVideoMAE2(TeacherContract):
    plugin = "salt_videomae"

    @pytest.fixture(autouse=True)
    def checkpoint(self, tmp_path):
        shape = SHORT.but(own_norm="fc_norm")
        path = save_videomae2(tmp_path / "checkpoint", encoder_weights(shape), shape)
        self.section = {"use": "videomae2", "checkpoint": str(path)}


class TestUntrainedVideoMAE(TestVideoMAE):
    @pytest.fixture(autouse=True)
    def untrained(self, checkpoint):
        self.section = {**self.section, "layer": "last", "weights": "random"}

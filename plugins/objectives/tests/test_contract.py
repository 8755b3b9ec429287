"""The whole contract of every objective, by the kit that any plugin can use."""

from __future__ import annotations

from salt_toolkit.testing import ObjectiveContract


class TestMSE(ObjectiveContract):
    plugin, section = "salt_objectives", {"use": "mse"}


class TestL1(ObjectiveContract):
    plugin, section = "salt_objectives", {"use": "l1", "target_norm": "layer"}


class TestSmoothL1(ObjectiveContract):
    plugin, section = "salt_objectives", {"use": "smooth_l1", "target_norm": "channel", "calibration_clips": 8}


class TestCosine(ObjectiveContract):
    plugin, section = "salt_objectives", {"use": "cosine", "target_norm": "position", "calibration_clips": 8}


class TestPhiS(ObjectiveContract):
    plugin, section = "salt_objectives", {"use": "mse", "target_norm": "phi_s", "calibration_clips": 8}


class TestRunning(ObjectiveContract):
    plugin, section = "salt_objectives", {"use": "l1", "target_norm": "channel", "statistics": "running"}

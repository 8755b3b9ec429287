"""The whole contract of every schedule, by the kit that any plugin can use."""

from __future__ import annotations

from salt_toolkit.testing import ScheduleContract


class TestConstant(ScheduleContract):
    plugin, section = "salt_schedules", {"use": "constant", "value": 0.05}


class TestLinear(ScheduleContract):
    plugin, section = "salt_schedules", {"use": "linear", "start": 0.6, "end": 0.8}


class TestCosine(ScheduleContract):
    plugin, section = "salt_schedules", {"use": "cosine", "start": 0.04, "end": 0.4}


class TestWarmupCosine(ScheduleContract):
    plugin, section = "salt_schedules", {"use": "warmup_cosine", "peak": 1.5e-4, "floor": 3e-5, "warmup_steps": 20}

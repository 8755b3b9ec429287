"""The whole contract of every component, by the kit that any plugin can use."""

from __future__ import annotations

import salt_toy
from salt_toy.config import LogCoshConfig, MixerConfig, ProjectionConfig

from salt_toolkit import testing
from salt_toolkit.contracts import Parts


class TestTeacher(testing.TeacherContract):
    plugin, section = "salt_toy", {"use": "toy_projection", "dim": 12}


class TestStudent(testing.StudentContract):
    plugin, section = "salt_toy", {"use": "toy_mixer", "tubelet": 4}


class TestPredictor(testing.PredictorContract):
    plugin, section = "salt_toy", {"use": "toy_regressor"}


class TestMasker(testing.MaskerContract):
    plugin, section = "salt_toy", {"use": "toy_window", "ratio": 0.9}


class TestDataset(testing.DatasetContract):
    plugin, section = "salt_toy", {"use": "toy_squares", "split": "validation", "clips": 12}


class TestSchedule(testing.ScheduleContract):
    plugin, section = "salt_toy", {"use": "toy_decay", "start": 1e-3, "end": 1e-5}


class TestObjective(testing.ObjectiveContract):
    plugin, section = "salt_toy", {"use": "toy_log_cosh", "width": 2.0}


class TestMethod(testing.MethodContract):
    plugin, section = "salt_toy", {"use": "toy_dense"}

    def parts(self):
        teacher = salt_toy.build_projection(ProjectionConfig(), clip=self.clip)
        student = salt_toy.build_mixer(MixerConfig(), clip=self.clip)
        objective = salt_toy.build_log_cosh(LogCoshConfig(), teacher=teacher.token_spec)
        return Parts(seed=0, teachers={"one": teacher}, objectives={"one": objective}, student=student)

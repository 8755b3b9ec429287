"""The contract test kit: ten lines give a new component its tests.

Subclass the class of your component's kind in a test file, name the plugin and a recipe's section::

    from salt_toolkit.testing import TeacherContract

    class TestMyTeacher(TeacherContract):
        plugin = "my_package"
        section = {"use": "mine", "dim": 32}

pytest then runs every promise of `salt_toolkit.contracts` and `salt_toolkit.hookspecs` against it. The
classes are plain: each ``test_`` method can also be called by hand, and raises `ContractBroken`.
"""

from salt_toolkit.testing.base import ComponentContract, ContractBroken, random_batch
from salt_toolkit.testing.data import DatasetContract, MaskerContract, ScheduleContract
from salt_toolkit.testing.methods import MethodContract, ObjectiveContract
from salt_toolkit.testing.models import PredictorContract, StudentContract, TeacherContract

__all__ = [
    "ComponentContract",
    "ContractBroken",
    "DatasetContract",
    "MaskerContract",
    "MethodContract",
    "ObjectiveContract",
    "PredictorContract",
    "ScheduleContract",
    "StudentContract",
    "TeacherContract",
    "random_batch",
]

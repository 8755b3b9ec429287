"""This process's rank, from the environment set by torchrun, Accelerate or a cluster's launcher."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from salt_toolkit.errors import RunError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Launch:
    """This process's rank in a run; without a launcher there is a single process.

    Attributes:
        rank: Its number among all processes, from 0.
        world_size: How many processes there are.
        local_rank: Its number among those of this machine, which is that of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls, environment: Mapping[str, str] | None = None) -> Launch:
        """Reads the environment variables that all launchers set.

        Args:
            environment: Used instead of this process's environment.

        Raises:
            RunError: The variables are incomplete or contradict one another.
        """
        found = {name: (os.environ if environment is None else environment).get(name) for name in VARIABLES}
        if all(value is None for value in found.values()):
            return cls()
        numbers = {name: _number(value) for name, value in found.items()}
        rank, world_size, local_rank = (numbers[name] for name in VARIABLES)
        if found["LOCAL_RANK"] is None and world_size == 1:
            local_rank = 0  # one process needs no number for its GPU
        if rank is None or world_size is None or local_rank is None or not max(rank, local_rank) < world_size:
            shown = ", ".join(f"{name} {'unset' if value is None else repr(value)}" for name, value in found.items())
            raise RunError(
                f"the environment does not say which of several processes this is ({shown}): expected whole numbers "
                "with 0 <= RANK, LOCAL_RANK < WORLD_SIZE",
                "Start salt with torchrun or `accelerate launch`, which set all three; for a single process, unset all "
                f"three: `unset {' '.join(VARIABLES)}`.",
            )
        return cls(rank, world_size, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None

"""Who a teacher is: everything that decides its latents, in clear and as one fingerprint; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from salt_toolkit.component import TeacherConfig
from salt_toolkit.context import Inputs
from salt_toolkit.teaching.code import code_stamps
from salt_toolkit.weights.locate import file_digest

FORMAT = 2
"""Raised whenever equal fields would no longer mean equal latents."""


@dataclass(frozen=True)
class TeacherIdentity:
    """What decides a teacher's latents of a clip.

    Attributes:
        fields: Plain values: the component, its code, what its config says of the latents, digests of its weights.
    """

    fields: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits; equal for equal fields, on every machine."""
        text = json.dumps(self.fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def identify(
    component: str, config: TeacherConfig, inputs: Inputs, build: Callable[..., Any] | None = None
) -> TeacherIdentity:
    """Finds out who a teacher is.

    Args:
        component: Its name, as recipes write it.
        config: Its config.
        inputs: The samples that it sees.
        build: What builds it; its package is stamped, too.

    Raises:
        TypeError: Its config's answer is more than plain values.
        MissingArtifact: Its weights are not on this machine.
        CheckpointError: They are not what they should be.
        GeometryError: The samples do not fit.
    """
    for missing in config.missing():
        raise missing
    identity = TeacherIdentity(
        {
            "format": FORMAT,
            "teacher": component,
            "code": code_stamps(config, build),
            "config": dict(config.identity(inputs)),
            "weights": [f"sha256:{file_digest(file)}" for file in config.weight_files()] or "none",
        }
    )
    _ = identity.fingerprint  # what cannot be written down fails here, where the config is known
    return identity

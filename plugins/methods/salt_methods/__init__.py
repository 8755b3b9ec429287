"""Methods: what a batch's loss is, and which modules learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_methods.config import MaskedLatentConfig
from salt_toolkit import Component, hookimpl

if TYPE_CHECKING:
    from salt_toolkit.contracts import Method, Parts


def build_masked_latent(config: MaskedLatentConfig, *, parts: Parts) -> Method:
    """Builds masked latent regression."""
    from salt_methods.masked_latent import MaskedLatent

    return MaskedLatent(config, parts)


@hookimpl
def salt_methods() -> Iterable[Component]:
    """The methods of this plugin."""
    yield Component(
        "masked_latent",
        MaskedLatentConfig,
        build_masked_latent,
        "Regresses a frozen teacher's latents at tokens hidden from the student (SALT).",
    )

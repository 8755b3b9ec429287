"""Settings of the methods."""

from __future__ import annotations

from typing import ClassVar

from salt_toolkit import MethodConfig


class MaskedLatentConfig(MethodConfig):
    """Masked latent regression has no settings of its own: its parts have them."""

    needs: ClassVar[tuple[str, ...]] = ("teacher", "student", "predictor", "masker", "objective")
    schedules: ClassVar[tuple[str, ...]] = ("mask_ratio",)

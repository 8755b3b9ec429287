"""Metadata of published weights: licence, training labels, and where to get them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """Licence and training labels of some weights.

    Attributes:
        licence: SPDX-like identifier, such as ``apache-2.0``; "unknown" where nothing is stated.
        labels: Labels the weights were trained with, such as "Kinetics-710"; "none" for
            self-supervised ones, "captions" for image-text pairs, "unknown" where nothing is stated.
    """

    licence: str = "unknown"
    labels: str = "unknown"

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use, by the names that such licences have."""
        return any(word in self.licence.lower() for word in ("-nc", "noncommercial", "non-commercial", "amlr"))


@dataclass(frozen=True)
class KnownCheckpoint:
    """One line of `salt teachers`: a published checkpoint that a teacher can load.

    Attributes:
        checkpoint: What the recipe says: a hub id, a model's name, or the original file's name.
        key: The recipe's key that takes it.
        size: The family's name of its size, such as ``base``.
        parameters: Numbers in the encoder, in millions.
        grid: Tokens of its native clip as frames x rows x columns.
        dim: Numbers in one latent.
        card: Licence and labels.
        note: Where to get it, if it is not on the hub, or what else to know; often empty.
    """

    checkpoint: str
    key: str
    size: str
    parameters: float
    grid: str
    dim: int
    card: ModelCard
    note: str = ""

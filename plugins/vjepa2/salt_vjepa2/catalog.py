"""The published checkpoints of V-JEPA 2: sizes, licences, labels; no torch.

Sources: README.md of facebookresearch/vjepa2, the model cards on the hub, transformers' conversion
scripts (convert_vjepa2_to_hf.py, convert_vjepa2_classifier_to_hf.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from salt_toolkit import KnownCheckpoint, ModelCard
from salt_toolkit.geometry import Grid
from salt_vjepa2.architecture import SIZES, Architecture


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        name: A hub id.
        size: Key of `SIZES`.
        frames: Frames of the clips that it was made for.
        pixels: Height and width of those clips.
        licence: As in `ModelCard`.
        probe: The labelled data set of the classifier beside the encoder; empty without one.
    """

    name: str
    size: str
    frames: int
    pixels: int
    licence: str
    probe: str = ""

    @property
    def architecture(self) -> Architecture:
        """By heart, until its file says it itself."""
        return SIZES[self.size]

    @property
    def card(self) -> ModelCard:
        """Classifiers were trained on the frozen encoder, so no encoder has learned from labels."""
        return ModelCard(self.licence, "none")

    @property
    def known(self) -> KnownCheckpoint:
        """Its line in `salt teachers`."""
        made = self.architecture
        grid = Grid(self.frames // made.tubelet, self.pixels // made.patch, self.pixels // made.patch)
        return KnownCheckpoint(
            checkpoint=self.name,
            key="checkpoint",
            size=self.size,
            parameters=round((made.around(grid).parameters + made.depth * made.block(grid).parameters) / 1e6, 1),
            grid=f"{grid.frames}x{grid.rows}x{grid.columns}",
            dim=made.dim,
            card=self.card,
            note=f"the pre-trained encoder, with a classifier of {self.probe} beside it" if self.probe else "",
        )


_SSV2, _DIVING = "Something-Something v2", "Diving-48"

PUBLISHED: tuple[Published, ...] = (
    Published("facebook/vjepa2-vitl-fpc64-256", "large", 64, 256, "mit"),
    # Copies of its model card state one or the other.
    Published("facebook/vjepa2-vith-fpc64-256", "huge", 64, 256, "mit or apache-2.0"),
    Published("facebook/vjepa2-vitg-fpc64-256", "giant", 64, 256, "apache-2.0"),
    Published("facebook/vjepa2-vitg-fpc64-384", "giant", 64, 384, "apache-2.0"),
    Published("facebook/vjepa2-vitl-fpc16-256-ssv2", "large", 16, 256, "mit", _SSV2),
    Published("facebook/vjepa2-vitg-fpc64-384-ssv2", "giant", 64, 384, "mit", _SSV2),
    Published("facebook/vjepa2-vitl-fpc32-256-diving48", "large", 32, 256, "mit", _DIVING),
    Published("facebook/vjepa2-vitg-fpc32-384-diving48", "giant", 32, 384, "mit", _DIVING),
)
"""``fpc`` is frames per clip; the number behind it is the size."""

"""The published checkpoints of VideoMAE and VideoMAEv2: sizes, licences, labels; no torch.

Sources: MODEL_ZOO.md of both projects, the model cards on the hub.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from salt_toolkit import KnownCheckpoint, ModelCard
from salt_videomae.architecture import SIZES, Architecture, OwnNorm

LICENCE = "cc-by-nc-4.0"
DATASETS = {400: "Kinetics-400", 174: "Something-Something v2"}
"""Labelled data sets by their number of classes, as files of fine-tuned models tell it."""

DATASETS2 = {
    710: "Kinetics-710",
    400: "Kinetics-400, perhaps Kinetics-710",
    600: "Kinetics-600, Kinetics-710",
    174: "Something-Something v2",
    101: "UCF101, Kinetics-710",
    51: "HMDB51, Kinetics-710",
}
"""Likewise of VideoMAEv2, some of whose files were fine-tuned on Kinetics-710 first (their names say k710_it)."""


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        name: A hub id, or the name of the authors' file.
        size: Key of `SIZES`.
        own_norm: Which last norm its file has.
        labels: As in `ModelCard`.
        note: Where to get what is not on the hub.
    """

    name: str
    size: str
    own_norm: OwnNorm
    labels: str
    note: str = ""

    @property
    def architecture(self) -> Architecture:
        """By heart, until its file says it itself."""
        return replace(SIZES[self.size], own_norm=self.own_norm)

    @property
    def known(self) -> KnownCheckpoint:
        """Its line in `salt teachers`."""
        made = self.architecture
        grid = f"{made.grid.frames}x{made.grid.rows}x{made.grid.columns}"
        parameters = (made.around.parameters + made.depth * made.block.parameters) / 1e6
        card = ModelCard(LICENCE, self.labels)
        return KnownCheckpoint(
            self.name, "checkpoint", self.size, round(parameters, 1), grid, made.dim, card, self.note
        )


def _hub(name: str, labels: str = "none") -> Published:
    own: OwnNorm = "fc_norm" if "finetuned" in name else "norm"
    return Published(f"MCG-NJU/videomae-{name}", name.split("-")[0], own, labels)


_ZOO = "the authors' MODEL_ZOO.md links the file"
FILE = "/path/to/checkpoint.pth"
"""Stands for wherever the authors' file lies."""

VIDEOMAE: tuple[Published, ...] = (
    *(_hub(name) for name in ("base", "base-short", "large", "base-ssv2", "base-short-ssv2")),
    *(_hub(f"{size}-finetuned-kinetics", "Kinetics-400") for size in ("small", "base", "base-short", "large", "huge")),
    *(_hub(f"{size}-finetuned-ssv2", "Something-Something v2") for size in ("small", "base", "base-short")),
    *(Published(FILE, size, "norm", "none", _ZOO) for size in ("small", "base", "large", "huge")),
)
"""There is no pre-trained Huge on the hub: it exists as the authors' .pth alone."""

_G = "the authors' form gives access to the file"

_LAST = (("k400", "Kinetics-400"), ("k600", "Kinetics-600"), ("ucf101", "UCF101"), ("hmdb51", "HMDB51"))

VIDEOMAE2: tuple[Published, ...] = (
    Published("OpenGVLab/VideoMAEv2-Base", "base", "fc_norm", "Kinetics-710"),
    Published("OpenGVLab/VideoMAEv2-Large", "large", "fc_norm", "unknown"),
    Published("OpenGVLab/VideoMAEv2-Huge", "huge", "fc_norm", "unknown"),
    Published("OpenGVLab/VideoMAEv2-giant", "giant", "fc_norm", "unknown"),
    Published("vit_s_k710_dl_from_giant.pth", "small", "fc_norm", "Kinetics-710", "the hub: OpenGVLab/VideoMAE2"),
    Published("vit_b_k710_dl_from_giant.pth", "base", "fc_norm", "Kinetics-710", "the hub: OpenGVLab/VideoMAE2"),
    Published("vit_g_hybrid_pt_1200e.pth", "giant", "norm", "none", _G),
    *(
        Published(f"vit_g_hybrid_pt_1200e_{tuned}_ft.pth", "giant", "fc_norm", labels, _G)
        for tuned, labels in (
            ("k710", "Kinetics-710"),
            ("k400", "Kinetics-400"),
            ("ssv2", "Something-Something v2"),
            *((f"k710_it_{last}", f"{labels}, Kinetics-710") for last, labels in _LAST),
        )
    ),
)
"""The hub's Base is the one distilled from the giant, with labels, whatever its card says."""


def hub_ids(published: tuple[Published, ...]) -> tuple[str, ...]:
    """Those that the hub has."""
    return tuple(entry.name for entry in published if not entry.note)

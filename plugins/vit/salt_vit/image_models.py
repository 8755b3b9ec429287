"""timm's image models as the table `image_models.json` describes them; arithmetic only, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from salt_toolkit import Cost, KnownCheckpoint, ModelCard
from salt_toolkit.flops import linear_flops

CHANNELS = 3
Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]
PIXELS: dict[str, Pixels] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "plain": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "satellite": ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)),
}
"""Mean and deviation of pixels of 0 to 1, under the names that the table uses."""


@dataclass(frozen=True)
class Looks:
    """What the shapes in a file show of an image model.

    Attributes:
        depth: Blocks.
        dim: Numbers in one token.
        patch: Height and width of a patch, in pixels.
        class_token: Whether there is one.
        others: Tokens besides it that are not patches: registers, a distillation token.
        side: Patches along a side of the pictures that it has positions for; 0 where it learned no positions.
    """

    depth: int
    dim: int
    patch: int
    class_token: bool
    others: int
    side: int

    def __str__(self) -> str:
        tokens = f"{'a' if self.class_token else 'no'} class token and {self.others} others beside the patches"
        positions = f"positions for {self.side} x {self.side} patches" if self.side else "no learned positions"
        return f"{self.depth} blocks of width {self.dim}, patches of {self.patch} pixels, {tokens}, {positions}"


@dataclass(frozen=True)
class ImageArchitecture:
    """What a model is made of.

    Attributes:
        name: In timm, without a tag.
        dim: Numbers in one token.
        depth: Blocks.
        patch: Height and width of a patch, in pixels.
        size: Height and width of the pictures that the published weights are for, in pixels.
        prefix: Tokens before those of the patches: class, registers.
        class_token: Whether the first of them is a class token.
        positions: Whether it learns a position for every patch; these are resampled to another size.
        norm: The last norm, by its name in timm; ``fc_norm`` stands behind the mean over all tokens.
        around_parameters: Parameters beside the blocks, less the positions of patches.
        block_parameters: Parameters of one block.
        block_weights: Those of its Linear layers, which every token meets once.
        attention_flops: FLOPs of one block for each pair of tokens.
    """

    name: str
    dim: int
    depth: int
    patch: int
    size: int
    prefix: int
    class_token: bool
    positions: bool
    norm: Literal["norm", "fc_norm"] | None
    around_parameters: int
    block_parameters: int
    block_weights: int
    attention_flops: int

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any]) -> ImageArchitecture:
        """A row of the table."""
        return cls(name=name, **{field.name: row[field.name] for field in fields(cls) if field.name != "name"})

    def side(self, size: int) -> int:
        """Patches along a side of a picture of ``size`` x ``size`` pixels."""
        return size // self.patch

    def around(self, size: int, *, frames: int) -> Cost:
        """Cost of everything but the blocks, for so many pictures."""
        num_patches = self.side(size) ** 2
        embedding = frames * linear_flops(num_patches, CHANNELS * self.patch**2, self.dim)
        positions = num_patches * self.dim if self.positions else 0
        return Cost(self.around_parameters + positions, embedding, embedding)

    def block(self, size: int, *, frames: int) -> Cost:
        """Cost of one block, for so many pictures."""
        tokens = self.side(size) ** 2 + self.prefix
        per_picture = 2 * tokens * self.block_weights + tokens**2 * self.attention_flops
        return Cost(self.block_parameters, frames * per_picture)

    @property
    def family_size(self) -> str:
        """The size in its name, such as ``base`` or ``small_plus``."""
        words = self.name.partition("_patch")[0].split("_")
        return "_".join(words[-2:]) if words[-1] == "plus" else words[-1]

    @property
    def looks(self) -> Looks:
        """What its files show."""
        side = self.side(self.size) if self.positions else 0
        return Looks(self.depth, self.dim, self.patch, self.class_token, self.prefix - self.class_token, side)


@dataclass(frozen=True)
class ImageWeights:
    """Published weights of a model.

    Attributes:
        name: In timm, with the tag.
        repository: On the hub.
        pixels: Mean and deviation that they want.
        card: Licence and labels.
        instead: Other weights to name, where the model's own activation is not the one that these were trained with.
    """

    name: str
    repository: str
    pixels: Pixels
    card: ModelCard
    instead: str | None


@cache
def _table() -> dict[str, dict[str, Any]]:
    """The table; generated by `tools/make_image_table.py`."""
    return json.loads(Path(__file__).with_name("image_models.json").read_text(encoding="utf-8"))


@cache
def architectures() -> dict[str, ImageArchitecture]:
    """Every model of the table, by name."""
    return {name: ImageArchitecture.of(name, row) for name, row in _table().items()}


@cache
def published_weights(model: str) -> dict[str, ImageWeights]:
    """The published weights of a model by their tags, timm's own choice first."""
    row = _table()[model]
    return {
        tag: ImageWeights(
            name=f"{model}.{tag}",
            repository=entry.get("repository", f"timm/{model}.{tag}"),
            pixels=PIXELS[entry.get("pixels", row["pixels"])],
            card=ModelCard(entry["licence"], entry["labels"]),
            instead=entry.get("instead"),
        )
        for tag, entry in row["weights"].items()
    }


def usual_pixels(model: str) -> Pixels:
    """Mean and deviation of a model, where no weights say otherwise."""
    return PIXELS[_table()[model]["pixels"]]


def known(name: str) -> KnownCheckpoint:
    """The line of `salt teachers` for weights, named with their tag."""
    model, _, tag = name.partition(".")
    made = architectures()[model]
    side = made.side(made.size)
    parameters = made.around(made.size, frames=1).parameters + made.depth * made.block_parameters
    card = published_weights(model)[tag].card
    return KnownCheckpoint(
        name, "model", made.family_size, round(parameters / 1e6, 1), f"1x{side}x{side}", made.dim, card
    )

"""Config of teachers that are encoders with blocks: which of their latents to take; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from salt_toolkit.component import TeacherConfig, unanswered
from salt_toolkit.context import Inputs
from salt_toolkit.errors import GeometryError, SettingError
from salt_toolkit.geometry import ClipSpec, Cost, Grid, TokenSpec

Norm = Literal["none", "layer", "own", "own_layer"]


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is, by arithmetic.

    Attributes:
        architecture: Plain values that decide its function, for the identity.
        frames: Frames of the clip that it sees; another clip's are picked evenly.
        size: Height and width of what it sees, in pixels; another clip's are resized.
        grid: Its tokens of such a clip.
        dim: Numbers in one token.
        depth: Blocks.
        own_norm: Whether the checkpoint brings a last norm.
        own_norm_is_default: Whether ``norm = "auto"`` applies it.
        around: Cost of everything but the blocks, for one clip.
        block: Cost of one block, for one clip.
        mean: Of each colour, subtracted from pixels of 0 to 1.
        std: Of each colour, which those are divided by.
        beside: Further tokens whose numbers are appended to every token, such as a class token.
    """

    architecture: Mapping[str, Any]
    frames: int
    size: int
    grid: Grid
    dim: int
    depth: int
    own_norm: bool
    own_norm_is_default: bool
    around: Cost
    block: Cost
    mean: tuple[float, ...] = field(default=(0.485, 0.456, 0.406))
    std: tuple[float, ...] = field(default=(0.229, 0.224, 0.225))
    beside: int = 0


class LayersConfig(TeacherConfig):
    """Base of configs of teachers that are made of blocks: which of their outputs to take."""

    layer: Literal["last"] | int | tuple[int, ...] = Field(
        "last",
        description="Whose output to take: the last block, the block of that number (the first is 1; -1 is the last), "
        "or several.",
    )
    join: Literal["concat", "mean"] = Field(
        "concat", description="Several layers become one latent: one after another, or their mean."
    )

    @model_validator(mode="after")
    def _join_joins(self) -> LayersConfig:
        if self.join == "mean" and not isinstance(self.layer, tuple):
            message = 'join = "mean" has no effect with one layer; name several, such as layer = [6, 12]'
            raise SettingError(message, fields=["join", "layer"])
        if isinstance(self.layer, tuple) and not self.layer:
            raise SettingError("layer = [] names no layer; name at least one", fields=["layer"])
        return self

    def layers(self, depth: int) -> tuple[int, ...]:
        """The numbers of the blocks whose outputs are taken, from 1.

        Raises:
            GeometryError: There is no such block, or it is named twice.
        """
        named = (-1,) if self.layer == "last" else self.layer if isinstance(self.layer, tuple) else (self.layer,)
        numbers = tuple(number + depth + 1 if number < 0 else number for number in named)
        if any(not 1 <= number <= depth for number in numbers):
            raise GeometryError(
                f"layer = {_shown(named)} names no block of this encoder; it has {depth}: choose 1 to {depth}, "
                f"or -{depth} to -1, counted from the last"
            )
        if len(set(numbers)) < len(numbers):
            raise GeometryError(f"layer = {_shown(named)} names a block twice; name each once")
        return numbers


class EncoderConfig(LayersConfig):
    """Base of configs of frozen encoders; a family answers `encoder_spec`, and all else follows."""

    norm: Literal["auto", "none", "layer", "own", "own_layer"] = Field(
        "auto",
        description="What is done to each layer's tokens. none: nothing. layer: a LayerNorm without weights. own: the "
        "checkpoint's own last norm. own_layer: that, then a LayerNorm without weights. auto: own_layer, or layer "
        "where the checkpoint has no last norm for tokens (fine-tuned and VideoMAEv2's distilled ones).",
    )
    weights: Literal["checkpoint", "random"] = Field(
        "checkpoint", description="random: leave the encoder untrained, always with the same numbers; a control."
    )

    def encoder_spec(self, clip: ClipSpec) -> EncoderSpec:
        """What the encoder is, for such clips; each family answers.

        Raises:
            GeometryError: The clip does not fit.
            MissingArtifact: The answer lies in a file that is not there.
            CheckpointError: The file is not what it should be.
        """
        raise unanswered(self, "encoder_spec")

    def norm_of(self, spec: EncoderSpec) -> Norm:
        """What is done to the tokens, with ``auto`` decided.

        Raises:
            GeometryError: The checkpoint's own norm is asked for, and it has none.
        """
        if self.norm == "auto":
            return "own_layer" if spec.own_norm and spec.own_norm_is_default else "layer"
        if self.norm.startswith("own") and not spec.own_norm:
            raise GeometryError(f'norm = "{self.norm}", and the checkpoint has no last norm; choose "none" or "layer"')
        return self.norm

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The encoder's own grid; it may differ from the student's."""
        spec = self.encoder_spec(clip)
        num_layers = len(self.layers(spec.depth)) if self.join == "concat" else 1
        return TokenSpec(spec.grid, spec.dim * (1 + spec.beside) * num_layers)

    def cost(self, inputs: Inputs) -> Cost | None:
        """The encoder up to the last block that is used; later ones are dropped."""
        spec = self.encoder_spec(inputs.video)
        num_blocks = max(self.layers(spec.depth))
        return Cost(
            parameters=spec.around.parameters + num_blocks * spec.block.parameters,
            forward_flops=spec.around.forward_flops + num_blocks * spec.block.forward_flops,
            input_flops=spec.around.input_flops,
        )

    def identity(self, inputs: Inputs) -> Mapping[str, Any]:
        """All that decides the latents besides the weights; the same for two ways to say the same."""
        spec = self.encoder_spec(inputs.video)
        layers: Sequence[int] = self.layers(spec.depth)
        return {
            "architecture": dict(spec.architecture),
            "layers": list(layers),
            "join": self.join if len(layers) > 1 else "concat",
            "norm": self.norm_of(spec),
            "tokens_beside": spec.beside,
            "untrained": self.weights == "random",
            "preprocessing": {
                "frames": spec.frames,
                "size": spec.size,
                "mean": list(spec.mean),
                "std": list(spec.std),
            },
        }


def _shown(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else str(list(numbers))

"""What a VideoMAE checkpoint is: from its config.json, from its weights' shapes, or by heart; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from salt_toolkit import CheckpointError
from salt_toolkit.flops import block_flops, block_parameters, linear_flops, linear_parameters
from salt_toolkit.geometry import Cost, Grid
from salt_videomae.layouts import PROJECTION, Layout, layout_of

CHANNELS = 3
OwnNorm = Literal["norm", "fc_norm"]


@dataclass(frozen=True)
class Architecture:
    """A VideoMAE encoder; v1 and v2 compute the same.

    Attributes:
        dim: Width in numbers.
        depth: Blocks.
        heads: Attention heads, which no weight's shape tells; 0 where nothing else does.
        mlp_dim: Width of the MLPs.
        patch: Height and width of a token, in pixels.
        frames: Frames of its clips.
        size: Height and width of its clips, in pixels.
        tubelet: Frames in a token.
        own_norm: The last norm in the file: ``norm`` after the last block (pre-trained), ``fc_norm``
            behind the mean of all tokens (fine-tuned, distilled), or none.
        qv_bias: Whether queries and values have biases, as all published ones.
        classes: Classes of the file's classifier; 0 without one.
    """

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    patch: int = 16
    frames: int = 16
    size: int = 224
    tubelet: int = 2
    own_norm: OwnNorm | None = "norm"
    qv_bias: bool = True
    classes: int = 0

    @property
    def grid(self) -> Grid:
        """Its tokens of a clip."""
        return Grid(self.frames // self.tubelet, self.size // self.patch, self.size // self.patch)

    @property
    def around(self) -> Cost:
        """Embedding and last norm."""
        pixels = CHANNELS * self.tubelet * self.patch**2
        embedding = linear_flops(self.grid.num_tokens, pixels, self.dim)
        norm = 2 * self.dim if self.own_norm else 0
        return Cost(linear_parameters(pixels, self.dim) + norm, forward_flops=embedding, input_flops=embedding)

    @property
    def block(self) -> Cost:
        """One block; it has biases for queries and values, and none for keys."""
        biases = 2 * self.dim if self.qv_bias else 0
        return Cost(
            parameters=block_parameters(self.dim, self.mlp_dim, qkv_bias=False) + biases,
            forward_flops=block_flops(self.grid.num_tokens, self.dim, self.mlp_dim),
        )

    def described(self) -> dict[str, Any]:
        """What decides its function, in plain values."""
        names = ("dim", "depth", "heads", "mlp_dim", "patch", "frames", "size", "tubelet", "qv_bias")
        return {name: getattr(self, name) for name in names}

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by the authors' keys."""
        dim = self.dim
        block = {
            **_with_bias("norm1", (dim,)),
            **_with_bias("norm2", (dim,)),
            **({"attn.q_bias": (dim,), "attn.v_bias": (dim,)} if self.qv_bias else {}),
            "attn.qkv.weight": (3 * dim, dim),
            **_with_bias("attn.proj", (dim, dim)),
            **_with_bias("mlp.fc1", (self.mlp_dim, dim)),
            **_with_bias("mlp.fc2", (dim, self.mlp_dim)),
        }
        return {
            **_with_bias("patch_embed.proj", (dim, CHANNELS, self.tubelet, self.patch, self.patch)),
            **{f"blocks.{number}.{key}": shape for number in range(self.depth) for key, shape in block.items()},
            **(_with_bias(self.own_norm, (dim,)) if self.own_norm else {}),
        }

    @property
    def label(self) -> str:
        """For errors: its name, or its width and depth where it has none."""
        names = {(known.dim, known.depth): name for name, known in SIZES.items()}
        name = names.get((self.dim, self.depth))
        return f"VideoMAE's {name} encoder" if name else f"a VideoMAE of width {self.dim} and {self.depth} blocks"


def _with_bias(name: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


SIZES = {
    "small": Architecture(384, 12, 6, 1536),
    "base": Architecture(768, 12, 12, 3072),
    "large": Architecture(1024, 24, 16, 4096),
    "huge": Architecture(1280, 32, 16, 5120),
    "giant": Architecture(1408, 40, 16, 6144, patch=14),
}
"""The published sizes; giant exists in VideoMAEv2 only. Source: modeling_finetune.py of both projects."""


def from_shapes(name: str, shapes: Mapping[str, tuple[int, ...]], *, base: Architecture | None = None) -> Architecture:
    """Finds out what a file holds.

    Args:
        name: The checkpoint, for errors.
        shapes: Of its weights, as `salt_toolkit.weights.headers.tensor_shapes` gives them.
        base: What the config.json beside it says; the shapes must agree.

    Raises:
        CheckpointError: It is no VideoMAE encoder, or not the one that its config.json describes.
    """
    layout = layout_of(shapes)
    if layout is None:
        tops = ", ".join(sorted({key.partition(".")[0] for key in shapes})[:6])
        raise CheckpointError(
            f"{name} is no VideoMAE checkpoint: it has no patch embedding of clips; its {len(shapes)} weights "
            f"begin with {tops}. Name another file, or another teacher"
        )
    found = _measured(name, layout, shapes)
    if base is None:
        sizes = {(known.dim, known.depth, known.mlp_dim): known.heads for known in SIZES.values()}
        return replace(found, heads=sizes.get((found.dim, found.depth, found.mlp_dim), 0))
    for field in ("dim", "depth", "mlp_dim", "patch", "tubelet"):
        told, measured = getattr(base, field), getattr(found, field)
        if told != measured:
            raise CheckpointError(
                f"{name} contradicts itself: config.json says {field} = {told}, and its weights have {measured}; "
                "download the checkpoint again"
            )
    return replace(base, own_norm=found.own_norm, classes=found.classes)


def _measured(name: str, layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    native = layout.native_keys(name, shapes)
    kernel = native[PROJECTION]
    if len(kernel) != 5:
        raise CheckpointError(
            f"{name} is no VideoMAE checkpoint: its patch embedding of shape {list(kernel)} takes single pictures, as "
            "DINO's does, and not clips; name another file, or another teacher"
        )
    dim, channels, tubelet, patch, width = kernel
    try:
        mlp_dim = native["blocks.0.mlp.fc1.weight"][0]
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"{name} is not a whole VideoMAE encoder: it lacks blocks.0.mlp.fc1.weight; download it again"
        ) from error
    if channels != CHANNELS or patch != width:
        raise CheckpointError(
            f"{name} embeds {channels} channels in patches of {patch} x {width} pixels; salt takes square patches of "
            "3 colours"
        )
    depth = 1 + max(int(number) for key in native for number in re.findall(r"^blocks\.(\d+)\.", key))
    classes = layout.num_classes(shapes)
    own: OwnNorm | None = "norm" if "norm.weight" in native else "fc_norm" if "fc_norm.weight" in native else None
    return Architecture(dim, depth, 0, mlp_dim, patch=patch, tubelet=tubelet, own_norm=own, classes=classes)

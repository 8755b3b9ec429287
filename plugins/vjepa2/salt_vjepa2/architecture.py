"""What a V-JEPA 2 encoder is: from its config.json, or by heart; held against its weights' shapes. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salt_toolkit import CheckpointError
from salt_toolkit.flops import block_flops, block_parameters, linear_flops, linear_parameters
from salt_toolkit.geometry import Cost, Grid
from salt_toolkit.weights.whole import require_whole

CHANNELS = 3
CLASSIFIER_PREFIX = "vjepa2."
"""What fine-tuned files put before every key of the model; they have a pooler and a classifier beside it."""

BESIDE = (r"predictor\.", r"pooler\.", r"classifier\.")
"""What published files hold besides the encoder."""

PROJECTION = "encoder.embeddings.patch_embeddings.proj.weight"
FIRST_MLP = "encoder.layer.0.mlp.fc1.weight"
QUERIES_KEYS_VALUES = ("attention.query", "attention.key", "attention.value")


@dataclass(frozen=True)
class Architecture:
    """A V-JEPA 2 encoder. Its positions are rotary, so no size of clip belongs to it.

    Attributes:
        dim: Width in numbers.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Width of the MLPs over that of the tokens.
        patch: Height and width of a token, in pixels.
        tubelet: Frames in a token.
        qkv_bias: Whether queries, keys and values have biases, as all published ones.
        eps: Of every LayerNorm.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    patch: int = 16
    tubelet: int = 2
    qkv_bias: bool = True
    eps: float = 1e-6

    @property
    def mlp_dim(self) -> int:
        """Width of the MLPs in numbers, rounded as transformers rounds it."""
        return int(self.dim * self.mlp_ratio)

    def around(self, grid: Grid) -> Cost:
        """Embedding and last norm, for a clip of that grid."""
        pixels = CHANNELS * self.tubelet * self.patch**2
        embedding = linear_flops(grid.num_tokens, pixels, self.dim)
        return Cost(linear_parameters(pixels, self.dim) + 2 * self.dim, embedding, embedding)

    def block(self, grid: Grid) -> Cost:
        """One block, for a clip of that grid; turning queries and keys takes no matrix product."""
        return Cost(
            parameters=block_parameters(self.dim, self.mlp_dim, qkv_bias=self.qkv_bias),
            forward_flops=block_flops(grid.num_tokens, self.dim, self.mlp_dim),
        )

    def described(self) -> dict[str, Any]:
        """What decides its function, in plain values."""
        names = ("dim", "depth", "heads", "mlp_dim", "patch", "tubelet", "qkv_bias", "eps")
        return {name: getattr(self, name) for name in names}

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by transformers' keys."""
        dim, mlp, norm = self.dim, self.mlp_dim, {"weight": (self.dim,), "bias": (self.dim,)}
        shapes = {
            "embeddings.patch_embeddings.proj": {
                "weight": (dim, CHANNELS, self.tubelet, self.patch, self.patch),
                "bias": (dim,),
            },
            "layernorm": norm,
        }
        for number in range(self.depth):
            at = f"layer.{number}."
            shapes |= {at + name: _linear(dim, dim, bias=self.qkv_bias) for name in QUERIES_KEYS_VALUES}
            shapes[f"{at}attention.proj"] = _linear(dim, dim)
            shapes |= {f"{at}norm1": norm, f"{at}norm2": norm}
            shapes |= {f"{at}mlp.fc1": _linear(dim, mlp), f"{at}mlp.fc2": _linear(mlp, dim)}
        return {f"encoder.{module}.{name}": shape for module, own in shapes.items() for name, shape in own.items()}

    @property
    def label(self) -> str:
        """For errors."""
        return f"a V-JEPA 2 encoder of width {self.dim} and {self.depth} blocks"


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {"weight": (outputs, inputs)} | ({"bias": (outputs,)} if bias else {})


SIZES = {
    "large": Architecture(1024, 24, 16, 4.0),
    "huge": Architecture(1280, 32, 16, 4.0),
    "giant": Architecture(1408, 40, 22, 48 / 11),
}
"""The published sizes. Source: transformers' convert_vjepa2_to_hf.py."""


def from_config(name: str, config: Mapping[str, Any]) -> Architecture:
    """Reads transformers' config.json; a key that is absent means what it means there.

    Raises:
        CheckpointError: It describes another model, or none that can be.
    """
    kind = config.get("model_type")
    if kind != "vjepa2":
        instead = f', or set use = "{kind}"' if kind == "videomae" else ""
        raise CheckpointError(f"{name} is a model of type {kind!r}, not a 'vjepa2'; name another checkpoint{instead}")
    for key, only in (("hidden_act", "gelu"), ("in_chans", CHANNELS)):
        if config.get(key, only) != only:
            raise CheckpointError(
                f"{name} was made with {key} = {config[key]!r}, and V-JEPA 2 has {only!r}; name another checkpoint"
            )
    made = Architecture(
        dim=_count(name, config, "hidden_size", 1024),
        depth=_count(name, config, "num_hidden_layers", 24),
        heads=_count(name, config, "num_attention_heads", 16),
        mlp_ratio=_positive(name, config, "mlp_ratio", 4.0),
        patch=_count(name, config, "patch_size", 16),
        tubelet=_count(name, config, "tubelet_size", 2),
        qkv_bias=bool(config.get("qkv_bias", True)),
        eps=_positive(name, config, "layer_norm_eps", 1e-6),
    )
    if made.dim % made.heads:
        raise CheckpointError(f"{name} says {made.heads} attention heads, which do not divide its width of {made.dim}")
    return made


def require_described(name: str, made: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Holds what config.json says against the shapes of all weights.

    Raises:
        CheckpointError: They are no V-JEPA 2 encoder, or not the whole of the one described.
    """
    native = {key.removeprefix(CLASSIFIER_PREFIX): shape for key, shape in shapes.items()}
    if len(native) < len(shapes):
        raise CheckpointError(f"{name} holds weights twice, with and without {CLASSIFIER_PREFIX}; keep one of each")
    if PROJECTION not in native or FIRST_MLP not in native:
        lacks = PROJECTION if PROJECTION not in native else FIRST_MLP
        tops = ", ".join(sorted({key.partition(".")[0] for key in shapes})[:6])
        raise CheckpointError(
            f"{name} is no V-JEPA 2 checkpoint: it lacks {lacks}; its {len(shapes)} weights begin with {tops}. "
            "Name another checkpoint, or another teacher"
        )
    kernel = (made.dim, CHANNELS, made.tubelet, made.patch, made.patch)
    depth = 1 + max(int(number) for key in native for number in re.findall(r"^encoder\.layer\.(\d+)\.", key))
    compared = {
        "a patch embedding of": (kernel, native[PROJECTION]),
        "a first MLP of": ((made.mlp_dim, made.dim), native[FIRST_MLP]),
        "blocks numbering": (made.depth, depth),
    }
    for what, (told, measured) in compared.items():
        if told != measured:
            raise CheckpointError(
                f"{name} contradicts itself: config.json says {what} {told}, and its weights have {measured}; "
                "download the checkpoint again"
            )
    require_whole(native, made.weight_shapes(), what=made.label, name=name, beside=BESIDE)


def _count(name: str, config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{name} says {key} = {value!r} in its config.json, which is no positive whole number")
    return value


def _positive(name: str, config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise CheckpointError(f"{name} says {key} = {value!r} in its config.json, which is no positive number")
    return float(value)

"""The layouts in which VideoMAE's weights are published, told apart by their keys; no torch.

==============  ========================================  ==========================================
layout          where                                     keys
==============  ========================================  ==========================================
pretraining     the authors' .pth, self-supervised        ``encoder.blocks.0...``, beside a decoder
plain           the authors' .pth, fine-tuned, distilled  ``blocks.0...``, beside a classifier
wrapped         VideoMAEv2 on the hub                     ``model.blocks.0...``
transformers    VideoMAE (v1) on the hub, save_pretrained ``[videomae.]encoder.layer.0...``
==============  ========================================  ==========================================

Source: modeling_pretrain.py and modeling_finetune.py of both projects; transformers'
convert_videomae_to_pytorch.py. Keys of pre-training and plain files are the native ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from salt_toolkit import CheckpointError

ValueT = TypeVar("ValueT")

PROJECTION = "patch_embed.proj.weight"
_TRANSFORMERS_PROJECTION = "embeddings.patch_embeddings.projection.weight"

_FROM_TRANSFORMERS = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    # transformers wrote q_bias and v_bias, and read and wrote query.bias and value.bias for a while.
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(?:q_bias|query\.bias)$", r"blocks.\1.attn.q_bias"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(?:v_bias|value\.bias)$", r"blocks.\1.attn.v_bias"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.weight$", r"blocks.\1.attn.\2.weight"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
)
_BESIDE_PRETRAINING = ("decoder.", "encoder_to_decoder.", "mask_token")
_BESIDE_TRANSFORMERS = ("decoder.", "encoder_to_decoder.", "mask_token", "position_embeddings", "classifier.")


@dataclass(frozen=True)
class Layout:
    """How one file names its weights.

    Attributes:
        name: As in the table above.
        prefix: What stands before every key of the encoder.
        beside: Beginnings of keys that belong to a decoder or a classifier.
    """

    name: str
    prefix: str
    beside: tuple[str, ...]

    def native_keys(self, name: str, weights: Mapping[str, ValueT]) -> dict[str, ValueT]:
        """The encoder's weights under the authors' names; what the layout does not know keeps its own.

        Args:
            name: The checkpoint, for errors.
            weights: By the file's keys.

        Raises:
            CheckpointError: Two of them are the same weight, such as ``q_bias`` and ``query.bias``.
        """
        found: dict[str, ValueT] = {}
        for key, value in weights.items():
            inner = key.removeprefix(self.prefix)
            # A pre-training file has the decoder outside the prefix, and nothing else may be there.
            if not inner.startswith(self.beside):
                native = self._native(inner)
                if native in found:
                    raise CheckpointError(f"{name} holds {native} twice, once as {key}; keep one of them")
                if inner == key and self.prefix and native.startswith(("blocks.", "patch_embed.")):
                    raise CheckpointError(
                        f"{name} holds {key} beside weights whose names begin with {self.prefix}: it is a mixture of "
                        "two files; download it again"
                    )
                found[native] = value
        return found

    def _native(self, key: str) -> str:
        if self.name == "transformers":
            for pattern, replacement in _FROM_TRANSFORMERS:
                native, count = re.subn(f"^{pattern}", replacement, key)
                if count:
                    return native
        return key

    def num_classes(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Classes of the classifier beside the encoder; 0 if there is none."""
        key = "classifier.weight" if self.name == "transformers" else f"{self.prefix}head.weight"
        shape = shapes.get(key, ())
        return shape[0] if len(shape) == 2 else 0


def joined_projections(
    weights: Mapping[str, ValueT], join: Callable[[ValueT, ValueT, ValueT], ValueT]
) -> dict[str, ValueT]:
    """Puts transformers' separate query, key and value matrices into one, as the authors keep them.

    Args:
        weights: Or their shapes, by native keys.
        join: Makes one of three, one below the other.
    """
    joined = dict(weights)
    for key in weights:
        layer, found, _ = key.rpartition(".query.weight")
        parts = [f"{layer}.{name}.weight" for name in ("query", "key", "value")]
        if found and all(part in joined for part in parts):
            query, key_, value = (joined.pop(part) for part in parts)
            joined[f"{layer}.qkv.weight"] = join(query, key_, value)
    return joined


def layout_of(keys: Iterable[str]) -> Layout | None:
    """Tells the layout by its patch embedding; None for a file of something else."""
    present = set(keys)
    if f"encoder.{PROJECTION}" in present:
        return Layout("pretraining", "encoder.", _BESIDE_PRETRAINING)
    if PROJECTION in present:
        return Layout("plain", "", ("head.",))
    if f"model.{PROJECTION}" in present:
        return Layout("wrapped", "model.", ("head.",))
    for prefix in ("videomae.", ""):
        if f"{prefix}{_TRANSFORMERS_PROJECTION}" in present:
            return Layout("transformers", prefix, _BESIDE_TRANSFORMERS)
    return None

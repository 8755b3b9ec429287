"""How latents may be stored, and what a clip's latents become; by arithmetic, without torch."""

from __future__ import annotations

from typing import Literal

from salt_toolkit.store.shard import Stream

Encoding = Literal["fp32", "bf16", "fp16", "int8", "fp8"]

NAMES: dict[Encoding, str] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "int8": "I8", "fp8": "F8_E4M3"}
"""safetensors' names of the encodings."""

LARGEST: dict[Encoding, float] = {"int8": 127.0, "fp8": 448.0}
"""The largest number of each encoding that has scales, by channel and by token."""

SCALE = ".scale"
"""What the stream with a token's scale is called behind its stream's name."""


def latent_streams(name: str, encoding: Encoding, *, tokens: int, dim: int) -> tuple[Stream, ...]:
    """What a clip's latents become: the numbers, and their scales where the encoding has any.

    Args:
        name: Of the stream.
        encoding: How numbers are stored.
        tokens: Latents of a clip.
        dim: Numbers in a latent.
    """
    latents = Stream(name, NAMES[encoding], (tokens, dim))
    return (latents, Stream(name + SCALE, "F16", (tokens,))) if encoding in LARGEST else (latents,)

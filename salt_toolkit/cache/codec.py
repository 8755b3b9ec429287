"""Smaller numbers: how latents are encoded on their way to the disk, and decoded on the device.

int8: each channel is standardised by constants of the whole cache, then each token is scaled by its
largest number. ViT latents have a few massive channels; scaled together with them, all others would
keep two or three bits (13 to 15 % error with a scale for each token alone).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from salt_toolkit.cache.encodings import LARGEST, NAMES, SCALE, Encoding, latent_streams
from salt_toolkit.store.shard import Stream

TORCH = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
}
LEAST_STD = 1e-6
"""Standard deviation, as a share of the largest channel's, below which a channel counts as constant."""


class LatentCodec(nn.Module):
    """Encodes and decodes the latents of one stream, on the device that it has been moved to.

    Args:
        name: Of the stream.
        encoding: How numbers are stored.
        mean: Of each channel; subtracted before int8 and fp8.
        std: Of each channel; what int8 and fp8 divide by.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        name: str,
        encoding: Encoding,
        mean: Float[Tensor, " dim"] | None = None,
        std: Float[Tensor, " dim"] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.encoding: Encoding = encoding
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def scaled(self) -> bool:
        """Whether numbers are scaled, by channel and by token."""
        return self.encoding in LARGEST

    def streams(self, tokens: int, dim: int) -> tuple[Stream, ...]:
        """What a clip's latents become."""
        return latent_streams(self.name, self.encoding, tokens=tokens, dim=dim)

    def encode(self, latents: Float[Tensor, "*batch token dim"]) -> tuple[Tensor, ...]:
        """One tensor for each of `streams`."""
        if not self.scaled:
            return (latents.to(TORCH[NAMES[self.encoding]]),)
        standard = (latents.float() - self._known(self.mean)) / self._known(self.std)
        largest = LARGEST[self.encoding]
        # The scale is rounded before it is used, so that its rounding is no error of the numbers'.
        scale = (standard.abs().amax(dim=-1) / largest).clamp(min=torch.finfo(torch.float16).tiny).half()
        numbers = standard / scale.unsqueeze(-1).float()
        if self.encoding == "int8":
            numbers = numbers.round()
        return numbers.clamp(-largest, largest).to(TORCH[NAMES[self.encoding]]), scale

    def decode(self, encoded: Mapping[str, Tensor]) -> Float[Tensor, "*batch token dim"]:
        """The latents in float32, from the streams by their names."""
        numbers = encoded[self.name].float()
        if not self.scaled:
            return numbers
        scaled = numbers * encoded[self.name + SCALE].unsqueeze(-1).float()
        return scaled * self._known(self.std) + self._known(self.mean)

    def constants(self) -> dict[str, Any]:
        """The channels' constants in plain values; float32 in base64."""
        if self.mean is None or self.std is None:
            return {}
        values = {"mean": self.mean, "std": self.std}
        return {
            name: base64.b64encode(tensor.float().cpu().numpy().tobytes()).decode() for name, tensor in values.items()
        }

    @classmethod
    def of(cls, name: str, encoding: Encoding, constants: Mapping[str, Any]) -> LatentCodec:
        """The codec that `constants` describe."""
        tensors = {
            key: torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.float32).copy())
            for key, text in constants.items()
        }
        return cls(name, encoding, **tensors)

    @classmethod
    def calibrated(cls, name: str, encoding: Encoding, latents: Iterable[Float[Tensor, "_ token dim"]]) -> LatentCodec:
        """A codec with the channels' constants of some latents, where it needs any."""
        if encoding not in LARGEST:
            return cls(name, encoding)
        tokens = torch.cat([batch.double().flatten(0, 1) for batch in latents])
        std = tokens.std(dim=0, correction=0)
        std = torch.where(std > LEAST_STD * std.max(), std, 1.0)
        return cls(name, encoding, tokens.mean(dim=0).float(), std.float())

    def _known(self, constant: Tensor | None) -> Tensor:
        assert constant is not None, "an encoding with scales needs the channels' constants"
        return constant


def error_of(original: Float[Tensor, "*batch dim"], decoded: Float[Tensor, "*batch dim"]) -> dict[str, float]:
    """What encoding has cost.

    Returns:
        relative_l2: Length of the difference over length of the latents. relative_l2_standardised:
        the same with every channel standardised, so that massive channels hide nothing.
        explained_variance_lost: 1 - R² of the decoded latents, a mean over channels.
    """
    original, decoded = original.double().flatten(0, -2), decoded.double().flatten(0, -2)
    difference = decoded - original
    centred = original - original.mean(dim=0)
    variance = centred.square().mean(dim=0)
    varies = variance > (LEAST_STD**2) * variance.max()
    lost = difference.square().mean(dim=0)[varies] / variance[varies]
    return {
        "relative_l2": float(difference.norm() / original.norm().clamp(min=1e-30)),
        "relative_l2_standardised": float(lost.mean().sqrt()) if lost.numel() else 0.0,
        "explained_variance_lost": float(lost.mean()) if lost.numel() else 0.0,
    }

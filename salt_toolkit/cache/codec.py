"""Smaller numbers: how streams are encoded on their way to the disk, and decoded on the device.

int8: each channel is standardised by constants of the whole cache, then each token is scaled by its
largest number. ViT latents have a few massive channels; scaled together with them, all others would
keep two or three bits (13 to 15 % error with a scale for each token alone).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from salt_toolkit.cache.encodings import LARGEST, NAMES, Coding
from salt_toolkit.store.manifest import Manifest

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SAFETENSORS = {dtype: name for name, dtype in TORCH.items()}
"""safetensors' names of torch's types, and the other way round."""

LEAST_STD = 1e-6
"""Standard deviation, as a share of the largest channel's, below which a channel counts as constant."""


class StreamCodec(nn.Module):
    """Encodes and decodes one stream, on the device that it has been moved to.

    Args:
        coding: How the stream is stored.
        mean: Of each channel; subtracted before int8 and fp8.
        std: Of each channel; what int8 and fp8 divide by.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, coding: Coding, mean: Float[Tensor, " dim"] | None = None, std: Float[Tensor, " dim"] | None = None
    ) -> None:
        super().__init__()
        self.coding = coding
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def encode(self, values: Shaped[Tensor, "*batch dim"]) -> tuple[Tensor, ...]:
        """One tensor for each of the coding's streams."""
        encoding = self.coding.encoding
        if encoding is None:
            return (values.to(TORCH[self.coding.dtype]),)
        if not self.coding.scaled:
            return (values.to(TORCH[NAMES[encoding]]),)
        standard = (values.float() - self._known(self.mean)) / self._known(self.std)
        largest = LARGEST[encoding]
        # The scale is rounded before it is used, so that its rounding is no error of the numbers'.
        scale = (standard.abs().amax(dim=-1) / largest).clamp(min=torch.finfo(torch.float16).tiny).half()
        numbers = standard / scale.unsqueeze(-1).float()
        if encoding == "int8":
            numbers = numbers.round()
        return numbers.clamp(-largest, largest).to(TORCH[NAMES[encoding]]), scale

    def decode(
        self, numbers: Shaped[Tensor, "*batch dim"], scale: Tensor | None = None
    ) -> Shaped[Tensor, "*batch dim"]:
        """The stream from what `encode` made of it: encoded numbers in float32, others as they are."""
        if self.coding.encoding is None:
            return numbers
        if scale is None:
            return numbers.float()
        return numbers.float() * scale.unsqueeze(-1).float() * self._known(self.std) + self._known(self.mean)

    def error(self, values: Shaped[Tensor, "*batch dim"]) -> dict[str, float]:
        """What encoding costs; see `error_of`."""
        return error_of(values, self.decode(*self.encode(values)))

    def constants(self) -> dict[str, Any]:
        """The channels' constants in plain values; float32 in base64."""
        if self.mean is None or self.std is None:
            return {}
        values = {"mean": self.mean, "std": self.std}
        return {
            name: base64.b64encode(tensor.float().cpu().numpy().tobytes()).decode() for name, tensor in values.items()
        }

    @classmethod
    def of(cls, coding: Coding, constants: Mapping[str, Any]) -> StreamCodec:
        """The codec that `constants` describe."""
        tensors = {
            key: torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype=np.float32).copy())
            for key, text in constants.items()
        }
        return cls(coding, **tensors)

    @classmethod
    def calibrated(cls, coding: Coding, batches: Iterable[Tensor]) -> StreamCodec:
        """A codec with the channels' constants of some samples, where it needs any."""
        if not coding.scaled:
            return cls(coding)
        tokens = torch.cat([batch.double().reshape(-1, batch.shape[-1]) for batch in batches])
        std = tokens.std(dim=0, correction=0)
        std = torch.where(std > LEAST_STD * std.max(), std, 1.0)
        return cls(coding, tokens.mean(dim=0).float(), std.float())

    def _known(self, constant: Tensor | None) -> Tensor:
        assert constant is not None, "an encoding with scales needs the channels' constants"
        return constant


def codecs_of(manifest: Manifest) -> dict[str, StreamCodec]:
    """The codecs of a layer, by stream."""
    return {
        name: StreamCodec.of(Coding.from_dict(name, values), manifest.constants.get(name, {}))
        for name, values in manifest.identity["streams"].items()
    }


def calibrate(
    codings: Iterable[Coding], values: Mapping[str, Sequence[Tensor]]
) -> tuple[dict[str, StreamCodec], dict[str, dict[str, float]]]:
    """Makes codecs with the constants of some samples, and measures what encoding costs on them.

    Args:
        codings: Of the streams.
        values: Batches of each stream, by its name.

    Returns:
        The codecs by stream; and for each that encodes the numbers of `error_of`.
    """
    codecs = {coding.name: StreamCodec.calibrated(coding, values[coding.name]) for coding in codings}
    measured = {
        name: codec.error(torch.cat(list(values[name])))
        for name, codec in codecs.items()
        if codec.coding.encoding is not None
    }
    return codecs, measured


def bytes_of(tensor: Tensor) -> Any:
    """A contiguous tensor's memory as bytes; of a single number, too."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def error_of(original: Shaped[Tensor, "*batch dim"], decoded: Shaped[Tensor, "*batch dim"]) -> dict[str, float]:
    """What encoding has cost.

    Returns:
        relative_l2: Length of the difference over length of the latents. relative_l2_standardised:
        the same with every channel standardised, so that massive channels hide nothing.
        explained_variance_lost: 1 - R² of the decoded latents, a mean over channels.
    """
    original, decoded = (values.double().reshape(-1, values.shape[-1]) for values in (original, decoded))
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

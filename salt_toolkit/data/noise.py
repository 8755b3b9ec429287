"""Batches made from a `SampleSpec` alone: noise for tests, and tensors without numbers for shapes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from salt_toolkit.contracts import ClipBatch
from salt_toolkit.streams import SampleSpec, StreamSpec

TORCH: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""torch's types, by safetensors' names."""


def noise(sample: SampleSpec, num_samples: int = 2, *, labels: StreamSpec | None = None, seed: int = 0) -> ClipBatch:
    """Random samples, the same for the same seed.

    Args:
        sample: What a sample consists of. Bytes range over 0 to 255, like pixels; other whole numbers are 0 or 1, which
            every table of tokens has; all else is drawn from a normal distribution.
        num_samples: Rows of the batch.
        labels: One sample's label, if there are to be any.
        seed: Decides every number.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _drawn(stream, num_samples, generator) for name, stream in sample.items()}
    targets = _drawn(labels, num_samples, generator) if labels else None
    captions = tuple(f"caption {index}" for index in range(num_samples))
    return ClipBatch(tuple(f"clip{seed}_{index}" for index in range(num_samples)), tensors, targets, captions)


def blank(sample: SampleSpec, num_samples: int = 1, *, labels: StreamSpec | None = None) -> ClipBatch:
    """Samples of zeros, on torch's default device: on the meta device they have a shape and no numbers."""

    def zeros(stream: StreamSpec) -> Tensor:
        return torch.zeros((num_samples, *stream.shape), dtype=TORCH[stream.dtype])

    tensors = {name: zeros(stream) for name, stream in sample.items()}
    ids = tuple(f"blank{index}" for index in range(num_samples))
    return ClipBatch(ids, tensors, zeros(labels) if labels else None, ids)


def _drawn(stream: StreamSpec, num_samples: int, generator: torch.Generator) -> Tensor:
    shape, dtype = (num_samples, *stream.shape), TORCH[stream.dtype]
    if stream.dtype == "U8":
        return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
    if not stream.is_float:
        return torch.randint(0, 2, shape, generator=generator).to(dtype)
    return torch.randn(shape, generator=generator).to(dtype)

"""From clips to the streams of a cache: the teachers' latents, encoded, and what the data set gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from salt_toolkit.cache.codec import TORCH, LatentCodec, error_of
from salt_toolkit.cache.encodings import Encoding
from salt_toolkit.cache.rows import CLIP, latents_name
from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.store.shard import Stream

SAFETENSORS = {dtype: name for name, dtype in TORCH.items()} | {
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.bool: "BOOL",
}
"""safetensors' names of torch's types."""


class ClipEncoder:
    """Runs teachers over batches, and encodes what they say.

    Args:
        teachers: By name, on the device.
        codecs: How each teacher's latents are stored.
        kept: Names of the samples' tensors that are stored as they are.
        device: Where the teachers are.
        autocast: Makes the context that training would run the teachers in.
    """

    def __init__(
        self,
        teachers: Mapping[str, Teacher],
        codecs: Mapping[str, LatentCodec],
        kept: Sequence[str],
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.teachers = teachers
        self.codecs = dict(codecs)
        self.kept = kept
        self.device = device
        self.autocast = autocast

    @torch.inference_mode()
    def latents(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Every teacher's latents of a batch on the host, in float32, on the device."""
        moved = batch.to(self.device)
        with self.autocast():
            return {name: teacher(moved).float() for name, teacher in self.teachers.items()}

    @torch.inference_mode()
    def encode(self, batch: ClipBatch) -> tuple[list[Tensor], Tensor]:
        """The streams of a batch.

        Returns:
            One tensor (batch, ...) for each stream, in their order; and whether each clip's latents
            are finite.
        """
        encoded: list[Tensor] = []
        finite = torch.ones(len(batch.clip_ids), dtype=torch.bool, device=self.device)
        for name, latents in self.latents(batch).items():
            finite &= latents.isfinite().flatten(1).all(dim=1)
            encoded += self.codecs[name].encode(latents)
        return [*encoded, *(batch.tensors[name] for name in self.kept)], finite

    def calibrate(self, encodings: Mapping[str, Encoding], batches: Iterable[ClipBatch]) -> dict[str, dict[str, float]]:
        """Takes the codecs' constants from some clips, and measures what encoding costs on them.

        Returns:
            For each teacher the numbers of `error_of`.
        """
        latents = [self.latents(batch) for batch in batches]
        measured = {}
        for name, encoding in encodings.items():
            mine = [batch[name] for batch in latents]
            codec = LatentCodec.calibrated(latents_name(name), encoding, mine)
            self.codecs[name] = codec
            names = [stream.name for stream in codec.streams(1, 1)]
            decoded = [codec.decode(dict(zip(names, codec.encode(batch), strict=True))) for batch in mine]
            measured[name] = error_of(torch.cat(mine), torch.cat(decoded))
        return measured

    def streams(self, sample: Mapping[str, Tensor]) -> tuple[Stream, ...]:
        """What each row consists of, given one sample's tensors."""
        found: list[Stream] = []
        for name, teacher in self.teachers.items():
            spec = teacher.token_spec
            found += self.codecs[name].streams(spec.grid.num_tokens, spec.dim)
        kept = [Stream(name, SAFETENSORS[sample[name].dtype], tuple(sample[name].shape)) for name in self.kept]
        return (*found, *kept)


def kept_tensors(sample: Mapping[str, Tensor], *, frames: bool) -> list[str]:
    """Names of the tensors to store as they are: all that a data set gives besides clips, and those if asked for."""
    return [name for name in sample if name != CLIP or frames]

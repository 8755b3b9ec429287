"""From batches of samples to the streams of a cache's layers: what teachers say, encoded, and tensors as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from salt_toolkit.cache.codec import StreamCodec, calibrate
from salt_toolkit.cache.encodings import Coding
from salt_toolkit.contracts import ClipBatch, Teacher


class TeacherLayer:
    """A teacher, and how what it says is stored.

    Args:
        teacher: On the device.
        precision: In which it runs: ``bf16`` under autocast, or ``fp32``.
        device: Where it is.

    Attributes:
        codecs: By stream, on the device; of `calibrate` or `use`.
    """

    def __init__(self, teacher: Teacher, precision: str, device: torch.device) -> None:
        self.teacher = teacher
        self.precision = precision
        self.device = device
        self.codecs: dict[str, StreamCodec] = {}

    @torch.inference_mode()
    def latents(self, batch: ClipBatch) -> dict[str, Tensor]:
        """What the teacher says of a batch, by stream; on its device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.teacher.outputs(batch.to(self.device))

    def use(self, codecs: Mapping[str, StreamCodec]) -> None:
        """Takes codecs that are decided already."""
        self.codecs = {name: codec.to(self.device) for name, codec in codecs.items()}

    def calibrate(self, codings: Iterable[Coding], batches: Iterable[ClipBatch]) -> dict[str, dict[str, float]]:
        """Makes codecs with constants of some batches, and measures what encoding costs on them.

        Returns:
            For each encoded stream the numbers of `error_of`.
        """
        said = [self.latents(batch) for batch in batches]
        codings = list(codings)
        values = {coding.name: [latents[coding.name] for latents in said] for coding in codings}
        self.codecs, measured = calibrate(codings, values)
        return measured


class LayerEncoder:
    """Makes the rows of layers.

    Args:
        teachers: By their layers' names.
        kept: The names of samples' tensors that are stored as they are, by their layers' names.
        device: Where the teachers are.
    """

    def __init__(self, teachers: Mapping[str, TeacherLayer], kept: Mapping[str, str], device: torch.device) -> None:
        self.teachers = teachers
        self.kept = kept
        self.device = device

    @torch.inference_mode()
    def encode(self, batch: ClipBatch, layers: Collection[str]) -> tuple[dict[str, list[Tensor]], Tensor]:
        """The streams of a batch on the host.

        Args:
            batch: Samples.
            layers: Which ones to make; no other teacher runs.

        Returns:
            For each layer one tensor (batch, ...) for each stream, in their order; and whether what the teachers
            say of each clip is finite.
        """
        encoded = {layer: [batch.tensors[name]] for layer, name in self.kept.items() if layer in layers}
        finite = torch.ones(len(batch.clip_ids), dtype=torch.bool, device=self.device)
        teachers = {layer: teacher for layer, teacher in self.teachers.items() if layer in layers}
        moved = batch.to(self.device) if teachers else batch  # once for all of them
        for layer, teacher in teachers.items():
            latents = teacher.latents(moved)
            encoded[layer] = []
            for name, codec in teacher.codecs.items():
                if latents[name].is_floating_point():
                    finite &= latents[name].isfinite().reshape(len(finite), -1).all(dim=1)
                encoded[layer] += codec.encode(latents[name])
        return encoded, finite

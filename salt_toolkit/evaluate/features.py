"""Features from frozen encoders, one vector per clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from salt_toolkit.contracts import ClipBatch, Dataset, Student
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip, DataError

Encoder = Callable[[ClipBatch], Float[Tensor, "batch dim"]]


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of the readable clips of a dataset, with their labels: (clips,) or (clips, dim)."""

    features: Float[np.ndarray, "clips dim"]
    labels: np.ndarray


def mean_of_tokens(student: Student) -> Encoder:
    """A frozen student as an encoder: the mean of its tokens, with every token visible."""
    student.eval()

    def encode(batch: ClipBatch) -> Float[Tensor, "batch dim"]:
        return student(batch).float().mean(dim=1)

    return encode


def raw_pixels(batch: ClipBatch) -> Float[Tensor, "batch dim"]:
    """The clip itself, flattened: the baseline without any encoder."""
    return batch.clip.flatten(1).float() / 255


def labelled_features(
    dataset: Dataset, encoders: dict[str, Encoder], *, batch_size: int = 64
) -> dict[str, LabelledFeatures]:
    """Runs encoders over a dataset in order; unreadable clips are skipped.

    Args:
        dataset: Every sample must have a label.
        encoders: By name; each reads the same batches.
        batch_size: Clips in a batch.

    Raises:
        DataError: A sample has no label, or no clip is readable.
    """
    features: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    labels: list[np.ndarray] = []
    for batch in _batches(dataset, batch_size):
        if batch.labels is None:
            raise DataError(f"clips such as {batch.clip_ids[0]!r} have no label; probes need one for every clip")
        labels.append(batch.labels.numpy())
        with torch.inference_mode():
            for name, encoder in encoders.items():
                features[name].append(encoder(batch).numpy())
    if not labels:
        raise DataError("no clip of the dataset is readable")
    return {name: LabelledFeatures(np.concatenate(parts), np.concatenate(labels)) for name, parts in features.items()}


def _batches(dataset: Dataset, batch_size: int) -> Iterator[ClipBatch]:
    samples = []
    for index in range(len(dataset.clip_ids)):
        try:
            samples.append(dataset.read(index, 0))
        except BadClip:
            continue
        if len(samples) == batch_size:
            yield collate(samples)
            samples = []
    if samples:
        yield collate(samples)

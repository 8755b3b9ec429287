"""From samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from salt_toolkit.contracts import ClipBatch, Label, Sample
from salt_toolkit.errors import DataError


def collate(samples: Sequence[Sample]) -> ClipBatch:
    """Stacks samples; all of them must have the same names, shapes and types of tensors.

    Raises:
        DataError: They have not.
    """
    names = samples[0].tensors
    return batch_of(
        samples, {name: _stacked([sample.tensors[name] for sample in samples], name, samples) for name in names}
    )


def batch_of(samples: Sequence[Sample], tensors: Mapping[str, Tensor]) -> ClipBatch:
    """A batch of samples whose tensors are stacked already.

    Raises:
        DataError: The samples' labels have not one shape and type.
    """
    captions = [sample.caption for sample in samples]
    return ClipBatch(
        clip_ids=tuple(sample.clip_id for sample in samples),
        tensors=tensors,
        labels=_labels(samples),
        captions=None if None in captions else tuple(caption for caption in captions if caption is not None),
    )


def plain_label(label: Label | None) -> int | float | list[float] | None:
    """A label in plain values, as files hold it."""
    return label.tolist() if isinstance(label, Tensor) else label


def _labels(samples: Sequence[Sample]) -> Tensor | None:
    labels = [sample.label for sample in samples]
    present = [_as_tensor(label) for label in labels if label is not None]
    return _stacked(present, "label", samples) if len(present) == len(labels) else None


def _as_tensor(label: Label) -> Tensor:
    """Class numbers as int64; all else as float32."""
    tensor = torch.as_tensor(label)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _stacked(tensors: Sequence[Tensor], name: str, samples: Sequence[Sample]) -> Tensor:
    first = tensors[0]
    for tensor, sample in zip(tensors, samples, strict=True):
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            raise DataError(
                f"the {name} of {sample.clip_id!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, and that of "
                f"{samples[0].clip_id!r} {first.dtype} of {tuple(first.shape)}; the samples of a data set must be alike"
            )
    return torch.stack(list(tensors))

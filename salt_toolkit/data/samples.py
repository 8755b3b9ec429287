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
        DataError: The samples have not the same tensors, or labels of one shape and type.
    """
    if any(sample.tensors.keys() != tensors.keys() for sample in samples):
        raise DataError(f"the samples {[sample.clip_id for sample in samples]} have not the same tensors")
    captions = [sample.caption for sample in samples]
    return ClipBatch(
        clip_ids=tuple(sample.clip_id for sample in samples),
        tensors=tensors,
        labels=_labels(samples),
        captions=None if None in captions else tuple(caption for caption in captions if caption is not None),
    )


def joined(parts: Sequence[ClipBatch], tensors: Mapping[str, Tensor]) -> ClipBatch:
    """Parts of a batch as one.

    Args:
        parts: In the order of their rows.
        tensors: The stacked tensors of all parts; further ones are left out.

    Raises:
        DataError: The parts have not the same tensors, or labels of one shape and type.
    """
    names, labels, captions = parts[0].tensors.keys(), [part.labels for part in parts], [p.captions for p in parts]
    clip_ids = tuple(clip_id for part in parts for clip_id in part.clip_ids)
    given = [label for label in labels if label is not None]
    if (
        any(part.tensors.keys() != names for part in parts)
        or len({(label.shape[1:], label.dtype) for label in given}) > 1
    ):
        raise DataError(f"the samples {list(clip_ids)} have not the same tensors, or labels of different kinds")
    return ClipBatch(
        clip_ids=clip_ids,
        tensors={name: tensors[name] for name in names},
        labels=torch.cat(given) if len(given) == len(parts) else None,
        captions=None if None in captions else tuple(text for some in captions if some is not None for text in some),
    )


def plain_label(label: Label | None) -> int | float | list[float] | None:
    """A label in plain values, as files hold it."""
    return label.tolist() if isinstance(label, Tensor) else label


def _labels(samples: Sequence[Sample]) -> Tensor | None:
    labels = [sample.label for sample in samples]
    present = [as_tensor(label) for label in labels if label is not None]
    return _stacked(present, "label", samples) if len(present) == len(labels) else None


def as_tensor(label: Label) -> Tensor:
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

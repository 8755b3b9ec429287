"""How streams may be stored, and what a clip's numbers become; by arithmetic, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salt_toolkit.store.shard import Stream
from salt_toolkit.streams import Encoding

NAMES: dict[Encoding, str] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "int8": "I8", "fp8": "F8_E4M3"}
"""safetensors' names of the encodings."""

LARGEST: dict[Encoding, float] = {"int8": 127.0, "fp8": 448.0}
"""The largest number of each encoding that has scales, by channel and by token."""

SCALE = ".scale"
"""What the stream with a token's scale is called behind its stream's name."""

FLOATS = ("F64", "F32", "BF16", "F16")


@dataclass(frozen=True)
class Coding:
    """How one stream of a sample is stored.

    Attributes:
        name: Of the stream.
        dtype: What its numbers are, as safetensors names it.
        shape: Of one sample's tensor; the last axis is the channels.
        encoding: How numbers are stored; None: as they are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: Encoding | None = None

    @classmethod
    def of(cls, name: str, dtype: str, shape: tuple[int, ...], encoding: Encoding | None) -> Coding:
        """A coding that leaves whole numbers alone: 1,000 codes of a tokenizer do not survive bfloat16.

        Single numbers stay as they are, too: they have no channels to scale, and nothing to save.
        """
        return cls(name, dtype, shape, encoding if dtype in FLOATS and shape else None)

    @property
    def scaled(self) -> bool:
        """Whether numbers are scaled, by channel and by token."""
        return self.encoding in LARGEST

    @property
    def streams(self) -> tuple[Stream, ...]:
        """What is stored: the numbers, and a scale for each token where the encoding has any."""
        numbers = Stream(self.name, NAMES[self.encoding] if self.encoding else self.dtype, self.shape)
        return (numbers, Stream(self.name + SCALE, "F16", self.shape[:-1])) if self.scaled else (numbers,)

    def as_dict(self) -> dict[str, Any]:
        """The coding in plain values, for a layer's identity."""
        return {"dtype": self.dtype, "shape": list(self.shape), "encoding": self.encoding or "as it is"}

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> Coding:
        """The coding that `as_dict` describes."""
        encoding = values["encoding"] if values["encoding"] in NAMES else None
        return cls(name, values["dtype"], tuple(values["shape"]), encoding)

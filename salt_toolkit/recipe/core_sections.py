"""The recipe's own sections: ``[run]``, ``[train]``, ``[optimizer]``, ``[loader]``, ``[cache]``."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from salt_toolkit.errors import SettingError
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.streams import Encoding

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a run may be called: it becomes a directory."""


class Section(BaseModel):
    """Base of the recipe's own sections: frozen, strict, and without unknown keys.

    Attributes:
        free: Keys that change nothing that is computed, rounding aside: a resumed run may change them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    free: ClassVar[tuple[str, ...]] = ()

    def require(self) -> None:
        """Refuses a section that lacks what a command which needs it cannot do without.

        Raises:
            SettingError: The message says what is missing.
        """


class RunSection(Section):
    """``[run]``: what the run is called and where it lives."""

    free: ClassVar[tuple[str, ...]] = ("dir",)

    name: str = Field(
        "", pattern=f"^({RUN_NAME})?$", description="Name of the run and of its directory; needed to train."
    )
    seed: int = Field(0, ge=0, description="Decides initial weights, order of clips, views and masks.")
    dir: str = Field("runs", description="Directory that holds the run's directory; counts from the working directory.")

    @field_validator("name", mode="before")
    @classmethod
    def _names_a_directory(cls, name: Any) -> Any:
        # The pattern of the field is for the editor; a reader gets a rule.
        if isinstance(name, str) and name and not re.fullmatch(RUN_NAME, name):
            raise SettingError(
                f"found {json.dumps(name, ensure_ascii=False)}; expected letters, digits, dots, underscores and "
                "hyphens, a letter or digit first: it names a directory"
            )
        return name

    def require(self) -> None:
        """A run has a name."""
        if not self.name:
            raise SettingError("missing (Name of the run and of its directory.)", fields=["name"])


class OptimizerSection(Section):
    """``[optimizer]``: AdamW; its learning rate and weight decay are schedules."""

    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's decay rates of the two moments.")
    eps: float = Field(1e-8, gt=0, description="AdamW's term in the denominator.")
    grad_clip: float | None = Field(
        None, gt=0, description="Largest norm of the whole gradient; absent: gradients are not clipped."
    )

    @model_validator(mode="after")
    def _betas_are_rates(self) -> OptimizerSection:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError(f"betas must lie in 0 <= beta < 1, found {list(self.betas)}", fields=["betas"])
        return self


class TrainSection(Section):
    """``[train]``: how long, how large, in what precision."""

    free: ClassVar[tuple[str, ...]] = (
        "checkpoint_every",
        "compile",
        "cudnn_benchmark",
        "keep_checkpoints",
        "keep_every",
        "log_every",
        "max_skipped_steps",
        "parallel",
        "tf32",
    )

    epochs: int | None = Field(None, ge=1, description="Passes over the data set; either this or max_steps.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; either this or epochs.")
    batch_size: int = Field(
        32, ge=1, description="Clips in one forward pass, over all processes, which share them evenly."
    )
    accumulate: int = Field(1, ge=1, description="Forward passes whose gradients make one optimizer step.")
    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="bf16: autocast on devices that compute in bfloat16 natively, fp32 elsewhere."
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        "none", description="torch.compile's mode for the step."
    )
    cudnn_benchmark: bool = Field(True, description="Let cuDNN try its algorithms; no effect without a GPU.")
    tf32: bool = Field(True, description="Let GPUs multiply float32 in TF32, where bf16 is not used.")
    deterministic: bool = Field(
        False, description="Take only algorithms that repeat to the bit; slower on a GPU. Turns cudnn_benchmark off."
    )
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="With several processes: ddp keeps all weights in each; fsdp2 shares student, predictor and "
        "optimizer out among them.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the student's weights, which the run then leaves; absent: none.",
    )
    max_skipped_steps: int = Field(
        20,
        ge=0,
        description="Steps to skip, because loss or gradient is not finite, before the run stops.",
    )
    log_every: int = Field(10, ge=1, description="Optimizer steps from one line of metrics.jsonl to the next.")
    checkpoint_every: int = Field(500, ge=1, description="Optimizer steps from one checkpoint to the next.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay on disk.")
    keep_every: int | None = Field(
        None, ge=1, description="Checkpoints at multiples of so many steps stay as well; absent: no others."
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if self.epochs is not None and self.max_steps is not None:
            raise SettingError(_length_message("both"), fields=["epochs", "max_steps"])
        return self

    def require(self) -> None:
        """A run has a length."""
        if self.epochs is None and self.max_steps is None:
            raise SettingError(_length_message("neither"), fields=["epochs", "max_steps"])

    @model_validator(mode="after")
    def _no_gradients_in_graphs(self) -> TrainSection:
        if self.accumulate > 1 and self.compile in ("reduce-overhead", "max-autotune"):
            raise SettingError(
                f"compile = {self.compile!r} replays recorded graphs, which write over the gradients that accumulate = "
                f"{self.accumulate} wants to add up; choose compile = 'default', or accumulate = 1",
                fields=["compile", "accumulate"],
            )
        return self

    def num_steps(self, num_clips: int) -> int:
        """Optimizer steps of the whole run: whole batches of each epoch, whole accumulations of the run."""
        if self.max_steps is not None:
            return self.max_steps
        return (self.epochs or 0) * (num_clips // self.batch_size) // self.accumulate


def _length_message(found: str) -> str:
    return f"found {found} of epochs and max_steps; give exactly one of them"


class LoaderSection(Section):
    """``[loader]``: how clips are read while the model trains."""

    free: ClassVar[tuple[str, ...]] = (
        "max_bad_fraction",
        "prefetch",
        "ram_cache_mb",
        "workers",
    )

    workers: int = Field(4, ge=1, description="Threads that read and decode clips.")
    prefetch: int = Field(2, ge=1, description="Batches that are made ready ahead of the model.")
    ram_cache_mb: int = Field(
        0, ge=0, description="Megabytes of decoded clips to keep in memory, for data sets that are small."
    )
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="Share of the clips that may turn out bad before the run stops."
    )


class CacheSection(Section):
    """``[cache]``: where the teachers' latents are kept, computed once by `salt cache`."""

    free: ClassVar[tuple[str, ...]] = (
        "dir",
        "keep",
        "local_gb",
        "shard_mb",
    )

    dir: str = Field(
        description="Directory of the cache; each split gets a folder in it. Training also reads from the URL of an "
        "object store, such as s3://bucket/cache."
    )
    dtype: Encoding = Field(
        "bf16", description="How latents are stored; int8 and fp8 with scales for each channel and each token."
    )
    dtypes: dict[str, Encoding] = Field(
        {}, description="The same for single teachers (`motion`) or streams of theirs (`motion.class`)."
    )
    keep: tuple[str, ...] | None = Field(
        None,
        description='Tensors of the samples to keep as they are; ["clip"]: training decodes no video. Absent: what the '
        "method reads, clips excepted.",
    )
    local_gb: float = Field(50.0, ge=0, description="Gigabytes of an object store's shards to keep on this machine.")
    shard_mb: int = Field(512, ge=1, description="Megabytes of a shard, the unit in which a cache is committed.")


CORE_SECTIONS: dict[str, type[BaseModel]] = {
    "run": RunSection,
    "clip": ClipSpec,
    "train": TrainSection,
    "optimizer": OptimizerSection,
    "loader": LoaderSection,
    "cache": CacheSection,
}
"""The sections of the core, by name."""

OPTIONAL_SECTIONS = ("cache",)
"""Those that change what a run does by being there: without a section, the recipe has None."""

"""Settings of the schedules. Values have the unit of what they schedule."""

from __future__ import annotations

from pydantic import Field, model_validator

from salt_toolkit import ScheduleConfig, SettingError


class ConstantConfig(ScheduleConfig):
    """Settings of the constant schedule."""

    value: float = Field(description="The value at every step, in the unit of what is scheduled.")


class LinearConfig(ScheduleConfig):
    """Settings of the linear schedule."""

    start: float = Field(description="Value at step 0, in the unit of what is scheduled.")
    end: float = Field(description="Value at the end of the run, in the unit of what is scheduled.")


class CosineConfig(ScheduleConfig):
    """Settings of the cosine schedule; it may rise or fall."""

    start: float = Field(description="Value at step 0, in the unit of what is scheduled.")
    end: float = Field(description="Value at the end of the run, in the unit of what is scheduled.")


class WarmupCosineConfig(ScheduleConfig):
    """Settings of the cosine schedule with a straight warm-up: for rates and ratios, which are never below 0."""

    peak: float = Field(ge=0, description="Largest value, at the end of the warm-up, in the unit of what is scheduled.")
    floor: float = Field(0.0, ge=0, description="Value that the cosine falls to, in the unit of what is scheduled.")
    warmup_steps: int = Field(0, ge=0, description="Steps from start to peak; 0 for none.")
    start: float = Field(
        0.0,
        ge=0,
        description=(
            "Value at step 0 of the warm-up, in the unit of what is scheduled; a learning rate that starts at 0 "
            "learns nothing in its first step."
        ),
    )
    horizon: float = Field(
        1.0,
        ge=1.0,
        description=(
            "Where the cosine reaches floor, in lengths of the run; above 1 the run stops before, as V-JEPA's "
            "ipe_scale = 1.25 does."
        ),
    )

    @model_validator(mode="after")
    def _peak_is_the_largest(self) -> WarmupCosineConfig:
        for name in ("floor", "start"):
            value = getattr(self, name)
            if value > self.peak and (name == "floor" or self.warmup_steps > 0):
                raise SettingError(
                    f"{name} = {value} is above peak = {self.peak}; lower it (or use linear or cosine)",
                    fields=[name, "peak", "warmup_steps"],
                )
        if self.warmup_steps == 0 and self.start != 0.0:
            raise SettingError(
                f"start = {self.start} has no effect without a warm-up; set warmup_steps, or leave start out",
                fields=["warmup_steps"],
                leave_out=["start"],
            )
        return self

"""Settings that no run can use, that are too large for this machine, or that do nothing; no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from salt_toolkit.check.findings import Finding, findings_of
from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import ClipSpec, Grid, MaskCounts
from salt_toolkit.recipe import Recipe
from salt_toolkit.system.host import total_memory

SCHEDULE_SAMPLES = 2000
"""At how many steps, evenly spread, schedules are looked at."""


def too_much_memory(recipe: Recipe, wanted_gb: float | None) -> Iterator[Finding]:
    """Whether the clips that the loader holds fit into this machine's memory.

    Args:
        recipe: A valid recipe.
        wanted_gb: Gigabytes that the loader will hold, if that is known.
    """
    total = total_memory()
    if wanted_gb is None or wanted_gb * 1e9 <= total:
        return
    from_cache = recipe.loader.ram_cache_mb * 1e6 > total / 2
    key = "loader.ram_cache_mb" if from_cache else "loader.prefetch"
    wanted = f"the loader will hold {wanted_gb:.3g} GB of {recipe.noun}s"
    message = f"{wanted}, and this machine has {total / 1e9:.3g} GB of memory"
    yield Finding("warning", key, message, f"Lower {key}{'' if from_cache else ' or train.batch_size'}.")


Schedules = Mapping[str, Mapping[int, float]]
"""Values of schedules by their steps, by the schedules' names."""


def followed_schedules(recipe: Recipe, steps: int | None) -> tuple[Schedules, list[Finding]]:
    """Follows every schedule over the run: its values, or what it does not fit.

    Args:
        recipe: A valid recipe.
        steps: Of the run; nothing is known of schedules where that is not.
    """
    values: dict[str, Mapping[int, float]] = {}
    findings: list[Finding] = []
    if not steps:
        return values, findings
    stride = math.ceil(steps / SCHEDULE_SAMPLES)
    for name, selected in recipe.schedules.items():
        try:
            schedule = selected.build(total_steps=steps)
            values[name] = {step: float(schedule(step)) for step in (*range(0, steps, stride), steps - 1)}
        except BaseException as error:
            findings += findings_of(f"schedules.{name}", error)
    return values, findings


def mask_ratios(schedules: Schedules) -> tuple[float, float, float] | None:
    """The least, the mean and the largest of the scheduled mask ratio; None without one."""
    if "mask_ratio" not in schedules:
        return None
    values = schedules["mask_ratio"].values()
    return min(values), sum(values) / len(values), max(values)


def impossible_values(recipe: Recipe, grid: Grid | None, schedules: Schedules) -> Iterator[Finding]:
    """Rates and ratios that no run can use.

    Args:
        recipe: A valid recipe.
        grid: The student's, if that is known.
        schedules: As `followed_schedules` gives them.
    """
    for name, values in schedules.items():
        yield from _impossible(recipe, grid, name, values)


def _impossible(recipe: Recipe, grid: Grid | None, name: str, values: Mapping[int, float]) -> Iterator[Finding]:
    key = f"schedules.{name}"
    if name in ("lr", "weight_decay"):
        bad = next((step for step, value in values.items() if not 0 <= value < math.inf), None)
        if bad is not None:
            message = f"is {values[bad]:g} at step {bad:,}, and must be finite and not below 0"
            yield Finding("error", key, message, f"Change what [{key}] says.")
        elif name == "lr" and not any(values.values()):
            yield Finding("error", key, "is 0 at every step, so nothing would be learned", "Raise it.")
    elif name == "mask_ratio" and grid and recipe.masker:
        for step, ratio in values.items():
            try:
                recipe.masker.config.counts(grid, ratio)
            except GeometryError as error:
                yield Finding("error", key, f"at step {step:,}: {error}")
                return
            except BaseException as error:
                yield from findings_of(key, error)
                return


def settings_without_effect(recipe: Recipe, drawn: MaskCounts | None) -> Iterator[Finding]:
    """Settings that say something and do nothing.

    Args:
        recipe: A valid recipe.
        drawn: What the masker draws of a clip, if that is known.
    """
    yield from _method_without_effect(recipe, drawn)
    if recipe.clip:
        yield from _clip_without_effect(recipe.clip)
    if recipe.objective and all(teaching.objective_key != "objective" for teaching in recipe.teachings()):
        message = "has no effect: every teacher has its own objective"
        yield Finding("warning", "objective", message, "Take it away (--set objective=).")
    masker = recipe.masker.config if recipe.masker and "mask_ratio" in recipe.schedules else None
    if masker and "ratio" in masker.model_fields_set and getattr(masker, "ratio", None) != _default(masker, "ratio"):
        message = "has no effect: schedules.mask_ratio takes its place"
        yield Finding("warning", "masker.ratio", message, "Take one of them away (--set masker.ratio=).")
    workers_full = recipe.train.batch_size * recipe.loader.prefetch
    if recipe.loader.workers > workers_full:
        yield Finding(
            "warning",
            "loader.workers",
            f"{recipe.loader.workers} threads can never all work: {workers_full} {recipe.noun}s are read ahead at most",
            "Lower loader.workers or raise loader.prefetch.",
        )


def _clip_without_effect(clip: ClipSpec) -> Iterator[Finding]:
    for name in ("crop_scale", "crop_aspect"):
        if clip.crop == "center" and name in clip.model_fields_set and getattr(clip, name) != _default(clip, name):
            yield Finding(
                "warning", f"clip.{name}", 'has no effect with clip.crop = "center"', 'Use crop = "random_resized".'
            )
    if clip.views > 1 and clip.start == "center" and clip.crop == "center" and not clip.flip:
        yield Finding(
            "warning",
            "clip.views",
            f"all {clip.views} views are the same: start and crop are centred, and nothing flips",
            'Use start = "random" or crop = "random_resized", or views = 1.',
        )


def _method_without_effect(recipe: Recipe, drawn: MaskCounts | None) -> Iterator[Finding]:
    """What the method says of its own settings; a scheduled mask ratio may give them an effect at some step."""
    if drawn and "mask_ratio" not in recipe.schedules:
        for name, reason in recipe.method.config.without_effect(drawn).items():
            key = f"method.{name}"
            yield Finding("warning", key, f"has no effect: {reason}", f"Change it, or take it away (--set {key}=).")


def _default(clip: Any, name: str) -> Any:
    return type(clip).model_fields[name].default

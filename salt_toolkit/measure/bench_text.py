"""The table of `salt bench`, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from salt_toolkit.measure.bench_report import Bench, BothRow, LoaderRow, Settings, StepRow

STEP = ("batch size", "{}s/s", "ms a step", "memory GB", "of FLOP limit")
LOADER = ("workers", "{}s/s", "read ms", "processors busy")
BOTH = ("batch size", "workers", "{}s/s", "ms a step", "of FLOP limit", "waits for {}s")


def render_bench(found: Bench) -> str:
    """What `run_bench` found, for a terminal."""
    lines = [f"{found.name} on {found.device}, {found.cpus} processors, torch {found.torch}"]
    lines += [f"  {line}" for line in _limit(found)]
    best = found.recommended
    lines += ["", f"Step alone: one real batch stays on the device; latents {found.latents}."]
    lines += _table(_heading(STEP, found), [_step_cells(row, best and best.batch_size) for row in found.step])
    lines += ["", "Loader alone:"]
    lines += _table(_heading(LOADER, found), [_loader_cells(row, best and best.workers) for row in found.loader])
    lines += textwrap.wrap(f"Read: {found.loader_measured}.", 100, initial_indent="  ", subsequent_indent="        ")
    if found.both is not None:
        lines += [
            "",
            "Both together, as in a run's first epoch:",
            *_table(_heading(BOTH, found), [_both_cells(found.both)]),
        ]
    return "\n".join([*lines, "", *_advice(found)])


def _heading(names: Sequence[str], found: Bench) -> list[str]:
    return [name.format(found.noun) for name in names]


def _limit(found: Bench) -> list[str]:
    teacher = found.teacher_gflops_per_clip
    limit = found.flop_limit_clips_per_second
    source = f"{found.flop_limit_tflops:,.4g} TFLOP/s, {found.flop_limit_source}"
    if limit is None:
        return [f"FLOP limit: {source}; a part of this recipe does not say what it costs"]
    live = f" and {teacher:.4g} of the teacher" if teacher else ""
    work = f"{found.train_step_gflops_per_clip or 0.0:.4g} GFLOP of the training step{live}"
    return [f"FLOP limit: {source}", f"            a {found.noun} takes {work}: {_number(limit)} {found.noun}s/s"]


def _step_cells(row: StepRow, best: int | None) -> list[str]:
    if row.why is not None:
        return [str(row.batch_size), row.why]
    return [
        str(row.batch_size),
        _number(row.clips_per_second),
        _number(row.ms_per_step),
        f"{row.memory_gb or 0.0:.2f}",
        _share(row.flop_share),
        "<- best" if row.batch_size == best else "",
    ]


def _loader_cells(row: LoaderRow, best: int | None) -> list[str]:
    return [
        str(row.workers),
        _number(row.clips_per_second),
        _number(row.read_ms),
        f"{row.busy_cpus:.1f}",
        "<- best" if row.workers == best else "",
    ]


def _both_cells(row: BothRow) -> list[str]:
    if row.why is not None:
        return [str(row.batch_size), f"{row.why}: take the next smaller one"]
    return [
        str(row.batch_size),
        str(row.workers),
        _number(row.clips_per_second),
        _number(row.ms_per_step),
        _share(row.flop_share),
        f"{row.data_wait_share or 0.0:.0%}",
    ]


def _advice(found: Bench) -> list[str]:
    best, own = found.recommended, found.recipe
    if best is None:
        return _none_fits(found)
    hints = [*_larger_ones(found, best), *_slow_loader(found, best)]
    if best == own:
        return ["The recipe's own settings are the best of these.", *hints]
    lines = ["Write into the recipe:"]
    for section, key in (("train", "batch_size"), ("loader", "workers")):
        value, before = getattr(best, key), getattr(own, key)
        same = "   # as it is" if value == before else f"   # was {before}"
        lines += [f"  [{section}]", f"  {key} = {value}{same}"]
    if best.batch_size != own.batch_size:
        lines.append("Another batch size is another training: adapt schedules.lr and the run's length to it.")
    return lines + hints


def _none_fits(found: Bench) -> list[str]:
    smallest = min(row.batch_size for row in found.step)
    if smallest > found.num_clips:
        return [f"No batch size fits: the data set has {found.num_clips} {found.noun}s; choose smaller --batch-sizes."]
    return [
        f"No batch size from {smallest} on fits into memory: measure smaller ones with --batch-sizes, "
        "or take a smaller predictor."
    ]


def _larger_ones(found: Bench, best: Settings) -> list[str]:
    """A word where the fastest is the largest that was measured, and nothing speaks against a larger one."""
    largest = max(row.batch_size for row in found.step)  # one that does not fit is a row, too
    if best.batch_size < largest or 2 * largest > found.num_clips:
        return []
    return [f"Larger batch sizes than {largest} were not measured, and may be faster: --batch-sizes {2 * largest}."]


def _slow_loader(found: Bench, best: Settings) -> list[str]:
    """A word where the step will wait, whatever the settings."""
    (step,) = [row for row in found.step if row.batch_size == best.batch_size]
    (loader,) = [row for row in found.loader if row.workers == best.workers]
    if loader.clips_per_second >= (step.clips_per_second or 0.0):
        return []
    return ["No worker count reads as fast as this step trains; `salt check --preflight` says what holds reading up."]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns to the right, so that numbers stand under one another; what follows the last column to the left."""
    widths = [
        max(len(cell) for cell in [name, *(row[column] for row in rows if len(row) >= len(heading))])
        for column, name in enumerate(heading)
    ]
    lines = []
    for row in [heading, *rows]:
        whole = len(row) >= len(heading)
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)] if whole else []
        rest = row[len(heading) :] if whole else [row[0].rjust(widths[0]), *row[1:]]
        lines.append("  " + "  ".join([*cells, *rest]).rstrip())
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"

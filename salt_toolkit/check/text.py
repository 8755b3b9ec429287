"""The report of `salt check`, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from salt_toolkit.check.preflight_text import render_preflight
from salt_toolkit.check.report import Facts, Report, TeacherFacts

_LABELS = {"error": "error  ", "missing": "missing", "warning": "warning", "note": "note   "}


def render_report(path: Path, report: Report) -> str:
    """One recipe's facts and findings, for a terminal."""
    lines = [f"{path}: {_verdict(report)}"]
    lines += [f"  {name:<11} {text}" for name, text in _facts(report.facts) if text]
    if report.facts.preflight is not None:
        lines += render_preflight(report.facts.preflight, report.facts.disk_gb, report.facts.noun)
    for finding in report.findings:
        place = f"{finding.key}: " if finding.key and f"{finding.key}: " not in finding.message else ""
        lines.append(f"  {_LABELS[finding.severity]}     {place}{finding.message}")
        if finding.fix:
            lines.append(f"              -> {finding.fix}")
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    count = sum(finding.severity == "error" for finding in report.findings)
    if count:
        return f"{count} {'error' if count == 1 else 'errors'}"
    if report.has("missing"):
        return "ok, but not ready on this machine"
    return "ok"


def _facts(facts: Facts) -> list[tuple[str, str]]:
    if facts == Facts():
        return []
    teachers = facts.teachers
    return [
        ("tokens", _tokens(facts)),
        *(("teacher", _teacher(row, alone=len(teachers) == 1)) for row in teachers),
        ("parameters", _parts(facts, "parameters", lambda number: f"{number / 1e6:.1f} M")),
        (f"GFLOPs/{facts.noun}", _flops(facts)),
        ("length", _length(facts)),
        ("memory", _memory(facts)),
    ]


def _tokens(facts: Facts) -> str:
    if facts.grid is None:
        return ""
    text = f"{facts.grid}"
    if facts.visible_tokens is not None:
        target, drawn, passes = facts.target_tokens, facts.drawn_target_tokens, facts.passes_per_clip or 1
        text += f"; {facts.visible_tokens} visible, {target if target == drawn else f'{target} of {drawn}'} targets"
        text += f", {passes} passes a {facts.noun}" if passes > 1 else ""
    if facts.mask_ratios is not None:
        least, mean, most = facts.mask_ratios
        text += f" (mask ratio {mean:.3g}" + (f", the mean of {least:.3g} to {most:.3g})" if most > least else ")")
    if facts.teacher_dim is not None:
        text += f"; width {facts.student_dim} -> {facts.teacher_dim}"
    return text


def _teacher(row: TeacherFacts, *, alone: bool) -> str:
    """One teacher; its name and weight where there are several."""
    text = row.use if alone else f"{row.name}: {row.use}, weight {row.weight:g}"
    if row.grid is not None:
        text += f", {row.grid} of {row.dim} numbers"
        text += ", resampled to the student's grid" if row.resampled else ""
    text += f"; fingerprint {row.fingerprint or 'unknown here'}"
    if row.licence is not None:
        text += f"; licence {row.licence}, labels {row.labels}"
    return text


def _parts(facts: Facts, what: str, show: Any) -> str:
    values = [(part, getattr(facts, f"{part}_{what}")) for part in ("teacher", "student", "predictor")]
    return ", ".join(f"{part} {show(value) if value else 'none'}" for part, value in values if value is not None)


def _flops(facts: Facts) -> str:
    text = _parts(facts, "gflops_per_clip", lambda number: f"{number:.4g}")
    step = facts.train_step_gflops_per_clip
    return f"{text} forward; training step {step:.4g}" if step is not None else text


def _length(facts: Facts) -> str:
    clips, steps = facts.clips, facts.steps
    text = counted(clips, facts.noun) if clips is not None else f"{facts.noun}s unknown here"
    if facts.epochs is not None:
        text += f", {counted(facts.epochs, 'epoch')}"
    text += f", {counted(steps, 'step')} of {counted(facts.batch_clips or 0, facts.noun)}" if steps else ""
    pflops = facts.run_pflops
    return f"{text}, {pflops:,.4g} PFLOP in all" if pflops else text


def counted(number: int | float, noun: str) -> str:
    """``1 step``, ``15,834 steps``, ``2.5 epochs``."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"


def _memory(facts: Facts) -> str:
    sizes = (
        (facts.device_memory_gb, "device about {:.2g} GB"),
        (facts.host_memory_gb, f"host about {{:.2g}} GB for {facts.noun}s"),
        (facts.disk_gb, "disk {:.2g} GB for checkpoints"),
        (facts.cache_gb, "{:.3g} GB for the cache"),
    )
    return ", ".join(text.format(size) for size, text in sizes if size is not None)

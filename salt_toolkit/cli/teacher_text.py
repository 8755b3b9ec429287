"""The list of `salt teachers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from salt_toolkit.component import TeacherConfig
from salt_toolkit.errors import explain
from salt_toolkit.registry import Registry

HEADINGS = ("checkpoint", "size", "M param.", "native grid", "dim", "licence", "labels")


def teacher_rows(registry: Registry) -> list[dict[str, Any]]:
    """Every published checkpoint of every installed teacher, in plain values; teachers without any have one row.

    A teacher whose plugin fails to answer has a row with the key "error".
    """
    rows: list[dict[str, Any]] = []
    for provided in registry.of_kind("teacher"):
        component, config = provided.component, provided.component.config
        assert issubclass(config, TeacherConfig)
        about = {"teacher": component.name, "summary": component.summary, "plugin": provided.plugin.name}
        try:
            rows += [{**about, **asdict(checkpoint)} for checkpoint in config.known_checkpoints()] or [about]
        except BaseException as error:  # a third party's code may raise anything, and hides no other teacher
            rows.append({**about, "error": str(explain(error))})
    return rows


def render_teachers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as one table for each teacher, for a terminal."""
    blocks = []
    for _, group in groupby(rows, key=lambda row: row["teacher"]):
        entries = list(group)
        lines = [f'use = "{entries[0]["teacher"]}"   {entries[0]["summary"]}']
        known = [entry for entry in entries if "checkpoint" in entry]
        if known:
            lines[0] += f" Recipes name it in {known[0]['key']}."
            lines += _table([HEADINGS, *(_cells(entry) for entry in known)])
            notes = {f"  {entry['checkpoint']}: {entry['note']}" for entry in known if entry["note"]}
            lines += sorted(notes)
        lines += [f"  {entry['error']}" for entry in entries if "error" in entry]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = f"{entry['parameters']:g}", entry["grid"], str(entry["dim"])
    return entry["checkpoint"], entry["size"], *numbers, entry["card"]["licence"], entry["card"]["labels"]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]

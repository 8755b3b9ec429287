"""The demo: from videos on disk to a student, and an honest look at what it has learned."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import salt_toolkit
from salt_demo.motion import LABELS
from salt_demo.videos import write_demo_data
from salt_toolkit.assemble import build_dataset, build_student
from salt_toolkit.contracts import Student
from salt_toolkit.errors import RecipeChanged, RunConflict, RunError
from salt_toolkit.evaluate.features import labelled_features, mean_of_tokens, raw_pixels
from salt_toolkit.evaluate.probes import ProbeResult, probe
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import Registry, discover
from salt_toolkit.report.pictures import draw_curves, draw_masks
from salt_toolkit.runs.directory import RunDirectory, load_student
from salt_toolkit.seeding import generator_for
from salt_toolkit.system.files import read_lines, write_json
from salt_toolkit.system.formats import stamped
from salt_toolkit.teaching.specs import student_spec
from salt_toolkit.train.run import run_recipe

NUM_TRAIN = 1500
NUM_VALIDATION = 600
MASKERS = ("multiblock", "random", "tube")
"""Those of the picture; others may have settings without a default."""


@dataclass
class _Clock:
    """Seconds of each part of the story."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def mark(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = round(now - self._last, 1)
        self._last = now


def bundled_recipes() -> Path:
    """The folder of the recipes that come with the toolkit: in a wheel beside its code, else in the repository."""
    package = Path(salt_toolkit.__file__).parent
    packaged = package / "recipes"
    return packaged if packaged.is_dir() else package.parent / "recipes"


def run_demo(
    directory: Path, recipes: Path, *, seed: int, num_train: int = NUM_TRAIN, num_validation: int = NUM_VALIDATION
) -> None:
    """Writes videos, trains a pixel teacher and its student, and judges both.

    A second call goes on where the first one stopped.

    Args:
        directory: Gets the videos, both runs, ``summary.json``, ``curves.png`` and ``masks.png``.
        recipes: The folder with ``demo_teacher.toml`` and ``demo_student.toml``.
        seed: Of both runs; the videos are always the same.
        num_train: Videos to train on, and to fit the probes on.
        num_validation: Held-out videos, to judge the probes on.

    Raises:
        RunError: The directory holds a demo of other recipes or of another seed.
    """
    console = Console(highlight=False)
    clock = _Clock()
    registry = discover()
    data = directory / "data"
    write_demo_data(data, num_train=num_train, num_validation=num_validation, seed=0)
    clock.mark("videos")
    shared = [f"run.dir={directory}", f"run.seed={seed}", f"dataset.root={data}"]
    teacher = load_recipe(recipes / "demo_teacher.toml", registry, shared)
    _train(teacher, directory)
    clock.mark("teacher")
    teacher_directory = RunDirectory.of(teacher).path
    student = load_recipe(recipes / "demo_student.toml", registry, [*shared, f"teacher.path={teacher_directory}"])
    _train(student, directory)
    clock.mark("student")
    results = judge(student, {"teacher": teacher_directory, "distilled student": RunDirectory.of(student).path})
    clock.mark("probes")
    runs = {recipe.run.name: RunDirectory.of(recipe).metrics for recipe in (teacher, student)}
    summary = _summary(results, runs, clock.seconds, seed)
    write_json(directory / "summary.json", stamped("demo", summary))
    draw_curves(runs, directory / "curves.png")
    _draw_masks(student, registry, directory / "masks.png")
    _print(console, results, summary, directory)


def judge(recipe: Recipe, runs: dict[str, Path]) -> dict[str, ProbeResult]:
    """Probes four encoders on the same held-out clips, with the same two probes.

    Args:
        recipe: The student's; its dataset has the splits ``train`` and ``validation``, with labels.
        runs: Complete runs by the name under which their student is judged.
    """
    trained = {name: mean_of_tokens(load_student(directory)) for name, directory in runs.items()}
    untrained: Student = build_student(recipe)
    encoders = {"raw pixels": raw_pixels, "random initialisation": mean_of_tokens(untrained), **trained}
    clip = recipe.inputs().video.for_evaluation()
    fit, held_out = (
        labelled_features(build_dataset(recipe, split=split, clip=clip), encoders) for split in ("train", "validation")
    )
    return {name: probe(fit[name], held_out[name]) for name in encoders}


def _train(recipe: Recipe, directory: Path) -> None:
    try:
        outcome = run_recipe(recipe)
    except RunConflict as error:
        raise _in_terms_of_the_demo(error, directory, recipe.run.seed) from error
    if outcome is not None and outcome.stopped_by is not None:
        Console(stderr=True).print(f"stopped by {outcome.stopped_by.name}; the same command continues the demo")
        raise SystemExit(128 + outcome.stopped_by)


def _in_terms_of_the_demo(error: RunConflict, directory: Path, seed: int) -> RunError:
    """Advises what `salt demo` can do: it takes neither ``--set`` nor ``--restart``."""
    base = directory if directory.name else directory.absolute()
    if isinstance(error, RecipeChanged) and any(change.key == "run.seed" for change in error.changes):
        name = re.sub(r"-seed\d+$", "", base.name)
        other = base.with_name(f"{name}-seed{seed}")
    else:
        numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
        other = next(place for place in numbered if not place.exists())
    return RunError(f"{error.what}\nFor another demo, name another directory, such as {other}.")


def _draw_masks(recipe: Recipe, registry: Registry, picture: Path) -> None:
    """Draws the bundled maskers, at their default settings, on one clip of the held-out set."""
    dataset = build_dataset(recipe, split="validation", clip=recipe.inputs().video.for_evaluation())
    clip = dataset.read(0, 0).tensors["clip"].numpy()
    grid = student_spec(recipe).grid
    visible: dict[str, list[int]] = {}
    for name in MASKERS:
        component = registry.get("masker", name).component
        drawn, _ = component.build(component.config(), grid=grid).draw(generator_for(0, "picture"))
        visible[name] = np.asarray(drawn).tolist()
    draw_masks(clip, grid, visible, picture)


def _summary(
    results: dict[str, ProbeResult], runs: dict[str, Path], seconds: dict[str, float], seed: int
) -> dict[str, Any]:
    student, baseline = (
        results["distilled student"],
        max(results["raw pixels"].linear, results["random initialisation"].linear),
    )
    return {
        "seed": seed,
        "encoders": {name: {"knn": result.knn, "linear": result.linear} for name, result in results.items()},
        "margin": round(student.linear - baseline, 4),
        "motions": {
            name: {LABELS[label]: share for label, share in sorted(result.linear_by_label.items())}
            for name, result in results.items()
        },
        "runs": {name: read_lines(file)[-1] for name, file in runs.items()},
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
    }


def _print(console: Console, results: dict[str, ProbeResult], summary: dict[str, Any], directory: Path) -> None:
    table = Table(title="Motion labels found on held-out clips, from frozen features")
    table.add_column("encoder")
    table.add_column("k-NN", justify="right")
    table.add_column("linear probe", justify="right")
    for name, result in results.items():
        table.add_row(name, f"{result.knn:.1%}", f"{result.linear:.1%}")
    console.print(table)
    motions = sorted(summary["motions"]["distilled student"].items(), key=lambda found: -found[1])
    found = ", ".join(f"{motion} {share:.0%}" for motion, share in motions)
    console.print(f"Motions that the distilled student's linear probe found: {found}.")
    console.print(
        f"The distilled student is {_lead(summary['margin'])} the better of raw pixels and random initialisation "
        f"(linear probe).\n{directory / 'curves.png'}, {directory / 'masks.png'}, {directory / 'summary.json'}; "
        f"{summary['seconds']['total']:.0f} s in all",
        soft_wrap=True,
    )


def _lead(margin: float) -> str:
    """A difference of two shares in words, to be followed by what was led or not."""
    points = f"{abs(margin):.1%}".removesuffix("%")
    if float(points) == 0:
        return "level with"
    return f"{points} points {'ahead of' if margin > 0 else 'behind'}"

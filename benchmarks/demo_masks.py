"""What method.target_fraction and method.masks_per_clip do to the demo: time of a step, and what probes read.

python benchmarks/demo_masks.py [folder]
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from salt_demo.story import bundled_recipes, judge, run_demo

from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.system.files import read_lines
from salt_toolkit.train.run import run_recipe

SETTINGS = {
    "plain": ("method.target_fraction=1.0",),
    "target_fraction = 0.5": ("method.target_fraction=0.5",),
    "target_fraction = 0.25": ("method.target_fraction=0.25",),
    "masks_per_clip = 2": ("method.masks_per_clip=2",),
    "masks_per_clip = 2, half the steps": ("method.masks_per_clip=2", "train.max_steps=1000"),
}


def main(folder: Path) -> None:
    """Runs the demo (or takes what an earlier call finished), then a student for each setting; prints a table."""
    if not (folder / "summary.json").exists():
        run_demo(folder, bundled_recipes(), seed=0)
    speeds: dict[str, float] = {}
    runs: dict[str, Path] = {}
    shared = [f"run.dir={folder}", f"dataset.root={folder / 'data'}", f"teacher.path={folder / 'teacher'}"]
    recipe = load_recipe("recipes/demo_student.toml", discover(), shared)
    for number, (name, settings) in enumerate(SETTINGS.items()):
        overrides = [*shared, f"run.name=masks{number}", *settings]
        recipe = load_recipe("recipes/demo_student.toml", discover(), overrides)
        run_recipe(recipe)
        runs[name] = RunDirectory.of(recipe).path
        lines = read_lines(RunDirectory.of(recipe).metrics)
        speeds[name] = statistics.median(line["clips_per_second"] for line in lines)
    results = judge(recipe, runs)
    print("| setting | clips a second | k-NN | linear probe |\n|---|---|---|---|")
    for name in SETTINGS:
        print(f"| {name} | {speeds[name]:.0f} | {results[name].knn:.1%} | {results[name].linear:.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo_masks"))

"""What a cache saves: epochs from it against live ones, beside what FLOPs allow; and how fast it is filled.

Runs `salt cache` and `salt run` as users do, on demo videos, in two configurations: one of the demo's
size, and one with a teacher that is much larger than the student. For each:

- live and cached clips a second, their ratio, and the bound: (teacher + step) / step in FLOPs
- clips a second of `salt cache`, over those of the bare teacher at the same batch size

python benchmarks/cached_training.py [--steps 24]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from salt_demo.videos import write_demo_data

from salt_toolkit.assemble import build_dataset, build_teacher
from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.data.samples import collate
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.runs.machine import Machine
from salt_toolkit.system.files import read_lines
from salt_toolkit.train.run import run_recipe

COMMON = """
[run]
name = "bench"
[dataset]
use = "video_folder"
[predictor]
use = "transformer"
dim = 96
depth = 1
heads = 3
[masker]
use = "random"
ratio = 0.9
[objective]
use = "mse"
[schedules.lr]
use = "constant"
value = 1e-4
[train]
batch_size = 16
log_every = 4
precision = "fp32"
[loader]
workers = 2
ram_cache_mb = 500
[student]
use = "timm_vit"
"""

CONFIGURATIONS = {
    "demo-sized: ViT-S/8 teaches ViT-Ti, 8 x 32 x 32": """
model = "vit_tiny_patch16_224"
patch = 8
[clip]
frames = 8
stride = 1
size = 32
[teacher]
use = "dino"
model = "vit_small_patch8_224.dino"
weights = "random"
""",
    "ViT-S/16 teaches ViT-S/16, 8 x 112 x 112": """
model = "vit_small_patch16_224"
[clip]
frames = 8
stride = 1
size = 112
[teacher]
use = "dino"
model = "vit_small_patch16_dinov3.lvd1689m"
weights = "random"
""",
    "ViT-B/16 teaches ViT-Ti, 8 x 112 x 112": """
model = "vit_tiny_patch16_224"
[clip]
frames = 8
stride = 1
size = 112
[teacher]
use = "dino"
model = "vit_base_patch16_dinov3.lvd1689m"
weights = "random"
""",
}


def main() -> None:
    """Measures both configurations, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--only", default="", help="Configurations whose name holds this.")
    arguments = parser.parse_args()
    rows = ["| configuration | live | cached | ratio | FLOP bound | of it | filling | of the bare teacher |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, settings in CONFIGURATIONS.items():
        if arguments.only in name:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(_row(name, settings, Path(folder), arguments.steps, arguments.clips))
    print("\n".join(rows))


def _row(name: str, settings: str, folder: Path, steps: int, num_clips: int) -> str:
    write_demo_data(folder / "data", num_train=num_clips, num_validation=8, seed=0)
    (folder / "bench.toml").write_text(COMMON + settings)

    def recipe(*overrides: str) -> Recipe:
        places = [f"run.dir={folder}", f"dataset.root={folder / 'data'}", f"train.max_steps={steps}"]
        return load_recipe(folder / "bench.toml", discover(), [*places, *overrides])

    facts = check_recipe(recipe()).facts
    step = facts.train_step_gflops_per_clip
    bound = (facts.teacher_gflops_per_clip + step) / step
    live = _rate(recipe("run.name=live"))
    cached_recipe = recipe("run.name=cached", f"cache.dir={folder / 'cache'}")
    bare = _bare_teacher(cached_recipe)
    counts = fill_cache(cached_recipe, CacheOptions()).counts
    filling = counts.done / counts.elapsed
    cached = _rate(cached_recipe)
    ratio = cached / live
    return (
        f"| {name} | {live:.1f} | {cached:.1f} | {ratio:.2f} | {bound:.2f} | {ratio / bound:.0%} "
        f"| {filling:.1f} | {filling / bare:.0%} |"
    )


def _rate(recipe: Recipe) -> float:
    """Clips a second of a run: the median of its lines but the first."""
    run_recipe(recipe)
    lines = read_lines(RunDirectory.of(recipe).metrics)
    return statistics.median(line["clips_per_second"] for line in lines[1:])


def _bare_teacher(recipe: Recipe) -> float:
    """Clips a second of the teacher alone, on one batch again and again."""
    machine, dataset = Machine.here(recipe), build_dataset(recipe)
    (teaching,) = recipe.teachings()
    teacher = build_teacher(recipe, teaching).to(machine.device)
    size = recipe.train.batch_size
    batch = collate([dataset.read(index, 0) for index in range(size)]).to(machine.device)
    seconds = []
    with torch.inference_mode(), machine.autocast():
        for _ in range(6):
            begin = time.perf_counter()
            teacher(batch)
            if machine.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    return size / statistics.median(seconds[1:])


if __name__ == "__main__":
    main()

"""What a share of the targets, and several masks of each clip, do to the time of a training step.

A ViT-Ti that sees a quarter of the tokens, behind V-JEPA's predictor of 12 blocks of width 384, on clips of
8 x 112 x 112: the predictor is over nine tenths of the FLOPs, as it is on full-size clips. The teacher costs nothing
here, as with cached latents, so masks share no more than the optimizer's step and the way to the targets. A step is
loss, gradient and AdamW; clips and masks are at hand. All settings run in one process, round by round, in both orders.

Beside the measured rate of masks (clips a second times masks of each, over the plain setting's) stands what FLOPs
allow, by the arithmetic of `salt check`.

    python benchmarks/predictor_cost.py [--rounds 4] [--batch 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from salt_toolkit.assemble import (
    build_dataset,
    build_objectives,
    build_predictor,
    build_student,
    build_teachers,
)
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.contracts import Method, Parts
from salt_toolkit.data.samples import collate
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.machine import Machine

FRACTIONS, MASKS = (1.0, 0.5, 0.25), (1, 2, 4)

Setting = tuple[float, int]
"""target_fraction and masks_per_clip."""

RECIPE = """
[run]
name = "bench"
[clip]
frames = 8
stride = 1
size = 112
[dataset]
use = "toy_squares"
[teacher]
use = "pixels"
patch = 16
norm = "clip"
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
[predictor]
use = "transformer"
dim = 384
depth = 12
heads = 6
[masker]
use = "random"
ratio = 0.75
[objective]
use = "mse"
[schedules.lr]
use = "constant"
value = 1e-4
[train]
max_steps = 1
"""


def main() -> None:
    """Measures every pair of settings, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2, help="Clips in a step.")
    arguments = parser.parse_args()
    pairs = [(fraction, masks) for fraction in FRACTIONS for masks in MASKS]
    plain = pairs[0]
    with tempfile.TemporaryDirectory() as folder:
        recipes = {pair: _recipe(Path(folder), *pair) for pair in pairs}
    machine = Machine.here(recipes[plain])
    print(f"{machine.device}, torch {torch.__version__}, batch {arguments.batch}")
    methods = _methods(recipes, machine)
    optimizer = _optimizer(methods[plain])
    steps = {
        pair: _step(recipe, methods[pair], optimizer, machine, arguments.batch) for pair, recipe in recipes.items()
    }
    seconds: dict[Setting, list[float]] = {pair: [] for pair in pairs}
    for round_number in range(-1, arguments.rounds):
        for pair in pairs if round_number % 2 == 0 else reversed(pairs):
            taken = steps[pair]()
            if round_number >= 0:  # the first round warms up
                seconds[pair].append(taken)
    medians = {pair: statistics.median(times) for pair, times in seconds.items()}
    gflops = {pair: check_recipe(recipe).facts.train_step_gflops_per_clip for pair, recipe in recipes.items()}
    print("| target_fraction | masks_per_clip | GFLOP per clip | ms per step | relative masks/s | by FLOPs |")
    print("|---|---|---|---|---|---|")
    for fraction, masks in pairs:
        pair = (fraction, masks)
        rate, allowed = (masks * costs[plain] / costs[pair] for costs in (medians, gflops))
        print(
            f"| {fraction:g} | {masks} | {gflops[pair]:.4g} | {1000 * medians[pair]:.0f} | {rate:.2f} | {allowed:.2f} |"
        )


def _recipe(folder: Path, fraction: float, masks: int) -> Recipe:
    path = folder / "bench.toml"
    path.write_text(RECIPE)
    return load_recipe(path, discover(), [f"method.target_fraction={fraction}", f"method.masks_per_clip={masks}"])


def _methods(recipes: Mapping[Setting, Recipe], machine: Machine) -> dict[Setting, Method]:
    """A method for each setting, all of them around the same modules."""
    recipe = next(iter(recipes.values()))
    student, predictor = build_student(recipe), build_predictor(recipe)
    assert recipe.masker is not None
    parts = Parts(
        seed=recipe.run.seed,
        teachers=build_teachers(recipe),
        objectives=build_objectives(recipe),
        student=student,
        predictor=predictor,
        masker=recipe.masker.build(grid=student.token_spec.grid),
    )
    return {pair: each.method.build(parts=parts).to(machine.device).train() for pair, each in recipes.items()}


def _optimizer(method: Method) -> torch.optim.Optimizer:
    parameters = [p for module in method.owned_modules().values() for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def _step(
    recipe: Recipe, method: Method, optimizer: torch.optim.Optimizer, machine: Machine, num_clips: int
) -> Callable[[], float]:
    """A training step on one batch again and again; it gives its seconds."""
    dataset = build_dataset(recipe)
    batch = collate([dataset.read(index, 0) for index in range(num_clips)])
    batch = method.prepare(batch, epoch=0, step=0).to(machine.device)

    def step() -> float:
        begin = time.perf_counter()
        with machine.autocast():
            loss = method(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return step


if __name__ == "__main__":
    main()

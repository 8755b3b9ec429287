"""The training loop against a plain PyTorch loop doing the same arithmetic, in one run, in both orders.

The plain loop has its batch in memory already: no reading, no masks, no metrics, no checkpoint. What
the toolkit's loop takes beyond it is the price of all that.

    python benchmarks/train_step.py [rounds]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from salt_toolkit.assemble import build_dataset, build_predictor, build_student, build_teachers
from salt_toolkit.contracts import Mask
from salt_toolkit.data.loading import collate
from salt_toolkit.demo.data import write_demo_data
from salt_toolkit.masking import masks_for
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.train.start import run_recipe

STEPS, WARM_UP, BATCH = 60, 10, 32

RECIPE = """
[run]
name = "bench"
[clip]
frames = 8
stride = 1
size = 64
[dataset]
use = "video_folder"
[teacher]
use = "pixels"
patch = 16
norm = "clip"
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
[predictor]
use = "transformer"
dim = 192
depth = 4
heads = 6
[masker]
use = "random"
ratio = 0.75
[objective]
use = "mse"
[optimizer]
grad_clip = 1.0
[schedules.lr]
use = "constant"
value = 1e-4
[train]
log_every = 10
checkpoint_every = 1000000
[loader]
workers = 2
ram_cache_mb = 200
"""


def plain_loop(recipe: Recipe) -> float:
    """Seconds of a step: encoder on visible tokens, predictor, masked MSE, AdamW; the data at hand."""
    student, predictor = build_student(recipe), build_predictor(recipe)
    (teacher,) = build_teachers(recipe).values()
    assert recipe.masker is not None
    masker = recipe.masker.build(grid=student.token_spec.grid)
    dataset = build_dataset(recipe)
    batch = collate([dataset.read(index, 0) for index in range(BATCH)])
    mask: Mask = masks_for(masker, seed=0, epoch=0, clip_ids=batch.clip_ids)
    parameters = [*student.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    start = 0.0
    for step in range(STEPS):
        if step == WARM_UP:
            start = time.perf_counter()
        with torch.no_grad():
            latents = teacher(batch)
        index = mask.target.unsqueeze(-1).expand(-1, -1, latents.shape[-1])
        predicted = predictor(student(batch, mask.visible), mask)
        loss = functional.mse_loss(predicted, latents.gather(1, index))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - start) / (STEPS - WARM_UP)


def our_loop(recipe: Recipe) -> float:
    """Seconds of a step in `salt run`, reading, masks, metrics and all, after the same warm-up."""
    times: dict[int, float] = {}
    from salt_toolkit.train import progress

    def note(self: progress.Progress, step: int, total: int, line: dict[str, float]) -> None:
        times[step] = time.perf_counter()

    original, progress.Progress.update = progress.Progress.update, note
    try:
        run_recipe(recipe)
    finally:
        progress.Progress.update = original
    return (times[STEPS] - times[WARM_UP]) / (STEPS - WARM_UP)


def main(rounds: int) -> None:
    """Prints both loops' times of a step, and their ratio round by round."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_demo_data(path / "data", num_train=64, num_validation=8, seed=0)
        (path / "bench.toml").write_text(RECIPE)
        ratios: list[float] = []
        for round_number in range(rounds):
            settings = [f"run.dir={folder}", f"run.name=bench{round_number}", f"dataset.root={path / 'data'}"]
            settings += [f"train.max_steps={STEPS}", f"train.batch_size={BATCH}"]
            recipe = load_recipe(path / "bench.toml", discover(), settings)
            loops = {"plain": plain_loop, "salt run": our_loop}
            order = list(loops) if round_number % 2 == 0 else list(loops)[::-1]
            seconds = {name: loops[name](recipe) for name in order}
            ratios.append(seconds["plain"] / seconds["salt run"])
            print("  ".join(f"{name} {1000 * seconds[name]:.1f} ms" for name in loops), f"ratio {ratios[-1]:.3f}")
        print(f"salt run reaches {statistics.median(ratios):.1%} of the plain loop's speed (median of {rounds})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)

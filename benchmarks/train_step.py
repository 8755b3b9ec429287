"""The training step against a plain PyTorch loop doing the same arithmetic, and what a run spends beside it.

The plain loop is what one would write: a Conv3d over the whole clip, timm's blocks over the visible
tokens, a predictor of timm's blocks over all tokens, masked MSE, AdamW; its one batch lies in memory
for ever. Our step gets the same batch in memory; the run reads, draws masks and logs as well. One
process, all in turns, both orders.

    python benchmarks/train_step.py [rounds] [--compile]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from salt_demo.videos import write_demo_data
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit.assemble import build_dataset, build_method
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.data.samples import collate
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.machine import Machine
from salt_toolkit.train.processes import Processes
from salt_toolkit.train.run import run_recipe
from salt_toolkit.train.step import Stepper

STEPS, WARM_UP, BATCH = 12, 3, 8
DIM, DEPTH, HEADS, PREDICTOR_DIM, PREDICTOR_DEPTH, PATCH, TUBELET = 192, 12, 3, 192, 12, 16, 2

RECIPE = f"""
[run]
name = "bench"
[clip]
frames = 8
stride = 1
size = 128
[dataset]
use = "video_folder"
[teacher]
use = "pixels"
patch = {PATCH}
norm = "clip"
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
[predictor]
use = "transformer"
dim = {PREDICTOR_DIM}
depth = {PREDICTOR_DEPTH}
heads = {HEADS}
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
precision = "fp32"
log_every = 10
checkpoint_every = 1000000
[loader]
workers = 1
ram_cache_mb = 400
"""


class PlainModel(nn.Module):
    """Student and predictor as one would write them."""

    def __init__(self, num_tokens: int, latent_dim: int) -> None:
        super().__init__()
        kernel = (TUBELET, PATCH, PATCH)
        self.embed = nn.Conv3d(3, DIM, kernel, kernel)
        self.positions = nn.Parameter(torch.randn(1, num_tokens, DIM) * 0.02, requires_grad=False)
        self.encoder = nn.Sequential(*(Block(DIM, HEADS, qkv_bias=True) for _ in range(DEPTH)), nn.LayerNorm(DIM))
        self.down = nn.Linear(DIM, PREDICTOR_DIM)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, PREDICTOR_DIM))
        self.places = nn.Parameter(torch.randn(1, num_tokens, PREDICTOR_DIM) * 0.02, requires_grad=False)
        blocks = (Block(PREDICTOR_DIM, HEADS, qkv_bias=True) for _ in range(PREDICTOR_DEPTH))
        self.predictor = nn.Sequential(*blocks, nn.LayerNorm(PREDICTOR_DIM))
        self.head = nn.Linear(PREDICTOR_DIM, latent_dim)

    def forward(self, clip: Tensor, visible: Tensor, target: Tensor) -> Tensor:
        """The latents guessed at the targets."""
        pixels = (clip.float() / 255 - 0.45) / 0.225
        tokens = self.embed(pixels).flatten(2).transpose(1, 2) + self.positions
        tokens = self.down(self.encoder(pick(tokens, visible)))
        places = self.places.expand(clip.shape[0], -1, -1)
        together = torch.cat([tokens + pick(places, visible), self.mask_token + pick(places, target)], dim=1)
        return self.head(self.predictor(together))[:, visible.shape[1] :]


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens by their indices."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def seconds_of(step: Callable[[int], Any]) -> float:
    """Mean seconds of a step after warming up."""
    start = 0.0
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            start = time.perf_counter()
        step(number)
    return (time.perf_counter() - start) / STEPS


def plain_loop(recipe: Recipe, batch: ClipBatch, teacher: nn.Module) -> float:
    """Seconds of a step of the plain loop."""
    num_tokens = batch.tensors["visible"].shape[1] + batch.tensors["target"].shape[1]
    model = PlainModel(num_tokens, teacher(batch).shape[-1])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step(_: int) -> None:
        with torch.no_grad():
            latents = pick(teacher(batch), batch.tensors["target"])
        loss = functional.mse_loss(model(batch.clip, batch.tensors["visible"], batch.tensors["target"]), latents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return seconds_of(step)


def our_step(recipe: Recipe, batch: ClipBatch) -> float:
    """Seconds of a step of ours, on the same batch; eager, or compiled if the recipe says so."""
    method = build_method(recipe, total_steps=1000).train()
    stepper = Stepper(recipe, method, Machine.here(recipe), Processes(recipe))
    return seconds_of(lambda number: stepper.step(iter([batch]), number, lr=1e-4, weight_decay=0.0))


def our_run(recipe: Recipe) -> tuple[float, float]:
    """Seconds of a step in `salt run`, and the share of them outside forward, backward and optimizer."""
    inside: list[float] = []
    ends: list[float] = []
    parts = {name: getattr(Stepper, name) for name in ("forward_and_backward", "_clip_gradient", "_update")}

    def timed(name: str) -> Callable[..., Any]:
        def later(*arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            found = parts[name](*arguments, **keywords)
            ends.append(time.perf_counter())
            inside.append(ends[-1] - begin)
            return found

        return later

    try:
        for name in parts:
            setattr(Stepper, name, timed(name))
        run_recipe(recipe)
    finally:
        for name, part in parts.items():
            setattr(Stepper, name, part)
    skip = len(parts) * WARM_UP
    wall = ends[-1] - ends[skip - 1]
    return wall / STEPS, 1 - sum(inside[skip:]) / wall


def main(rounds: int, *, compile_too: bool) -> None:
    """Prints times of a step round by round, and the medians of their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_demo_data(path / "data", num_train=BATCH * 4, num_validation=8, seed=0)
        (path / "bench.toml").write_text(RECIPE)
        settings = [f"run.dir={folder}", f"dataset.root={path / 'data'}", f"train.batch_size={BATCH}"]
        settings.append(f"train.max_steps={WARM_UP + STEPS}")

        def recipe_with(*more: str) -> Recipe:
            return load_recipe(path / "bench.toml", discover(), [*settings, *more])

        recipe = recipe_with()
        dataset, method = build_dataset(recipe), build_method(recipe, total_steps=1)
        batch = collate([dataset.read(index, 0) for index in range(BATCH)])
        batch = method.prepare(batch, epoch=0, step=0)
        (teacher,) = method.teachers  # pyright: ignore[reportGeneralTypeIssues]
        outside: list[float] = []

        def run(number: int) -> float:
            seconds, share = our_run(recipe_with(f"run.name=run{number}"))
            outside.append(share)
            return seconds

        ways: dict[str, Callable[[int], float]] = {
            "plain loop": lambda _: plain_loop(recipe, batch, teacher),
            "our step": lambda _: our_step(recipe, batch),
            "salt run": run,
        }
        if compile_too:
            ways["our step, compiled"] = lambda _: our_step(recipe_with("train.compile=default"), batch)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                found[name].append(ways[name](number))
            print("  ".join(f"{name} {1000 * seconds[-1]:.0f} ms" for name, seconds in found.items()))
        for name, seconds in found.items():
            ratios = [plain / ours for plain, ours in zip(found["plain loop"], seconds, strict=True)]
            print(f"{name}: {statistics.median(ratios):.3f} of the plain loop's speed (median of {rounds})")
        print(f"salt run: {statistics.median(outside):.1%} outside forward, backward and optimizer")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=6)
    parser.add_argument("--compile", action="store_true", help="also measure our step compiled")
    arguments = parser.parse_args()
    main(arguments.rounds, compile_too=arguments.compile)

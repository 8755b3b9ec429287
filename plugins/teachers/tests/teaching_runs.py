"""Small runs to learn from."""

from __future__ import annotations

import json

from salt_toolkit import ClipSpec
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.train.run import run_recipe

CLIP = ClipSpec(frames=4, stride=1, size=16)

RECIPE = """
[run]
name = "first"
[clip]
frames = 4
stride = 1
size = 16
[dataset]
use = "toy_squares"
[teacher]
use = "pixels"
patch = 8
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
dim = 24
depth = 1
heads = 3
patch = 8
[predictor]
use = "transformer"
dim = 24
depth = 1
heads = 2
[masker]
use = "random"
ratio = 0.5
[objective]
use = "mse"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 2
batch_size = 4
"""


def load(folder, *overrides, recipe=RECIPE):
    """The recipe, with its runs in a folder."""
    (folder / "recipe.toml").write_text(recipe)
    return load_recipe(folder / "recipe.toml", discover(), [f"run.dir={folder}", *overrides])


def train(folder, *overrides, recipe=RECIPE):
    """Runs the recipe to its end.

    Returns:
        The run's directory.
    """
    loaded = load(folder, *overrides, recipe=recipe)
    run_recipe(loaded)
    return RunDirectory.of(loaded).path


def taught_by(path, recipe=RECIPE):
    """The recipe with an earlier run as its teacher."""
    return recipe.replace('use = "pixels"\npatch = 8', f'use = "run"\npath = "{path}"').replace(
        'name = "first"', 'name = "second"'
    )


def change_environment(path, **values):
    """Changes what a run has written down; None takes a key away."""
    file = path / "environment.json"
    known = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in known.items() if value is not None}))

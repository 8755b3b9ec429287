"""What a checkpoint refuses to be loaded into."""

from __future__ import annotations

import dataclasses

import pytest

from salt_toolkit.assemble import build_method
from salt_toolkit.errors import RunError
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.optimizer import build_optimizer
from salt_toolkit.train.run import run_recipe

NAME = "student.embed.proj.weight"


@pytest.fixture
def saved(small_recipe):
    """A recipe and the last checkpoint of its run."""
    recipe = small_recipe("train.max_steps=2")
    run_recipe(recipe)
    return recipe, checkpoints.newest(RunDirectory.of(recipe).checkpoints)


def restored(recipe, checkpoint, frozen=()):
    method = build_method(recipe, total_steps=2)
    for name in frozen:
        checkpoints.owned_parameters(method)[name].requires_grad_(False)
    optimizer = build_optimizer(method, recipe.optimizer)
    checkpoints.restore_rest(checkpoint, method, optimizer, None)
    return optimizer


def test_the_optimizer_of_the_same_parameters_is_restored(saved):
    optimizer = restored(*saved)
    assert len(optimizer.state) == len(saved[1].parameters) > 10
    assert all(state["step"] == 2 for state in optimizer.state.values())


def test_state_of_parameters_that_do_not_learn_now_is_named(saved):
    with pytest.raises(RunError, match=f"it has state for {NAME}, which are not trained now"):
        restored(*saved, frozen=[NAME])


def test_parameters_without_state_are_named(saved):
    recipe, checkpoint = saved
    some = dataclasses.replace(checkpoint, parameters=checkpoint.parameters - {NAME})
    with pytest.raises(RunError, match=f"it has no state for {NAME}. Train the same parameters"):
        restored(recipe, some)
    none = dataclasses.replace(checkpoint, parameters=frozenset())
    with pytest.raises(RunError, match=f"and {len(checkpoint.parameters) - 3} more"):
        restored(recipe, none)

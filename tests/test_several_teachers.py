"""Two teachers of other grids and widths than the student's, from a recipe to a finished student."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from salt_toolkit.assemble import build_dataset, build_method, build_teacher, build_teachers
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import RunError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.runs.directory import RunDirectory, load_student
from salt_toolkit.system.files import read_lines
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.run import run_recipe

HEAD = """
[run]
name = "two"
[clip]
frames = 4
size = 32
[dataset]
use = "toy_squares"
clips = 16
"""
SHORT = """
[teacher]
use = "pixels"
patch = 16
"""
TWO = """
[teachers.coarse]
weight = 3.0
use = "pixels"
patch = 16
tubelet = 4

[teachers.fine]
use = "toy_projection"
tubelet = 1
dim = 20

[teachers.fine.objective]
use = "l1"
target_norm = "position"
statistics = "running"
"""
TAIL = """
[student]
use = "toy_mixer"
[predictor]
use = "toy_regressor"
[masker]
use = "random"
ratio = 0.5
[objective]
use = "mse"
target_norm = "channel"
calibration_clips = 8
[schedules.lr]
use = "constant"
value = 1e-2
[train]
max_steps = 8
batch_size = 4
log_every = 2
checkpoint_every = 3
"""


@pytest.fixture
def load(tmp_path, registry):
    def load(*overrides, teachers=TWO):
        path = tmp_path / "recipe.toml"
        path.write_text(HEAD + teachers + TAIL)
        return load_recipe(path, registry, [f"run.dir={tmp_path / 'runs'}", *overrides])

    return load


def saved(recipe):
    return load_file(checkpoints.newest(RunDirectory.of(recipe).checkpoints).path / checkpoints.MODULES)


def lines(recipe):
    """The metrics without those of the clock."""
    clock = ("clips_per_second", "data_wait_share", "read_ms", "hours_left")
    metrics = read_lines(RunDirectory.of(recipe).metrics)
    return [{name: value for name, value in line.items() if name not in clock} for line in metrics]


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def batch_of(recipe, num_clips=4):
    dataset = build_dataset(recipe)
    return collate([dataset.read(index, 0) for index in range(num_clips)])


def test_a_run_with_two_teachers_learns_from_both(load):
    recipe = load("train.max_steps=40", "train.checkpoint_every=100")
    outcome = run_recipe(recipe)
    assert (outcome.step, outcome.stopped_by) == (40, None)
    metrics = lines(recipe)
    for name in ("loss", "coarse/loss", "fine/loss"):
        first, last = (sum(line[name] for line in part) for part in (metrics[:5], metrics[-5:]))
        assert last < 0.95 * first, name
    for line in metrics:
        assert line["loss"] == pytest.approx((3 * line["coarse/loss"] + line["fine/loss"]) / 4, rel=1e-5)
        for kind in ("cosine", "explained_variance"):
            mean = (3 * line[f"coarse/{kind}"] + line[f"fine/{kind}"]) / 4
            assert line[kind] == pytest.approx(mean, rel=1e-4, abs=1e-6)
    student = load_student(RunDirectory.of(recipe).path)
    assert student(batch_of(recipe)).shape == (4, 32, 32)


def test_a_checkpoint_names_what_belongs_to_which_teacher(load):
    recipe = load()
    run_recipe(recipe)
    objectives = {name for name in saved(recipe) if name.startswith("objective")}
    assert objectives == {
        *(f"objective.coarse.normalization.{name}" for name in ("mean", "std", "calibrated")),
        *(f"objective.fine.normalization.{name}" for name in ("mean", "deviations", "count")),
    }
    assert {name.split(".")[0] for name in saved(recipe)} == {"student", "predictor", "objective"}
    assert saved(recipe)["objective.fine.normalization.count"] == 8 * 4


def test_a_run_resumes_with_its_statistics_as_if_it_had_never_stopped(load):
    straight, broken = load("run.name=straight"), load("run.name=broken")
    run_recipe(straight)
    run_recipe(broken)
    directory = RunDirectory.of(broken)
    directory.student.unlink()
    shutil.rmtree(checkpoints.newest(directory.checkpoints).path)
    assert checkpoints.newest(directory.checkpoints).step == 6
    assert run_recipe(broken).step == 8
    assert_same(saved(straight), saved(broken))
    assert lines(straight) == lines(broken)


def test_one_of_several_is_the_short_form(load):
    """To the last bit, so a recipe may be rewritten without beginning anew."""
    long = SHORT.replace("[teacher]", "[teachers.pixels]\nweight = 0.3")
    first, second = load("run.name=short", teachers=SHORT), load("run.name=long", teachers=long)
    run_recipe(first)
    run_recipe(second)
    assert lines(first) == lines(second)
    assert_same(saved(first), saved(second))


def test_the_loss_equals_one_computed_from_the_parts(load):
    """Latents resampled by hand: means of two frames; one coarse token's linear continuation over the picture."""
    recipe = load("teachers.coarse.objective.use=l1", "teachers.fine.objective.target_norm=none",
                  "teachers.fine.objective.statistics=calibration")  # fmt: skip
    method = build_method(recipe, total_steps=8).train()
    batch = method.prepare(batch_of(recipe), epoch=0, step=0)
    raw = {teaching.name: build_teacher(recipe, teaching)(batch) for teaching in recipe.teachings()}
    fine = raw["fine"].unflatten(1, (2, 2, 16)).mean(dim=2).flatten(1, 2)
    # From 1 x 2 x 2 to 2 x 4 x 4: the one frame twice; along rows and columns, two cells to four.
    line = torch.tensor([[1.25, -0.25], [0.75, 0.25], [0.25, 0.75], [-0.25, 1.25]])
    coarse = torch.einsum("bijd,ki,lj->bkld", raw["coarse"].unflatten(1, (2, 2)), line, line)
    coarse = coarse.flatten(1, 2).repeat(1, 2, 1)
    predicted = method.predictor(method.student(batch, batch.tensors["visible"]), _mask(batch))
    index = batch.tensors["target"].unsqueeze(-1)
    targets = [latents.gather(1, index.expand(-1, -1, latents.shape[-1])) for latents in (coarse, fine)]
    expected = [
        (guess - target).abs().mean() for guess, target in zip(predicted.split([3072, 20], -1), targets, strict=True)
    ]
    output = method(batch)
    assert output.metrics["coarse/loss"].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert output.loss.item() == pytest.approx(((3 * expected[0] + expected[1]) / 4).item(), rel=1e-5)


def _mask(batch):
    from salt_toolkit.contracts import Mask

    return Mask(batch.tensors["visible"], batch.tensors["target"])


def test_only_a_teacher_of_another_grid_is_resampled(load):
    recipe = load("teachers.fine.tubelet=2")
    coarse, fine = build_teachers(recipe).values()
    assert not coarse.training and not fine.training
    assert coarse.token_spec.grid == fine.token_spec.grid == build_teachers(recipe)["fine"].token_spec.grid
    batch = batch_of(recipe)
    assert torch.equal(fine(batch), build_teacher(recipe, recipe.teachings()[1])(batch))
    assert coarse(batch).shape == (4, 32, 3072)


def test_autocast_does_not_coarsen_what_is_resampled(load):
    recipe = load()
    batch, teacher = batch_of(recipe), build_teachers(recipe)["coarse"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(batch), build_teachers(recipe)["coarse"](batch))
        coarse = teacher(batch)
    assert torch.equal(coarse, teacher(batch))


def test_changing_one_teacher_leaves_the_students_first_weights_alone(load):
    first = build_method(load(), total_steps=8)
    second = build_method(load("teachers.fine.dim=24", "teachers.coarse.weight=1"), total_steps=8)
    assert_same(first.student.state_dict(), second.student.state_dict())


def test_a_resumed_run_may_not_change_its_teachers(load, tmp_path):
    run_recipe(load())
    with pytest.raises(RunError, match=r"(?s)teachers.coarse.weight: was 3.0, now 1.0.*--restart"):
        run_recipe(load("teachers.coarse.weight=1"))
    first, second = TWO.split("\n\n[teachers.fine]")[0], "\n[teachers.fine]" + TWO.split("\n\n[teachers.fine]")[1]
    with pytest.raises(RunError, match=r'teachers: was \["coarse", "fine"\], now \["fine", "coarse"\]'):
        run_recipe(load(teachers=second + first + "\n"))
    assert run_recipe(load("loader.workers=1")) is None


def test_the_run_that_teaches_may_move(load, tmp_path):
    run_recipe(load("run.name=first", teachers=SHORT))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "runs" / "first", elsewhere)
    teachers = f'[teachers.earlier]\nuse = "run"\npath = "{tmp_path / "runs" / "first"}"\n' + TWO
    run_recipe(load(teachers=teachers))
    assert run_recipe(load(f"teachers.earlier.path={elsewhere}", teachers=teachers)) is None


def test_every_objective_is_calibrated_on_its_own_teacher(load):
    """Also where they share one section."""
    recipe = load("teachers.fine.objective.statistics=calibration", "teachers.fine.objective.calibration_clips=4")
    run_recipe(recipe)
    state = saved(recipe)
    assert state["objective.coarse.normalization.mean"].shape == (3072,)
    assert state["objective.fine.normalization.mean"].shape == (32, 20)
    assert state["objective.coarse.normalization.calibrated"] and state["objective.fine.normalization.calibrated"]

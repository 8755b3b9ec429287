"""The pixel teacher against plain numpy, and earlier runs as teachers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from salt_teachers import build_pixels, build_run
from salt_teachers.config import PixelsConfig, RunConfig

from salt_toolkit import ClipSpec, GeometryError, MissingArtifact
from salt_toolkit.errors import RunError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs import RunDirectory, load_student
from salt_toolkit.testing import TeacherContract, random_batch
from salt_toolkit.train.start import run_recipe

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


class TestPixels(TeacherContract):
    plugin = "salt_teachers"
    section = {"use": "pixels", "patch": 8}


@pytest.mark.parametrize("norm", ["none", "tubelet", "clip"])
def test_pixels_are_cut_and_normalised_as_numpy_does(norm):
    batch = random_batch(CLIP)
    config = PixelsConfig(patch=8, norm=norm)
    latents = build_pixels(config, clip=CLIP)(batch).numpy()
    clips = batch.tensors["clip"].numpy().astype(np.float64) / 255
    if norm == "clip":
        axes = (1, 2, 3)
        clips = (clips - clips.mean(axes, keepdims=True)) / np.sqrt(clips.var(axes, ddof=1, keepdims=True) + 1e-6)
    for number, (frame, row, column) in enumerate(np.ndindex(2, 2, 2)):
        place = np.s_[:, 2 * frame : 2 * frame + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        cut = clips[place].transpose(0, 4, 1, 2, 3).reshape(2, -1)
        if norm == "tubelet":
            cut = (cut - cut.mean(1, keepdims=True)) / np.sqrt(cut.var(1, ddof=1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(latents[:, number], cut, rtol=1e-4, atol=1e-5)


def test_a_plain_clip_stays_finite():
    batch = random_batch(CLIP)
    batch.tensors["clip"].fill_(77)
    for norm in ("none", "tubelet", "clip"):
        assert torch.isfinite(build_pixels(PixelsConfig(patch=8, norm=norm), clip=CLIP)(batch)).all()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "first.toml").write_text(RECIPE)
    recipe = load_recipe(folder / "first.toml", discover(), [f"run.dir={folder}"])
    run_recipe(recipe)
    return RunDirectory.of(recipe).path


def test_an_earlier_run_teaches_with_its_students_tokens(first_run):
    config = RunConfig(path=str(first_run))
    assert list(config.missing()) == []
    assert (config.token_spec(CLIP).grid.num_tokens, config.token_spec(CLIP).dim) == (8, 24)
    teacher = build_run(config, clip=CLIP)
    batch = random_batch(CLIP)
    latents = teacher(batch)
    with torch.no_grad():
        torch.testing.assert_close(latents, load_student(first_run)(batch), rtol=0, atol=0)
    # The file itself says that these are the trained weights, and not those of a new student.
    stored = load_file(first_run / "student.safetensors")
    found = teacher.student.state_dict()
    assert stored.keys() == found.keys()
    assert all(torch.equal(stored[name], found[name]) for name in stored)
    assert not teacher.training
    assert not latents.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert config.cost(CLIP).parameters == sum(parameter.numel() for parameter in teacher.parameters())


def test_clips_of_another_size_are_refused_with_both(first_run):
    with pytest.raises(GeometryError, match=r"4 frames of 16 pixels, .* 4 frames of 32"):
        RunConfig(path=str(first_run)).token_spec(ClipSpec(frames=4, size=32))


def test_a_run_that_is_not_there_or_not_finished_is_missing_with_a_fix(first_run, tmp_path):
    (absent,) = RunConfig(path=str(tmp_path / "none")).missing()
    assert "holds no run" in absent.what
    half = tmp_path / "half"
    half.mkdir()
    (half / "recipe.toml").write_text((first_run / "recipe.toml").read_text())
    (unfinished,) = RunConfig(path=str(half)).missing()
    assert "has not finished" in unfinished.what
    assert "salt run" in unfinished.fix
    with pytest.raises(MissingArtifact):
        build_run(RunConfig(path=str(half)), clip=CLIP)


def test_truncated_weights_are_one_sentence(first_run, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "recipe.toml").write_text((first_run / "recipe.toml").read_text())
    weights = (first_run / "student.safetensors").read_bytes()
    (broken / "student.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(RunError, match="does not hold the weights"):
        load_student(broken)

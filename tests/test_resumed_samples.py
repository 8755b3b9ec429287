"""A run goes on with the samples that it began with, wherever they lie, and with no others."""

from __future__ import annotations

import json
import shutil

import pytest

from salt_toolkit.assemble import build_dataset
from salt_toolkit.errors import RecipeChanged, RunConflict
from salt_toolkit.recipe import load_recipe
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.runs.resume import changes_since, same_samples
from salt_toolkit.runs.samples import samples_identity

RECIPE = """
[run]
name = "moved"
[clip]
frames = 4
stride = 1
size = 16
[dataset]
use = "video_folder"
[teacher]
use = "pixels"
patch = 8
[student]
use = "toy_mixer"
[predictor]
use = "toy_regressor"
[masker]
use = "random"
[objective]
use = "mse"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 2
batch_size = 2
"""


@pytest.fixture
def videos(tmp_path, write_video):
    for number in range(5):
        write_video(tmp_path / "videos" / "train" / "ab"[number % 2] / f"{number}.mp4", number, frames=5)
    return tmp_path / "videos"


@pytest.fixture
def load(tmp_path, videos, registry):
    def load(*overrides, root=videos):
        (tmp_path / "recipe.toml").write_text(RECIPE)
        settings = [f"run.dir={tmp_path / 'runs'}", f"dataset.root={root}", *overrides]
        return load_recipe(tmp_path / "recipe.toml", registry, settings)

    return load


@pytest.fixture
def begun(load):
    """The directory of a run that has begun."""
    recipe = load()
    directory = RunDirectory.of(recipe)
    directory.path.mkdir(parents=True)
    directory.recipe.write_text(recipe.to_toml())
    environment = {"format": 1, "samples": samples_identity(recipe, build_dataset(recipe))}
    directory.environment.write_text(json.dumps(environment))
    return directory


def test_an_identical_copy_elsewhere_is_accepted(load, begun, videos, tmp_path):
    copy = shutil.copytree(videos, tmp_path / "copy")
    (change,) = changes_since(load(root=copy), begun)
    assert change.key == "dataset.root" and change.allowed


def test_other_videos_under_the_same_names_are_refused(load, begun, videos, tmp_path, write_video):
    other = shutil.copytree(videos, tmp_path / "other")
    write_video(other / "train" / "a" / "0.mp4", 99, frames=5)
    with pytest.raises(RunConflict, match="began with another data set: its files hold something else"):
        changes_since(load(root=other), begun)


@pytest.mark.parametrize("where", ["copy", "videos"])
def test_another_list_is_refused(load, begun, videos, tmp_path, where):
    """In another place, and in the same one."""
    root = shutil.copytree(videos, tmp_path / "copy") if where == "copy" else videos
    shutil.copy(root / "train" / "a" / "0.mp4", root / "train" / "a" / "more.mp4")
    recipe = load(root=root)
    with pytest.raises(RunConflict, match=r"num_clips was 5, now 6"):
        same_samples(begun, samples_identity(recipe, build_dataset(recipe)))
    if where == "copy":
        with pytest.raises(RunConflict, match="its clips have other ids"):
            changes_since(recipe, begun)


def test_a_run_that_does_not_know_its_samples_may_not_move(load, begun, videos, tmp_path):
    begun.environment.write_text(json.dumps({"format": 1}))
    copy = shutil.copytree(videos, tmp_path / "copy")
    with pytest.raises(RecipeChanged, match="did not write down whose samples it began with"):
        changes_since(load(root=copy), begun)


def test_what_decides_the_samples_may_not_change(load, begun):
    with pytest.raises(RecipeChanged, match=r"clip\.stride"):
        changes_since(load("clip.stride=2", "loader.workers=1"), begun)

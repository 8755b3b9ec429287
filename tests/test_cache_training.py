"""Training from a cache: the same losses as with the live teacher, and no teacher in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from salt_toolkit.assemble import build_dataset
from salt_toolkit.cache.codec import StreamCodec
from salt_toolkit.cache.encodings import Coding
from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.lookup import find_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.cache.rows import CachedSamples, CachedTeacher
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.errors import CacheError
from salt_toolkit.geometry import Grid
from salt_toolkit.recipe import load_recipe
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.store.cache import Cache
from salt_toolkit.streams import LATENTS
from salt_toolkit.system.files import read_lines
from salt_toolkit.train.run import run_recipe

RECIPE = """
[run]
name = "live"
[clip]
frames = 4
stride = 1
size = 16
start = "random"
views = 2
[dataset]
use = "video_folder"
[teacher]
use = "pixels"
patch = 4
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
dim = 24
depth = 1
heads = 2
patch = 8
[predictor]
use = "transformer"
dim = 24
depth = 1
heads = 2
[masker]
use = "random"
[objective]
use = "mse"
target_norm = "channel"
calibration_clips = 8
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 15
batch_size = 4
precision = "fp32"
log_every = 1
[loader]
workers = 2
max_bad_fraction = 0.2
"""
NUM_VIDEOS = 13


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    """Twelve videos, and one that is none."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(root / "train" / "ab"[number % 2] / f"übung {number:02}.mp4", 7 * number, frames=7)
    (root / "train" / "a" / "übung 04.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def load(tmp_path, videos, registry):
    def load(*overrides, cached=True, videos=videos):
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE)
        settings = [f"run.dir={tmp_path / 'runs'}", f"dataset.root={videos}"]
        settings += [f"cache.dir={tmp_path / 'cache'}", "cache.dtype=fp32"] if cached else []
        return load_recipe(path, registry, [*settings, *overrides])

    return load


def losses(recipe):
    run_recipe(recipe)
    return [line["loss"] for line in read_lines(RunDirectory.of(recipe).metrics)]


@pytest.fixture
def no_live_teacher(monkeypatch):
    """From when it is called on, a teacher may not be built."""
    from salt_toolkit import assemble

    def never(*_):
        raise AssertionError("the teacher was loaded")

    return lambda: monkeypatch.setattr(assemble, "build_teacher", never)


@pytest.mark.parametrize("keep", ["[]", '["clip"]'])
def test_losses_are_those_of_the_live_teacher(load, no_live_teacher, keep):
    """Also where a clip is bad, where views take turns, and where the teacher's grid is resampled."""
    live = losses(load(cached=False))
    recipe = load(f"cache.keep={keep}", "run.name=cached")
    outcome = fill_cache(recipe, CacheOptions())
    assert (outcome.counts.done, outcome.counts.bad) == (2 * (NUM_VIDEOS - 1), 2)
    no_live_teacher()
    assert losses(recipe) == pytest.approx(live, rel=1e-6)


def test_a_copied_cache_with_its_clips_is_all_that_training_needs(load, tmp_path, registry):
    live = losses(load(cached=False))
    recipe = load('cache.keep=["clip"]')
    directory = fill_cache(recipe, CacheOptions()).directory
    moved = tmp_path / "elsewhere"
    directory.rename(moved)
    # No data set, no decoder: a process that cannot import one.
    path = tmp_path / "there.toml"
    path.write_text(RECIPE.replace('use = "video_folder"', f'use = "cached"\ndir = "{moved}"'))
    script = "import sys\nsys.modules['av'] = None\nfrom salt_toolkit.cli.app import main\nmain()\n"
    words = ["run", str(path), "--set", "run.name=there", "--set", f"run.dir={tmp_path / 'runs'}"]
    subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True)
    there = load_recipe(path, registry, ["run.name=there", f"run.dir={tmp_path / 'runs'}"])
    found = [line["loss"] for line in read_lines(RunDirectory.of(there).metrics)]
    assert found == pytest.approx(live, rel=1e-6)
    assert check_recipe(there).facts.clips == NUM_VIDEOS


def test_without_a_cache_or_with_half_of_one_the_teacher_runs_live(load, capsys):
    live = losses(load(cached=False))
    assert losses(load("run.name=none")) == live
    assert "there is no cache in" in capsys.readouterr().err
    fill_cache(load(), CacheOptions(limit=5))
    assert losses(load("run.name=half")) == live
    assert "is unfinished (16 of 26 rows are missing; go on with" in capsys.readouterr().err


def test_half_a_cache_of_clips_stands_in_for_nothing(load, capsys):
    """The data set is read, and not what the cache has of it."""
    live = losses(load(cached=False))
    fill_cache(load('cache.keep=["clip"]'), CacheOptions(limit=5))
    assert losses(load('cache.keep=["clip"]', "run.name=half")) == live
    assert "is unfinished (16 of 26 rows" in capsys.readouterr().err


def test_a_stand_in_for_a_teacher_moves_its_constants_and_saves_none():
    codec = StreamCodec(Coding(LATENTS, "F32", (8, 6), "int8"), torch.zeros(6), torch.ones(6))
    teacher = CachedTeacher("teacher", {LATENTS: codec}, {LATENTS: Grid(2, 2, 2)})
    assert teacher.state_dict() == {} == codec.state_dict()
    teacher.to(torch.device("meta"))
    assert (codec.mean.device.type, codec.std.device.type) == ("meta", "meta")
    encoded = codec.encode(torch.empty(3, 8, 6, device="meta"))  # refuses constants of another device
    assert [tensor.shape for tensor in encoded] == [(3, 8, 6), (3, 8)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("run.seed=1", "seed is 0 in the cache, and 1 here"),
        ("clip.stride=2", "clip.stride is 1 in the cache, and 2 here"),
        ("teacher.norm=clip", 'teacher.config.norm is "tubelet" in the cache, and "clip" here'),
        ("cache.dtype=bf16", 'encoding is "fp32" in the cache, and "bf16" here'),
        ("dataset.decoder=decord", 'dataset.decoder is "pyav" in the cache, and "decord" here'),
    ],
)
def test_a_cache_of_something_else_is_refused_with_the_field(load, change, field):
    fill_cache(load(), CacheOptions())
    with pytest.raises(CacheError, match=field):
        losses(load(change))


def test_another_data_set_is_refused(load, tmp_path, write_video):
    fill_cache(load(), CacheOptions())
    for number in range(NUM_VIDEOS):
        write_video(tmp_path / "other" / "train" / "c" / f"{number}.mp4", number, frames=7)
    with pytest.raises(CacheError, match="none of its 13 clips is in the data set"):
        losses(load(videos=tmp_path / "other"))


def test_masks_objectives_and_students_may_change_under_one_cache(load, no_live_teacher):
    fill_cache(load(), CacheOptions())
    no_live_teacher()
    run_recipe(load("masker.use=tube", "objective.use=l1", "student.depth=2", "train.max_steps=2", "run.name=other"))


def test_a_small_cache_trains_nearly_the_same(load, no_live_teacher):
    live = losses(load(cached=False))
    fill_cache(load("cache.dtype=int8"), CacheOptions())
    no_live_teacher()
    small = losses(load("cache.dtype=int8", "run.name=small"))
    assert small == pytest.approx(live, rel=0.02) and small != live


def test_training_in_another_precision_reads_the_cache(load, no_live_teacher):
    fill_cache(load(), CacheOptions())
    no_live_teacher()
    run_recipe(load("train.precision=bf16", "train.max_steps=2"))


def other_video(path, like):
    """The same file with a few bytes more, which no decoder minds."""
    path.write_bytes(like.read_bytes() + bytes(16))


@pytest.fixture
def own_videos(videos, tmp_path):
    return shutil.copytree(videos, tmp_path / "videos")


def test_a_clip_whose_file_has_changed_is_left_out(load, own_videos, no_live_teacher):
    recipe = load(videos=own_videos)
    fill_cache(recipe, CacheOptions())
    no_live_teacher()
    changed = own_videos / "train" / "b" / "übung 01.mp4"
    other_video(changed, changed)
    losses(recipe)
    reasons = {line["clip_id"]: line["reason"] for line in read_lines(RunDirectory.of(recipe).bad_clips_of(0))}
    assert reasons["b/übung 01.mp4"] == "its file has changed since the cache was made"
    assert len(reasons) == 2  # the other one is no video


def test_a_further_teacher_is_not_mixed_with_files_that_have_changed(load, own_videos):
    fill_cache(load(videos=own_videos), CacheOptions())
    changed = own_videos / "train" / "b" / "übung 01.mp4"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1  # of the same size
    changed.write_bytes(content)
    kept = load('cache.keep=["clip"]', videos=own_videos)
    outcome = fill_cache(kept, CacheOptions())
    bad = Cache.open(outcome.directory).bad
    assert {bad[key].reason for key in bad if key[0] == "b/übung 01.mp4"} == {
        "its file has changed since the cache was made"
    }


def test_a_class_that_comes_later_shifts_no_label(load, own_videos):
    keep = 'cache.keep=["clip"]'
    fill_cache(load(keep, videos=own_videos), CacheOptions())
    (own_videos / "train" / "aa").mkdir()
    shutil.copy(own_videos / "train" / "b" / "übung 01.mp4", own_videos / "train" / "aa" / "new.mp4")
    recipe = load(keep, videos=own_videos)
    fill_cache(recipe, CacheOptions())
    dataset = build_dataset(recipe)
    assert list(dataset.class_names) == ["a", "aa", "b"]
    cached = find_cache(recipe, dataset)[0].dataset
    assert isinstance(cached, CachedSamples)
    for index, clip_id in enumerate(dataset.clip_ids):
        if clip_id != "a/übung 04.mp4":
            assert cached.read(index, 0).label == dataset.read(index, 0).label, clip_id


def test_a_class_that_the_data_set_lacks_is_an_error(load, own_videos):
    keep = 'cache.keep=["clip"]'
    recipe = load(keep, videos=own_videos)
    fill_cache(recipe, CacheOptions())
    cached = find_cache(recipe, build_dataset(recipe))[0].dataset
    fewer = CachedSamples(cached.rows, cached.clip_ids, ["a"])
    assert fewer.read(0, 0).label == 0
    with pytest.raises(CacheError, match=r"'b/übung 01.mp4' has the class 'b' .* and the data set has no class"):
        fewer.read(list(cached.clip_ids).index("b/übung 01.mp4"), 0)


def test_a_damaged_row_stops_training_with_shard_and_clip(load):
    recipe = load()
    directory = fill_cache(recipe, CacheOptions()).directory
    shard = next(Path(directory).rglob("*.safetensors"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 4
    shard.write_bytes(raw)
    with pytest.raises(CacheError, match=r"is damaged: latents of .*salt cache repair"):
        losses(recipe)


@pytest.mark.parametrize(("dtype", "keep"), [("fp32", "[]"), ("int8", "[]"), ("bf16", '["clip"]')])
def test_the_check_knows_how_large_the_cache_becomes(load, dtype, keep):
    """But for headers, and for what other tensors a data set adds."""
    recipe = load(f"cache.dtype={dtype}", f"cache.keep={keep}")
    foreseen = check_recipe(recipe).facts.cache_gb
    fill_cache(recipe, CacheOptions())
    cache = Cache.open(Path(recipe.cache.dir) / "train")
    row_bytes = sum(index.manifest.row_bytes for index in cache.layers.values())
    assert foreseen * 1e9 == pytest.approx(row_bytes * cache.base.views * NUM_VIDEOS)

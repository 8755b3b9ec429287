"""The files that a cache was made of, compared with what its rows remember; rows of changed ones computed anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.cache.sources import compare_sources
from salt_toolkit.cache.spot import spot_check
from salt_toolkit.errors import CacheError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.maintain import repair

RECIPE = """
[clip]
frames = 4
stride = 1
size = 16
views = 2
[dataset]
use = "video_folder"
[teacher]
use = "pixels"
patch = 4
[cache]
dtype = "fp32"
"""
REPLACED, REWRITTEN, TOUCHED, REMOVED = (f"a/clip {number}.mp4" for number in range(4))
NUM_CLIPS = 6


@pytest.fixture
def videos(tmp_path, write_video):
    for number in range(NUM_CLIPS):
        write_video(tmp_path / "videos" / "train" / "a" / f"clip {number}.mp4", 30 * number)
    return tmp_path / "videos" / "train"


@pytest.fixture
def load(tmp_path, videos, registry):
    def load(*overrides, text=RECIPE):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        settings = [f"cache.dir={tmp_path / 'cache'}", f"dataset.root={videos.parent}", *overrides]
        recipe = load_recipe(path, registry, settings, may_only_cache=True)
        path.write_text(recipe.to_toml())
        return recipe

    return load


def change(videos, write_video):
    """One file replaced by another, one changed without its size, one touched, one removed."""
    size = (videos / REPLACED).stat().st_size
    write_video(videos / REPLACED, 222)
    assert (videos / REPLACED).stat().st_size != size
    content = bytearray((videos / REWRITTEN).read_bytes())
    content[-1] ^= 1
    (videos / REWRITTEN).write_bytes(content)
    os.utime(videos / TOUCHED, (1, 1))
    (videos / REMOVED).unlink()


def salt(*words, code):
    command = [sys.executable, "-m", "salt_toolkit", "cache", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout or done.stderr


def keys_of(directory):
    layers = Cache.open(directory).layers
    return {name: {(row.clip_id, row.view) for _, _, row in index.rows()} for name, index in layers.items()}


def test_changed_and_missing_files_are_told_by_clip(load, videos, write_video, tmp_path):
    recipe = load()
    directory = fill_cache(recipe, CacheOptions()).directory
    words = ("verify", directory, "--sources", "--recipe", tmp_path / "recipe.toml")
    assert compare_sources(directory, recipe).mismatches == ()
    change(videos, write_video)
    told = salt(*words, code=1)
    assert "2 changed, 1 missing" in told and "relative error" not in told
    assert f"changed: '{REPLACED}': {videos / REPLACED} has " in told and f"missing: '{REMOVED}'" in told
    found = json.loads(salt(*words, "--json", code=1))
    assert found["sound"] and "spot_checks" not in found
    listed = {kind: [clip["clip_id"] for clip in found["sources"][kind]] for kind in ("changed", "missing")}
    assert listed == {"changed": [REPLACED, REWRITTEN], "missing": [REMOVED]}
    assert found["sources"]["compared"] == NUM_CLIPS


def test_rows_of_changed_files_are_computed_anew_in_all_layers(load, videos, write_video, tmp_path):
    recipe = load('cache.keep=["clip"]')
    directory = fill_cache(recipe, CacheOptions()).directory
    before = keys_of(directory)
    assert list(before) == ["samples/clip", "teachers/teacher"]
    change(videos, write_video)
    words = (directory, "--sources", "--recipe", tmp_path / "recipe.toml")
    told = salt("repair", *words, code=0)
    assert "dropped the rows of 2 clips whose files have changed; the rows of 1 missing files stay" in told
    gone = {(clip, view) for clip in (REPLACED, REWRITTEN) for view in (0, 1)}
    assert keys_of(directory) == {layer: keys - gone for layer, keys in before.items()}
    assert fill_cache(recipe, CacheOptions()).counts.done == len(gone)
    assert keys_of(directory) == before
    assert compare_sources(directory, recipe).changed == []
    checks = {check["clip_id"]: check["ok"] for check in spot_check(directory, recipe, count=99)}
    assert checks == {f"a/clip {number}.mp4": number != 3 for number in range(NUM_CLIPS)}  # one has no file


def test_clips_that_are_bad_only_since_their_files_changed_are_good_again(load, videos, write_video):
    """Where another layer was filled after the change, it has recorded them as bad."""
    fill_cache(load(), CacheOptions())
    original = (videos / REPLACED).read_bytes()
    change(videos, write_video)
    recipe = load('cache.keep=["clip"]', "loader.max_bad_fraction=0.5")
    directory = fill_cache(recipe, CacheOptions()).directory
    assert {clip for clip, _ in Cache.open(directory).bad} == {REPLACED, REWRITTEN}
    (videos / REPLACED).write_bytes(original)  # it is what it was, but one layer says otherwise
    assert compare_sources(directory, recipe).changed == [REWRITTEN]
    repair(directory)
    assert {clip for clip, _ in Cache.open(directory).bad} == {REPLACED, REWRITTEN}
    repair(directory, compare_sources(directory, recipe).changed)
    assert fill_cache(recipe, CacheOptions()).missing == 0
    assert Cache.open(directory).bad == {}


def test_rows_of_missing_files_are_kept(load, videos):
    """The disk may only not be mounted."""
    recipe = load()
    directory = fill_cache(recipe, CacheOptions()).directory
    before = keys_of(directory)
    for video in videos.rglob("*.mp4"):
        video.unlink()
    other = videos / "a" / "other.mp4"
    other.write_bytes(b"")
    compared = compare_sources(directory, recipe)
    assert len(compared.missing) == NUM_CLIPS
    repair(directory, compared.changed)
    assert keys_of(directory) == before


def test_what_cannot_be_compared_is_an_error(load):
    directory = fill_cache(load(), CacheOptions()).directory
    assert "name the recipe of the cache with --recipe" in salt("repair", directory, "--sources", code=1)
    with pytest.raises(CacheError, match=r"belongs to something else: dataset\.clip"):
        compare_sources(directory, load("clip.frames=2"))

"""Filling a cache: killed at any moment, by several at once, on a full disk; the result is always the same."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from salt_toolkit.assemble import build_teacher
from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.cache.spot import spot_check
from salt_toolkit.contracts import Sample
from salt_toolkit.errors import BadClip, CacheError, DataError, MissingArtifact, RecipeError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.layer import RowReader
from salt_toolkit.store.maintain import merge, repair, verify
from salt_toolkit.store.manifest import shard_path
from salt_toolkit.store.shard_writer import ShardWriter

RECIPE = """
[run]
name = "cached"
[clip]
frames = 4
stride = 1
size = 16
start = "center"
[dataset]
use = "toy_squares"
clips = 90
[teacher]
use = "toy_projection"
patch = 8
dim = 700
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
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 5
batch_size = 4
precision = "fp32"
[cache]
dtype = "fp32"
shard_mb = 1
"""


LAYER = "teachers/teacher"


@pytest.fixture
def load(tmp_path, registry):
    def load(*overrides, name="cache", text=RECIPE):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        settings = [f"run.dir={tmp_path / 'runs'}", f"cache.dir={tmp_path / name}", *overrides]
        return load_recipe(path, registry, settings)

    return load


def contents(directory):
    """Every clip's bytes, by id and view."""
    cache = Cache.open(directory)
    found = {}
    for layer, index in cache.layers.items():
        reader = RowReader(index)
        for _, _, row in index.rows():
            buffers = {s.name: np.empty(s.row_bytes, np.uint8) for s in index.manifest.streams}
            reader.read_into(row.clip_id, row.view, buffers)
            found[layer, row.clip_id, row.view] = (row.index, row.label, *(b.tobytes() for b in buffers.values()))
        reader.close()
    return found


def rows_of(directory, layer=LAYER):
    """The layer of the only teacher."""
    return Cache.open(directory).layers[layer]


def test_a_cache_holds_what_the_live_teacher_says(load):
    recipe = load("clip.views=2")
    outcome = fill_cache(recipe, CacheOptions())
    assert (outcome.counts.done, outcome.missing) == (180, 0)
    index = rows_of(outcome.directory)
    assert Cache.open(outcome.directory).complete and len(index) == 180 and len(index.shards) > 5
    assert verify(outcome.directory).sound
    checks = spot_check(outcome.directory, recipe, count=10)
    assert len(checks) == 10 and all(check["ok"] and check["relative_l2"] < 1e-6 for check in checks)
    # A second call has nothing to do.
    assert fill_cache(recipe, CacheOptions()).counts.done == 0


def test_spot_checks_find_latents_of_something_else(load):
    recipe = load()
    directory = fill_cache(recipe, CacheOptions()).directory
    other = load("run.seed=1")
    assert not any(check["ok"] for check in spot_check(directory, other, count=4))


def test_batches_threads_parts_and_limits_change_nothing(load):
    whole = contents(fill_cache(load(name="whole"), CacheOptions()).directory)
    parts = load(name="parts")
    fill_cache(parts, CacheOptions(limit=23, batch_size=3, workers=1))
    assert len(rows_of(Path(parts.cache.dir) / "train")) == 23
    for part in range(3):
        fill_cache(parts, CacheOptions(batch_size=5 + part, workers=3, part=(part, 3)))
    assert contents(Path(parts.cache.dir) / "train") == whole


def test_parts_of_several_machines_are_merged(load, tmp_path):
    whole = contents(fill_cache(load(name="whole"), CacheOptions()).directory)
    sources = [fill_cache(load(name=f"m{part}"), CacheOptions(part=(part, 2))).directory for part in range(2)]
    merge(tmp_path / "merged", sources)
    assert contents(tmp_path / "merged") == whole
    assert Cache.open(tmp_path / "merged").complete


def test_what_repair_drops_is_filled_again(load):
    recipe = load()
    directory = fill_cache(recipe, CacheOptions()).directory
    before = contents(directory)
    for number, damage in ((0, lambda raw: raw[:-1]), (1, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]))):
        path = shard_path(directory / LAYER, number)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CacheError, match="salt cache repair"):
        fill_cache(recipe, CacheOptions())
    repair(directory)
    missing = fill_cache(recipe, CacheOptions()).counts.done
    assert missing == len(rows_of(directory).shards[0].header.rows) + 1
    assert contents(directory) == before


def test_time_runs_out_and_the_next_call_goes_on(load):
    recipe = load()
    outcome = fill_cache(recipe, CacheOptions(max_hours=0.0))
    assert outcome.missing == 90
    assert fill_cache(recipe, CacheOptions()).missing == 0


class Broken:
    """A dataset some of whose clips cannot be read."""

    def __init__(self, dataset, bad):
        self.dataset, self.bad = dataset, bad
        self.clip_ids, self.class_names = dataset.clip_ids, dataset.class_names

    def read(self, index, view):
        if index in self.bad:
            raise BadClip(f"/data/{index}.mp4", "is not a video")
        sample = self.dataset.read(index, view)
        return Sample(sample.clip_id, sample.tensors, sample.label, "Straße")


def break_clips(monkeypatch, bad):
    from salt_toolkit.cache import plan

    original = plan.build_dataset
    monkeypatch.setattr(plan, "build_dataset", lambda *a, **k: Broken(original(*a, **k), bad))


def test_bad_clips_are_recorded_and_not_read_again(load, monkeypatch):
    break_clips(monkeypatch, {0, 7, 89})
    recipe = load("loader.max_bad_fraction=0.1")
    outcome = fill_cache(recipe, CacheOptions())
    assert (outcome.counts.done, outcome.counts.bad, outcome.missing) == (87, 3, 0)
    index = rows_of(outcome.directory)
    assert Cache.open(outcome.directory).complete
    assert {(bad.clip_id, bad.index, bad.reason) for bad in index.bad()} == {
        (f"train/{n}", n, "is not a video") for n in (0, 7, 89)
    }
    assert all(row.caption == "Straße" for _, _, row in index.rows())


def test_too_many_bad_clips_stop_the_work_and_keep_what_is_done(load, monkeypatch):
    break_clips(monkeypatch, set(range(40, 60)))
    recipe = load("loader.max_bad_fraction=0.05")
    with pytest.raises(DataError, match=r"more than loader.max_bad_fraction"):
        fill_cache(recipe, CacheOptions())
    index = rows_of(Path(recipe.cache.dir) / "train")
    assert len(index) >= 20
    assert verify(Path(recipe.cache.dir) / "train").sound


def test_latents_that_are_not_finite_become_bad_clips(load, monkeypatch):
    from salt_toolkit.cache import prepare

    def build(recipe, teaching):
        teacher = original(recipe, teaching)
        forward = teacher.forward

        def sick(batch):
            latents = forward(batch)
            for row, clip_id in enumerate(batch.clip_ids):
                if clip_id == "train/70":
                    latents[row, 1, 2] = float("nan")
            return latents

        teacher.forward = sick
        return teacher

    original = prepare.build_teacher
    monkeypatch.setattr(prepare, "build_teacher", build)
    outcome = fill_cache(load("loader.max_bad_fraction=0.5"), CacheOptions())
    (bad,) = rows_of(outcome.directory).bad()
    assert (bad.clip_id, bad.reason) == ("train/70", "a teacher's latents of it are not finite")


def test_two_clips_of_one_id_are_refused(load, monkeypatch):
    from salt_toolkit.cache import plan

    original = plan.build_dataset

    def build(*arguments, **keywords):
        dataset = original(*arguments, **keywords)
        dataset.clip_ids = ["same"] * len(dataset.clip_ids)
        return dataset

    monkeypatch.setattr(plan, "build_dataset", build)
    with pytest.raises(DataError, match="two clips of the data set have one id"):
        fill_cache(load(), CacheOptions())


def test_a_recipe_without_a_cache_says_what_is_missing(load, tmp_path, registry):
    path = tmp_path / "plain.toml"
    path.write_text(RECIPE[: RECIPE.index("[cache]")])
    with pytest.raises(RecipeError, match=r"cache: missing; .*--set cache.dir="):
        fill_cache(load_recipe(path, registry), CacheOptions())


def test_a_cache_of_another_teacher_is_refused_with_the_fields(load):
    fill_cache(load(), CacheOptions())
    with pytest.raises(
        CacheError, match=r"something else: in teachers/teacher, teacher.config.dim is 700 .* and 699 here"
    ):
        fill_cache(load("teacher.dim=699"), CacheOptions())


def of_a_run(path):
    """The recipe with an earlier run as its teacher."""
    teacher = '"toy_projection"\npatch = 8\ndim = 700'
    return RECIPE.replace(teacher, f'"run"\npath = "{path}"')


def test_a_teacher_whose_weights_are_absent_is_refused_and_nothing_is_written(load, tmp_path):
    with pytest.raises(MissingArtifact, match="runs/absent"):
        fill_cache(load(text=of_a_run(tmp_path / "runs" / "absent")), CacheOptions())
    assert not (tmp_path / "cache").exists()


def test_no_manifest_describes_a_teacher_by_nothing(load, tmp_path, monkeypatch):
    """Such as when the weights go after they were loaded; the cache would fit any teacher."""
    other = load()
    teacher = build_teacher(other, other.teachings()[0])
    monkeypatch.setattr("salt_toolkit.cache.prepare.build_teacher", lambda *_: teacher)
    recipe = load(text=of_a_run(tmp_path / "runs" / "absent"))
    with pytest.raises(MissingArtifact, match="runs/absent"):
        fill_cache(recipe, CacheOptions())
    assert not (tmp_path / "cache").exists()


def test_what_does_not_fit_the_disk_is_refused_before_it_begins(load, monkeypatch):
    from salt_toolkit.cache import rates

    monkeypatch.setattr(rates.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**5})())
    with pytest.raises(CacheError, match=r"needs 0.002016 GB more, .* has 0.0001 GB free; .*int8"):
        fill_cache(load(), CacheOptions())


def test_a_disk_without_room_for_one_batch_is_refused_in_a_sentence(load, tmp_path):
    """The speed of the disk is measured by writing a batch, which must not be tried on a disk that is too small."""
    path = tmp_path / "resolved.toml"
    path.write_text(load("train.batch_size=64", "cache.dtype=fp32").to_toml())
    small = tmp_path / "cache"
    small.mkdir()
    fill = f"{sys.executable} -m salt_toolkit cache {path}"
    shell = f"mount -t tmpfs -o size=200k none {small} && ({fill} 2>&1; echo code $?; ls -A {small}/train)"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell], capture_output=True, text=True
    )
    assert "code 1" in done.stdout and "Traceback" not in done.stdout, done.stdout + done.stderr
    assert "GB free; make room, choose cache.dtype" in done.stdout
    assert ".probe" not in done.stdout.partition("code 1")[2]


def test_a_disk_that_fills_up_while_it_is_measured_is_told(load, monkeypatch):
    from salt_toolkit.cache import rates

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rates, "write_all", full)
    with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\)\. Make room"):
        fill_cache(load(), CacheOptions())


def test_a_disk_that_fills_up_loses_nothing(load, tmp_path):
    """A real file system of 1.2 MB in a mount namespace of its own; the check of the room is told another story."""
    recipe = load("loader.workers=1")
    path = tmp_path / "resolved.toml"
    path.write_text(recipe.to_toml())
    script = (
        "import sys, shutil\n"
        "shutil.disk_usage = lambda path: type('Usage', (), {'free': 10**9})()\n"
        "from salt_toolkit.cli.app import main\n"
        "sys.argv = ['salt', 'cache', sys.argv[1]]\n"
        "main()\n"
    )
    small, kept = tmp_path / "cache", tmp_path / "kept"
    small.mkdir()
    shell = (
        f"mount -t tmpfs -o size=1200k none {small} && "
        f'({sys.executable} -c "$SCRIPT" {path} 2>&1; echo code $?; cp -r {small} {kept})'
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell],
        env={"SCRIPT": script, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
    )
    assert "code 1" in done.stdout, done.stdout + done.stderr
    assert "cannot be written (No space left on device)" in done.stdout and "Traceback" not in done.stdout
    assert verify(kept / "train").sound
    there = len(rows_of(kept / "train"))
    assert 20 < there < 90
    # With room, the rest is computed, and nothing else.
    (tmp_path / "cache").rmdir()
    kept.rename(tmp_path / "cache")
    assert fill_cache(recipe, CacheOptions()).counts.done == 90 - there
    assert contents(tmp_path / "cache" / "train") == contents(fill_cache(load(name="whole"), CacheOptions()).directory)


def test_a_complete_cache_loads_no_teacher_and_leaves_nothing_behind(load, monkeypatch):
    """A writer that is killed just after another has finished its shard leaves an unfinished file."""
    recipe = load()
    directory = fill_cache(recipe, CacheOptions()).directory
    abandoned, living = (directory / LAYER / "shards" / f".{number:08d}.safetensors.partial" for number in (0, 1))
    abandoned.write_bytes(bytes(100))
    monkeypatch.setattr("salt_toolkit.cache.prepare.build_teacher", None)
    with ShardWriter(directory / LAYER / "shards" / "00000001.safetensors", (), ()):
        assert fill_cache(recipe, CacheOptions()).counts.done == 0
        assert not abandoned.exists() and living.exists()
    assert not living.exists()


def test_a_flipped_bit_in_an_unfinished_shard_is_not_taken_over(load):
    """Its row would be written anew, with a checksum that fits."""
    recipe = load()
    directory = fill_cache(recipe, CacheOptions(limit=4)).directory
    shard = directory / LAYER / "shards" / "00000000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CacheError, match="does not fit its checksum; run `salt cache repair`"):
        fill_cache(recipe, CacheOptions())
    repair(directory)
    assert fill_cache(recipe, CacheOptions()).missing == 0
    assert verify(directory).sound


KILLER = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from salt_toolkit.assemble import build_teacher
from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import discover

torch.set_num_threads(1)
recipe = load_recipe(sys.argv[1], discover())
generator = random.Random(int(sys.argv[2]))

def work(pause):
    child = os.fork()
    if child:
        return child
    sys.stderr = open(os.devnull, "w")
    from salt_toolkit.cache import work
    take = work.CacheWork._take
    def slowly(self, *arguments):
        time.sleep(pause)  # so that kills fall everywhere
        take(self, *arguments)
    work.CacheWork._take = slowly
    fill_cache(recipe, CacheOptions(workers=2, batch_size=3))
    os._exit(0)

kills = 0
while kills < 30:
    children = [work(0.004) for _ in range(1 + kills % 2)]
    time.sleep(generator.uniform(0.05, 0.5))
    for child in children:
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    if len(list(Path(recipe.cache.dir).rglob("*.safetensors"))) > 6:
        # Nearly done: a third of it goes, so that there is something to kill until the end.
        for shard in sorted(Path(recipe.cache.dir).rglob("*.safetensors"))[::3]:
            shard.unlink()
fill_cache(recipe, CacheOptions())
print(kills)
"""


@pytest.mark.slow
def test_killed_thirty_times_and_still_the_same(load, tmp_path):
    recipe = load("dataset.clips=400", "loader.workers=2")
    path = tmp_path / "resolved.toml"
    path.write_text(recipe.to_toml())
    done = subprocess.run([sys.executable, "-c", KILLER, str(path), "0"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 30
    whole = fill_cache(load("dataset.clips=400", name="whole"), CacheOptions()).directory
    assert contents(Path(recipe.cache.dir) / "train") == contents(whole)
    assert not list(Path(recipe.cache.dir).rglob("*.partial"))


def test_the_command_line_from_filling_to_repairing(load, tmp_path):
    recipe = load()
    path = tmp_path / "resolved.toml"
    path.write_text(recipe.to_toml())

    def salt(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "salt_toolkit", "cache", *map(str, words)], capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    directory = tmp_path / "cache" / "train"
    assert "clips are missing (the time was up): call again" in salt(path, "--max-hours", 0, code=75)
    told = salt(path)
    assert "90 of 90 clips to compute, 0.00202 GB" in told and "pays for itself after" in told
    assert "complete" in salt("info", directory)
    assert json.loads(salt("info", directory, "--json"))["layers"][LAYER]["rows"] == 90
    assert "as the live teacher says" in salt("verify", directory, "--recipe", path, "--spot", 2)
    shard = shard_path(directory / LAYER, 0)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "damaged: 0 rows" not in salt("verify", directory, code=1)
    assert "dropped 1 damaged shards" in salt("repair", directory)
    assert "unfinished" in salt("info", directory)
    assert "rows written" in salt("convert", directory, tmp_path / "small", "--dtype", "int8")
    assert "expected one of fp32, bf16" in salt("convert", directory, tmp_path / "other", "--dtype", "int4", code=1)
    assert "is no latent cache" in salt("info", tmp_path, code=1)
    assert "expected I/N" in salt(path, "--shard", "3/3", code=1)


def test_torch_is_not_needed_to_look_at_a_cache(load):
    directory = fill_cache(load(), CacheOptions()).directory
    script = (
        "import sys\nfrom salt_toolkit.store.cache import Cache\n"
        f"assert Cache.open({str(directory)!r}).complete\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_another_split_has_a_cache_of_its_own_with_clips_as_evaluation_sees_them(load):
    recipe = load("clip.start=random", "clip.flip=true", "clip.views=2")
    train = fill_cache(recipe, CacheOptions()).directory
    validation = fill_cache(recipe, CacheOptions(split="validation")).directory
    assert (train.name, validation.name) == ("train", "validation")
    index = rows_of(validation)
    assert Cache.open(validation).complete and len(index) == 90 and len(rows_of(train)) == 180
    assert {row.clip_id.partition("/")[0] for _, _, row in index.rows()} == {"validation"}
    assert (
        Cache.open(validation).base.identity["dataset"]["clip"]["start"] == "center"
        and Cache.open(validation).base.identity["dataset"]["split"] == "validation"
    )
    assert all(check["ok"] for check in spot_check(validation, recipe, count=5))

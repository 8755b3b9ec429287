"""A cache grows by teachers, views and clips, serves any of them, and computes nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from salt_toolkit.assemble import build_dataset
from salt_toolkit.cache import prepare
from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.lookup import find_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.cache.rows import CachedSamples, WithLatents
from salt_toolkit.cache.spot import spot_check
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.errors import BadClip, CacheError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.maintain import merge

RECIPE = """
[run]
name = "layers"
[clip]
frames = 4
stride = 1
size = 16
start = "center"
[dataset]
use = "toy_squares"
clips = 30
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
TEACHERS = {"fine": 4, "middle": 8, "coarse": 16}


@pytest.fixture
def load(tmp_path, registry):
    def load(*teachers, names=None, settings=()):
        """A recipe with some of three teachers, perhaps under other names."""
        names = names or {}
        text = RECIPE + "".join(
            f'[teachers.{names.get(name, name)}]\nuse = "pixels"\npatch = {TEACHERS[name]}\n' for name in teachers
        )
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(
            path, registry, [f"run.dir={tmp_path / 'runs'}", f"cache.dir={tmp_path / 'cache'}", *settings]
        )

    return load


@pytest.fixture
def seen(monkeypatch):
    """How many clips each teacher has seen, by the patch that it cuts."""
    counts = Counter()
    build = prepare.build_teacher

    def counting(recipe, teaching):
        teacher = build(recipe, teaching)
        forward = teacher.forward

        def count(batch):
            counts[teaching.teacher.config.patch] += len(batch.clip_ids)
            return forward(batch)

        teacher.forward = count
        return teacher

    monkeypatch.setattr(prepare, "build_teacher", counting)
    monkeypatch.setattr(prepare, "CALIBRATION_CLIPS", 4)
    return counts


MEASURING = 3 * 4
"""Clips that a teacher sees beside those that are cached: one batch of four to calibrate, two to measure."""


def rows_of(recipe):
    cache = Cache.open(Path(recipe.cache.dir) / "train")
    return {name: len(index) for name, index in cache.layers.items()}


def test_a_further_teacher_is_added_and_nothing_is_computed_again(load, seen):
    fill_cache(load("fine"), CacheOptions())
    assert seen == {4: 30 + MEASURING}
    outcome = fill_cache(load("fine", "coarse"), CacheOptions())
    assert outcome.counts.done == 30
    assert seen == {4: 30 + MEASURING, 16: 30 + MEASURING}
    assert rows_of(load("fine")) == {"teachers/fine": 30, "teachers/coarse": 30}


def test_a_recipe_that_wants_some_teachers_reads_those_alone(load):
    fill_cache(load("fine", "middle", "coarse"), CacheOptions())
    recipe = load("coarse", "fine")
    dataset = build_dataset(recipe)
    cache, _ = find_cache(recipe, dataset)
    assert list(cache.teachers()) == ["coarse", "fine"]
    assert cache.streams == {"latents.coarse.latents", "latents.fine.latents"}
    sample = cache.dataset.read(3, 0)
    batch = ClipBatch(("x",), {name: tensor.unsqueeze(0) for name, tensor in sample.tensors.items()})
    live = prepare.build_teacher(recipe, recipe.teachings()[0])
    clip = ClipBatch(("x",), {"clip": dataset.read(3, 0).tensors["clip"].unsqueeze(0)})
    assert torch.equal(cache.teachers()["coarse"](batch), live(clip))


def test_a_teacher_may_be_called_otherwise(load, seen):
    fill_cache(load("fine", "coarse"), CacheOptions())
    renamed = load("fine", names={"fine": "motion"})
    assert fill_cache(renamed, CacheOptions()).counts.done == 0
    cache, _ = find_cache(renamed, build_dataset(renamed))
    assert {key: layer.name for key, layer in cache.layers.items()} == {"motion": "teachers/fine"}


def test_another_teacher_of_the_same_name_is_refused(load):
    fill_cache(load("fine"), CacheOptions())
    other = load("coarse", names={"coarse": "fine"})
    for use in (lambda: fill_cache(other, CacheOptions()), lambda: find_cache(other, build_dataset(other))):
        with pytest.raises(CacheError, match=r"in teachers/fine, teacher.config.patch is 4 .* and 16 here"):
            use()


def test_a_teacher_that_is_not_cached_yet_runs_live(load):
    fill_cache(load("fine"), CacheOptions())
    recipe = load("fine", "coarse")
    found, about = find_cache(recipe, build_dataset(recipe))
    assert found is None and "lacks coarse (add it with `salt cache`)" in about


def test_further_views_and_clips_are_added(load, seen):
    fill_cache(load("fine"), CacheOptions())
    assert fill_cache(load("fine", settings=["clip.views=2"]), CacheOptions()).counts.done == 30
    assert seen[4] == 60 + 2 * MEASURING - 4  # calibrated once
    # One view is still served.
    recipe = load("fine")
    assert find_cache(recipe, build_dataset(recipe))[0] is not None


class Grown:
    """A data set with clips more, first and last and in between."""

    def __init__(self, dataset, extra):
        self.dataset, self.class_names = dataset, dataset.class_names
        self.clip_ids = [*extra[:1], *dataset.clip_ids[:7], *extra[1:], *dataset.clip_ids[7:]]

    def read(self, index, view):
        clip_id = self.clip_ids[index]
        known = clip_id in self.dataset.clip_ids
        sample = self.dataset.read(self.dataset.clip_ids.index(clip_id) if known else 0, view)
        return type(sample)(clip_id, sample.tensors, sample.label)


def test_new_clips_of_a_grown_data_set_are_added(load, seen, monkeypatch):
    recipe = load("fine")
    fill_cache(recipe, CacheOptions())
    before = {row.clip_id: place for _, place, row in _layer(recipe).rows()}
    from salt_toolkit.cache import plan

    monkeypatch.setattr(plan, "build_dataset", lambda *a, **k: Grown(build_dataset(*a, **k), ["new a", "new b"]))
    assert fill_cache(recipe, CacheOptions()).counts.done == 2
    assert seen[4] == 30 + 2 + 2 * MEASURING - 4
    after = {row.clip_id: place for _, place, row in _layer(recipe).rows()}
    assert {clip_id: after[clip_id] for clip_id in before} == before
    grown = Grown(build_dataset(recipe), ["new a", "new b"])
    cache, _ = find_cache(recipe, grown)
    assert cache.dataset.clip_ids == grown.clip_ids
    # The shorter list is served, too.
    assert find_cache(recipe, build_dataset(recipe))[0] is not None


def _layer(recipe, name="teachers/fine"):
    return Cache.open(Path(recipe.cache.dir) / "train").layers[name]


def test_bad_clips_of_one_teacher_are_left_out_for_all(load, monkeypatch):
    fill_cache(load("fine"), CacheOptions())
    build = prepare.build_teacher

    def sick(recipe, teaching):
        teacher = build(recipe, teaching)
        forward = teacher.forward

        def say(batch):
            latents = forward(batch)
            bad = torch.tensor([clip_id == "train/7" for clip_id in batch.clip_ids])
            return torch.where(bad.view(-1, 1, 1), torch.nan, latents)

        teacher.forward = say
        return teacher

    monkeypatch.setattr(prepare, "build_teacher", sick)
    settings = ["loader.max_bad_fraction=0.5"]
    fill_cache(load("fine", "coarse", settings=settings), CacheOptions())
    recipe = load("fine")
    cache, _ = find_cache(recipe, build_dataset(recipe))
    with pytest.raises(BadClip, match="not finite"):
        cache.dataset.read(7, 0)
    monkeypatch.setattr(prepare, "build_teacher", build)
    monkeypatch.setattr(prepare, "CALIBRATION_CLIPS", 4)  # those are read before anything is known
    from salt_toolkit.cache import plan

    class Unreadable(Grown):
        def read(self, index, view):
            assert self.clip_ids[index] != "train/7", "it is known to be bad"
            return super().read(index, view)

    monkeypatch.setattr(plan, "build_dataset", lambda *a, **k: Unreadable(build_dataset(*a, **k), []))
    outcome = fill_cache(load("middle", settings=settings), CacheOptions())
    assert (outcome.counts.done, outcome.counts.bad, outcome.missing) == (29, 1, 0)
    assert Cache.open(outcome.directory).complete


def test_what_the_cache_keeps_is_not_read_from_the_data_set(load):
    recipe = load("fine", settings=['cache.keep=["clip"]'])
    fill_cache(recipe, CacheOptions())
    dataset = build_dataset(recipe)
    live = dataset.read(5, 0)

    def never(*_):
        raise AssertionError("the data set was read")

    dataset.read = never
    cache, _ = find_cache(recipe, dataset)
    assert isinstance(cache.dataset, CachedSamples)
    sample = cache.dataset.read(5, 0)
    assert torch.equal(sample.tensors["clip"], live.tensors["clip"])
    assert sample.label == live.label and sample.clip_id == live.clip_id


def test_what_it_does_not_keep_is(load):
    fill_cache(load("fine"), CacheOptions())
    recipe = load("fine")
    cache, _ = find_cache(recipe, build_dataset(recipe))
    assert isinstance(cache.dataset, WithLatents)


def test_a_tensor_that_no_sample_has_cannot_be_kept(load):
    with pytest.raises(CacheError, match=r"cache\.keep names 'depth', and samples of this data set have: clip"):
        fill_cache(load("fine", settings=['cache.keep=["depth"]']), CacheOptions())


def test_each_stream_may_have_a_type_of_its_own(load):
    recipe = load("fine", "coarse", settings=["cache.dtype=int8", "cache.dtypes.coarse=fp32"])
    fill_cache(recipe, CacheOptions())
    layers = Cache.open(Path(recipe.cache.dir) / "train").layers
    types = {name: [stream.dtype for stream in index.manifest.streams] for name, index in layers.items()}
    assert types == {"teachers/fine": ["I8", "F16"], "teachers/coarse": ["F32"]}
    assert all(check["ok"] for check in spot_check(Path(recipe.cache.dir) / "train", recipe, count=3))


def test_the_precision_of_training_is_no_part_of_a_cache(load):
    fill_cache(load("fine"), CacheOptions())
    layer = Path(load("fine").cache.dir) / "train" / "teachers" / "fine" / "layer.json"
    assert json.loads(layer.read_text())["identity"]["precision"] == "fp32"
    recipe = load("fine", settings=["train.precision=bf16"])
    assert find_cache(recipe, build_dataset(recipe))[0] is not None
    assert fill_cache(recipe, CacheOptions()).counts.done == 0


def test_caches_of_different_teachers_are_joined(load, tmp_path):
    fine = fill_cache(load("fine"), CacheOptions()).directory
    elsewhere = load("coarse", settings=[f"cache.dir={tmp_path / 'elsewhere'}"])
    merge(fine, [fill_cache(elsewhere, CacheOptions()).directory])
    recipe = load("fine", "coarse")
    assert find_cache(recipe, build_dataset(recipe))[0] is not None

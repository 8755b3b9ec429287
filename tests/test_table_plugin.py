"""A plugin without video passes the contract kit, `salt check` and a run; so does one with a token for every frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import table_plugin
import torch
from safetensors.torch import load_file
from table_parts import Fit, Frames, Pair
from table_plugin import PairConfig

from salt_toolkit import ClipSpec, GeometryError, Grid, StreamSpec, testing
from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.cache.work import CacheWork
from salt_toolkit.check.deep import check_built
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.check.text import render_report
from salt_toolkit.context import MethodContext
from salt_toolkit.contracts import Parts
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import Registry
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.store.cache import Cache
from salt_toolkit.streams import CLIP, clip_stream
from salt_toolkit.system.files import read_lines
from salt_toolkit.teaching.alignment import AlignedTeacher
from salt_toolkit.testing import random_batch
from salt_toolkit.train.run import run_recipe

RECIPE = """
[run]
name = "table"
[dataset]
use = "rows"
[teacher]
use = "pair"
[method]
use = "fit"
[train]
max_steps = 4
batch_size = 4
[schedules.lr]
use = "constant"
value = 0.01
[schedules.weight_decay]
use = "constant"
value = 0.1
"""

SAMPLE = {"features": StreamSpec((128,)), "unread": StreamSpec((3,), "I64")}
CLIPS = ClipSpec(frames=24, size=252)


class TestRows(testing.DatasetContract):
    plugin, section, clip = "table_plugin", {"use": "rows"}, None


class TestPair(testing.TeacherContract):
    plugin, section, clip, sample = "table_plugin", {"use": "pair"}, None, SAMPLE


class TestFrames(testing.TeacherContract):
    plugin, section, clip = "table_plugin", {"use": "frames"}, CLIPS


class TestFit(testing.MethodContract):
    plugin, section, clip, sample = "table_plugin", {"use": "fit"}, None, SAMPLE
    labels = StreamSpec((2,))

    def parts(self):
        teachers = {"teacher": PairConfig().streams(self.inputs)}
        context = MethodContext(self.inputs, teachers, labels=self.labels)
        return Parts(seed=0, teachers={"teacher": Pair(self.inputs)}, context=context)


@pytest.fixture
def load(tmp_path, monkeypatch):
    import salt_schedules

    registry = Registry.from_modules({"table": table_plugin, "schedules": salt_schedules})
    monkeypatch.setattr("salt_toolkit.runs.resume.discover", lambda: registry)
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def loaded(*overrides):
        return load_recipe(tmp_path / "recipe.toml", registry, [f"run.dir={tmp_path}", *overrides])

    return loaded


def test_no_word_of_clips_and_no_pixels_in_what_a_table_costs(load):
    recipe = load()
    assert recipe.clip is None and "clip" not in recipe.resolved()
    report = check_recipe(recipe)
    assert report.findings == [] and check_built(recipe) == []
    (teacher,) = report.facts.teachers
    assert teacher.streams == {"wide": "6 of F32", "sign": "1 of I64"}
    batches, batch = 2 * recipe.loader.prefetch + 2, recipe.train.batch_size
    assert report.facts.host_memory_gb == batches * batch * (4 * 128 + 8 * 3) / 1e9
    assert report.facts.train_step_gflops_per_clip == 3 * 2 * (128 * 8 + 8 * 8) / 1e9


def test_texts_speak_of_samples_where_there_are_no_clips(load):
    recipe = load("train.batch_size=17", "loader.workers=1000")
    text = render_report(Path("recipe.toml"), check_recipe(recipe))
    assert "the data set has 16 samples, fewer" in text and "16 samples" in text and "clip" not in text


def test_a_run_hands_over_labels_and_captions_and_leaves_every_exported_module(load):
    Fit.seen.clear()
    recipe = load()
    run_recipe(recipe)
    assert run_recipe(recipe) is None  # complete
    directory = RunDirectory.of(recipe)
    trunk, head = (load_file(directory.export(name)) for name in ("trunk", "head"))
    assert not directory.student.exists()
    assert trunk["weight"].shape == (8, 128) and head["weight"].shape == (8, 8)
    exports = json.loads(directory.environment.read_text())["exports"]
    assert set(exports) == {"trunk", "head"}
    names, labels, captions = Fit.seen[0]
    assert names == ["features"]  # what the method reads, and nothing else
    assert labels.shape == (4, 2) and all(caption.startswith("the row ") for caption in captions)
    run_recipe(load("run.name=longer", "train.max_steps=8"))
    longer = RunDirectory.of(load("run.name=longer"))
    assert torch.equal(load_file(longer.export("head"))["weight"], head["weight"])  # its rate is 0 times the schedule's
    assert not torch.equal(load_file(longer.export("trunk"))["weight"], trunk["weight"])


def test_a_method_refuses_a_setting_that_fits_no_teacher(load):
    (finding,) = check_recipe(load("method.stream=narrow")).findings
    assert (finding.severity, finding.key) == ("error", "method.stream")
    assert finding.message == "found 'narrow'; the teacher gives ['wide', 'sign']"


def test_a_class_token_in_every_frame_is_checked_end_to_end(load):
    clip = {f"clip.{name}": value for name, value in (("frames", 24), ("size", 252))}
    recipe = load("teacher.use=frames", "method.stream=features", *(f"{key}={value}" for key, value in clip.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_plugin.RowsConfig, "sample_spec", lambda self, clip: {**SAMPLE, CLIP: clip_stream(clip)})
        report = check_recipe(recipe)
        assert report.findings == [] and check_built(recipe) == []
    (teacher,) = report.facts.teachers
    (text,) = teacher.streams.values()
    assert text == "24 x 18 x 18 = 7776 tokens of 384 numbers, with 1 more before each frame's"


def test_objectives_get_the_patches_of_all_frames_without_class_tokens():
    teacher, batch = Frames(8), random_batch(ClipSpec(frames=2, size=28))
    stream = StreamSpec((2, 5, 8), grid=Grid(2, 2, 2), prefix=1)
    features = teacher.outputs(batch)["features"]
    found = AlignedTeacher(teacher, Grid(2, 2, 2), "features", stream)(batch)
    assert torch.equal(found, torch.cat([features[:, 0, 1:], features[:, 1, 1:]], dim=1))


def test_tokens_that_are_no_grids_are_refused():
    with pytest.raises(GeometryError, match=r"expected 9 .1 before the grid and .*, or 2 frames of 5"):
        StreamSpec((2, 4, 8), grid=Grid(2, 2, 2), prefix=1)


def broken(kit):
    found = []
    for name in dir(kit):
        if name.startswith("test_") and name != "test_the_config_answers_without_heavy_imports":
            try:
                getattr(kit, name)()
            except testing.ContractBroken:
                found.append(name)
    return found


def test_the_kit_finds_a_table_that_breaks_its_word(monkeypatch):
    import table_parts

    with monkeypatch.context() as patch:
        patch.setattr(table_plugin.RowsConfig, "label_spec", lambda self: StreamSpec((3,)))
        assert broken(TestRows()) == ["test_samples_are_as_the_config_says"]
    with monkeypatch.context() as patch:
        many = table_parts.Rows.read_many
        patch.setattr(table_parts.Rows, "read_many", lambda self, indices, view: many(self, sorted(indices), view))
        assert broken(TestRows()) == ["test_many_samples_at_once_are_the_same"]


def test_the_kit_finds_a_teacher_whose_weights_nobody_knows(monkeypatch):
    build = TestPair.build

    def unseeded(self):
        teacher = build(self)
        torch.seed()
        teacher.wide.reset_parameters()
        return teacher

    monkeypatch.setattr(TestPair, "build", unseeded)
    assert broken(TestPair()) == ["test_its_weights_are_known"]


def test_the_kit_finds_a_method_that_reads_more_than_it_says(monkeypatch):
    reads = table_plugin.FitConfig.reads
    monkeypatch.setattr(table_plugin.FitConfig, "reads", lambda self: type(reads(self))((), ("teacher.wide",)))
    assert broken(TestFit()) == ["test_it_reads_what_it_says"]


def test_one_pass_fills_a_layer_with_two_outputs_and_training_reads_the_one_it_needs(load, tmp_path, monkeypatch):
    def losses(recipe):
        run_recipe(recipe)
        return [line["loss"] for line in read_lines(RunDirectory.of(recipe).metrics)]

    live = losses(load("run.name=live", "train.log_every=1"))
    recipe = load("run.name=cached", "train.log_every=1", f"cache.dir={tmp_path / 'latents'}", "cache.dtype=fp32")
    work = CacheWork.run

    def counted(self):
        Pair.calls.clear()  # less those that choose constants and measure rates
        return work(self)

    monkeypatch.setattr(CacheWork, "run", counted)
    directory = fill_cache(recipe, CacheOptions()).directory
    assert Pair.calls == [4, 4, 4, 4]
    layer = Cache.open(directory).layers["teachers/teacher"]
    assert {s.name: (s.dtype, s.shape) for s in layer.manifest.streams} == {"wide": ("F32", (6,)), "sign": ("I64", ())}
    Pair.calls.clear()
    assert fill_cache(recipe, CacheOptions()).counts.done == 0 and Pair.calls == []
    Fit.seen.clear()
    assert losses(recipe) == pytest.approx(live, rel=1e-6) and len(live) == 4
    assert Pair.calls == []
    assert {name for names, _, _ in Fit.seen for name in names} == {"features", "latents.teacher.wide"}

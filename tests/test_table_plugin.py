"""A plugin without video: a table with vector labels and captions, a teacher with two outputs, two exported modules."""

from __future__ import annotations

import json
import types
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from salt_toolkit import Component, Cost, DatasetConfig, MethodConfig, Reads, StreamSpec, TeacherConfig, hookimpl
from salt_toolkit.check.deep import check_built
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.contracts import ClipBatch, Method, ParameterGroup, Sample, StepOutput, Teacher
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import Registry
from salt_toolkit.runs.directory import RunDirectory
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


class RowsConfig(DatasetConfig):
    rows: int = 16
    width: int = 128

    def num_clips(self):
        return self.rows

    def sample_spec(self, clip):
        return {"features": StreamSpec((self.width,)), "unread": StreamSpec((3,), "I64")}

    def label_spec(self):
        return StreamSpec((2,))


class Rows:
    class_names = ()

    def __init__(self, config):
        self.clip_ids = [f"row{index}" for index in range(config.rows)]
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(config.rows, config.width, generator=generator)

    def read(self, index, view):
        tensors = {"features": self.features[index], "unread": torch.arange(3)}
        return Sample(self.clip_ids[index], tensors, self.features[index, :2], f"the row {index}")

    def read_many(self, indices, view):
        rows = list(indices)
        tensors = {"features": self.features[rows], "unread": torch.arange(3).repeat(len(rows), 1)}
        ids = tuple(self.clip_ids[index] for index in rows)
        return ClipBatch(ids, tensors, self.features[rows, :2], tuple(f"the row {index}" for index in rows))


class PairConfig(TeacherConfig):
    def reads(self):
        return ("features",)

    def streams(self, inputs):
        return {"wide": StreamSpec((6,)), "sign": StreamSpec((), "I64")}

    def cost(self, inputs):
        width = inputs.tensor("features").shape[0]
        return Cost(parameters=6 * width, forward_flops=12 * width)


class Pair(Teacher):
    def __init__(self, inputs):
        super().__init__()
        self.wide = nn.Linear(inputs.tensor("features").shape[0], 6, bias=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, batch):
        features = batch.tensors["features"]
        return {"wide": self.wide(features), "sign": (features.sum(dim=1) > 0).long()}


class FitConfig(MethodConfig):
    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    stream: str = "wide"

    def reads(self):
        return Reads(("features",), ("teacher.wide",))

    def check(self, context):
        known = list(context.teachers["teacher"])
        return {} if self.stream in known else {"stream": f"found {self.stream!r}; the teacher gives {known}"}

    def cost(self, context):
        return Cost(parameters=128 * 8 + 8 * 8, forward_flops=2 * (128 * 8 + 8 * 8))


class Fit(Method):
    seen: ClassVar[list] = []

    def __init__(self, config, parts):
        super().__init__()
        width = parts.context.inputs.tensor("features").shape[0]
        targets = parts.context.teachers["teacher"]["wide"].shape[0] + parts.context.labels.shape[0]
        self.teacher = parts.teachers["teacher"]
        self.trunk, self.head = nn.Linear(width, 8, bias=False), nn.Linear(8, targets, bias=False)

    def owned_modules(self):
        return {"trunk": self.trunk, "head": self.head}

    def exports(self):
        return self.owned_modules()

    def parameter_groups(self):
        return [ParameterGroup(list(self.head.parameters()), lr=0.0)]

    def forward(self, batch):
        Fit.seen.append((sorted(batch.tensors), batch.labels, batch.captions))
        targets = torch.cat([self.teacher.outputs(batch)["wide"], batch.labels], dim=1)
        return StepOutput((self.head(self.trunk(batch.tensors["features"])) - targets).square().mean(), {})


def plugin():
    module = types.ModuleType("table_plugin")

    @hookimpl
    def salt_datasets():
        yield Component("rows", RowsConfig, lambda config: Rows(config), "Rows of a table.")

    @hookimpl
    def salt_teachers():
        yield Component("pair", PairConfig, lambda config, *, inputs: Pair(inputs), "Two outputs.")

    @hookimpl
    def salt_methods():
        yield Component("fit", FitConfig, lambda config, *, parts: Fit(config, parts), "Fits both.")

    module.salt_datasets, module.salt_teachers, module.salt_methods = salt_datasets, salt_teachers, salt_methods
    return module


@pytest.fixture
def load(tmp_path, monkeypatch):
    import salt_schedules

    registry = Registry.from_modules({"table": plugin(), "schedules": salt_schedules})
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

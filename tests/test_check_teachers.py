"""`salt check` on teachers: who they are, what their grids become, under what terms they come."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from salt_toy.config import ProjectionConfig

from salt_toolkit import CheckpointError, MissingArtifact, ModelCard
from salt_toolkit.assemble import build_method
from salt_toolkit.check.deep import check_built
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.check.text import render_report
from salt_toolkit.cli.teacher_text import render_teachers, teacher_rows
from salt_toolkit.recipe import load_recipe
from salt_toolkit.teaching.fingerprint import identify

RECIPE = """
[run]
name = "small"
[clip]
frames = 4
size = 32
[dataset]
use = "toy_squares"
[teachers.coarse]
weight = 2.0
use = "pixels"
patch = 16
tubelet = 4
[teachers.fine]
use = "toy_projection"
dim = 24
[student]
use = "toy_mixer"
[predictor]
use = "toy_regressor"
[masker]
use = "random"
[objective]
use = "mse"
target_norm = "layer"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 10
"""


@pytest.fixture
def load(tmp_path, registry):
    def load(*overrides, text=RECIPE):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(path, registry, overrides)

    return load


def findings(report, *severities):
    return [finding for finding in report.findings if finding.severity in severities]


def test_each_teacher_is_described_on_its_own_grid(load):
    recipe = load()
    report = check_recipe(recipe)
    assert report.findings == []
    coarse, fine = report.facts.teachers
    identity = identify("pixels", recipe.teachings()[0].teacher.config, recipe.inputs())
    assert asdict(coarse) == {
        "name": "coarse",
        "weight": 2.0,
        "use": "pixels",
        "grid": "1 x 2 x 2 = 4 tokens",
        "dim": 3072,
        "streams": {"latents": "1 x 2 x 2 = 4 tokens of 3072 numbers"},
        "parameters": 0,
        "gflops_per_clip": 0.0,
        "fingerprint": identity.fingerprint,
        "licence": None,
        "labels": None,
        "resampled": True,
    }
    assert (fine.name, fine.grid, fine.resampled) == ("fine", "2 x 4 x 4 = 32 tokens", False)
    assert fine.fingerprint != coarse.fingerprint


def test_all_teachers_together_are_the_predictors_teacher(load):
    recipe = load()
    facts = check_recipe(recipe).facts
    assert facts.grid == "2 x 4 x 4 = 32 tokens"
    assert facts.teacher_dim == 3072 + 24
    assert facts.teacher_parameters == sum(teacher.parameters for teacher in facts.teachers)
    assert facts.teacher_gflops_per_clip == sum(teacher.gflops_per_clip for teacher in facts.teachers)
    method = build_method(recipe, total_steps=10)
    assert facts.predictor_parameters == sum(value.numel() for value in method.predictor.parameters())
    assert facts.teacher_parameters == sum(value.numel() for value in method.teachers.parameters())
    assert check_built(recipe) == []


def test_one_teacher_of_another_grid_is_fine_too(load):
    short = RECIPE[: RECIPE.index("[teachers.")] + RECIPE[RECIPE.index("[student]") :]
    recipe = load("teacher.use=pixels", "teacher.patch=32", text=short)
    report = check_recipe(recipe)
    assert report.findings == check_built(recipe) == []
    (teacher,) = report.facts.teachers
    assert (teacher.name, teacher.grid, teacher.resampled) == ("teacher", "2 x 1 x 1 = 2 tokens", True)


def test_every_teacher_is_one_line_of_the_report(load, tmp_path):
    report = check_recipe(load())
    lines = [line for line in render_report(tmp_path, report).splitlines() if line.startswith("  teacher ")]
    prints = [teacher.fingerprint for teacher in report.facts.teachers]
    assert lines == [
        "  teacher     coarse: pixels, weight 2, 1 x 2 x 2 = 4 tokens of 3072 numbers, resampled to the student's grid"
        f"; fingerprint {prints[0]}",
        f"  teacher     fine: toy_projection, weight 1, 2 x 4 x 4 = 32 tokens of 24 numbers; fingerprint {prints[1]}",
    ]


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "CC-BY-NC-SA-4.0"])
def test_weights_that_are_not_for_commerce_are_a_note_that_fails_nothing(load, monkeypatch, tmp_path, licence):
    monkeypatch.setattr(ProjectionConfig, "card", lambda self: ModelCard(licence, "Kinetics-710"))
    report = check_recipe(load())
    (finding,) = report.findings
    assert (finding.severity, finding.key) == ("note", "teachers.fine")
    assert licence in finding.message and "non-commercial use only" in finding.message
    assert not report.has("error", "missing", "warning")
    text = render_report(tmp_path, report)
    assert "note        teachers.fine: its weights are" in text
    assert f"; licence {licence}, labels Kinetics-710\n" in text


def test_weights_that_the_student_starts_from_are_told_of_too(load):
    plain = check_recipe(load("student.use=timm_vit", "student.model=vit_base_patch16_224"))
    assert not [finding for finding in plain.findings if finding.key == "student"]
    settings = ("student.use=timm_vit", "student.model=vit_base_patch16_224.mae", "student.pretrained=true")
    (finding,) = findings(check_recipe(load(*settings)), "note")
    assert finding.key == "student"
    assert "cc-by-nc-4.0: they are for non-commercial use only" in finding.message


def test_a_free_licence_is_no_finding(load, monkeypatch):
    monkeypatch.setattr(ProjectionConfig, "card", lambda self: ModelCard("apache-2.0", "none"))
    report = check_recipe(load())
    assert report.findings == []
    assert (report.facts.teachers[1].licence, report.facts.teachers[1].labels) == ("apache-2.0", "none")


def test_missing_weights_are_said_once_and_leave_the_fingerprint_open(load, monkeypatch, tmp_path):
    missing = MissingArtifact("the checkpoint x is not on this machine", "Get it.")
    monkeypatch.setattr(ProjectionConfig, "missing", lambda self: [missing])
    report = check_recipe(load())
    (finding,) = report.findings
    assert (finding.severity, finding.key, finding.fix) == ("missing", "teachers.fine", "Get it.")
    assert report.facts.teachers[1].fingerprint is None
    assert report.facts.teachers[1].dim == 24
    assert "fingerprint unknown here" in render_report(tmp_path, report)


@pytest.mark.parametrize("question", ["missing", "token_spec", "cost", "weight_files", "card"])
def test_a_bad_checkpoint_is_an_error_whatever_was_asked(load, monkeypatch, question):
    def broken(self, *_):
        raise CheckpointError("x.pth is torn")

    recipe = load()
    monkeypatch.setattr(ProjectionConfig, question, broken)
    report = check_recipe(recipe)
    (finding,) = report.findings
    assert (finding.severity, finding.key, finding.message) == ("error", "teachers.fine", "x.pth is torn")
    if question == "token_spec":
        assert report.facts.teacher_dim is None


MISTAKES = {
    "identity": lambda self, clip: {"file": Path("x")},
    "weight_files": lambda self: [Path("/nowhere/weights")],
    "cost": lambda self, clip: 1 / 0,
    "card": lambda self: {"licence": "mit"},
    "token_spec": lambda self, clip: (8, 24),
    "missing": lambda self: 5,
}


@pytest.mark.parametrize("question", MISTAKES)
def test_a_plugins_mistake_is_told_as_such_and_hides_nothing_else(load, monkeypatch, question):
    recipe = load()
    monkeypatch.setattr(ProjectionConfig, question, MISTAKES[question])
    report = check_recipe(recipe)
    assert report.findings
    for finding in report.findings:
        assert (finding.severity, finding.key) == ("error", "teachers.fine")
        expected = (
            "the plugin made a mistake, not the recipe: ",
            "the plugin answered ",
            "/nowhere/weights: No such file",
        )
        assert finding.message.startswith(expected)
    assert report.facts.teachers[0].fingerprint


@pytest.mark.parametrize("answer", [lambda cls: 1 / 0, lambda cls: ["a/b"]])
def test_a_plugins_mistake_hides_no_other_teacher_from_the_list(registry, monkeypatch, answer):
    monkeypatch.setattr(ProjectionConfig, "known_checkpoints", classmethod(answer))
    rows = teacher_rows(registry)
    (mine,) = [row for row in rows if row["teacher"] == "toy_projection"]
    assert mine["error"].startswith("the plugin made a mistake, not the recipe: ")
    assert len(rows) > 20
    assert mine["error"] in render_teachers(rows)


def test_widths_that_an_objective_cannot_rotate_are_an_error(load):
    recipe = load("objective.target_norm=phi_s", "teachers.fine.dim=30")
    (finding,) = check_recipe(recipe).findings
    assert (finding.severity, finding.key) == ("error", "objective")
    assert "none of width 30 can be made here" in finding.message
    assert check_recipe(load("objective.target_norm=phi_s")).findings == []


def test_an_objective_that_no_teacher_uses_is_a_warning(load):
    text = RECIPE.replace("patch = 16\n", 'patch = 16\nobjective = {use = "l1"}\n')
    assert check_recipe(load(text=text)).findings == []
    text = text.replace("dim = 24\n", 'dim = 24\nobjective = {use = "l1"}\n')
    (finding,) = check_recipe(load(text=text)).findings
    assert (finding.severity, finding.key) == ("warning", "objective")


def test_deep_check_judges_every_teacher_by_its_own_promise(load, monkeypatch):
    recipe = load()
    honest = ProjectionConfig.cost
    monkeypatch.setattr(
        ProjectionConfig, "cost", lambda self, clip: honest(self, clip).__class__(parameters=7, forward_flops=0)
    )
    (finding,) = check_built(recipe)
    assert finding.key == "teachers.fine"
    assert "promises 7 parameters" in finding.message

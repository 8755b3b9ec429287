"""`salt check`: proofs by arithmetic, and findings with a fix."""

from __future__ import annotations

import subprocess
import sys

import pytest

from salt_toolkit.check import check_recipe
from salt_toolkit.deep_check import check_built
from salt_toolkit.recipe import load_recipe


@pytest.fixture
def check(registry, pytestconfig):
    def run(name, *overrides):
        return check_recipe(load_recipe(pytestconfig.rootpath / "recipes" / name, registry, overrides))

    return run


def keys(report, severity):
    return {finding.key for finding in report.findings if finding.severity == severity}


def test_the_published_figures_of_vit_b(check):
    facts = check("ssv2_vitb.toml").facts
    assert (facts["tokens"], facts["visible_tokens"], facts["target_tokens"]) == (1568, 392, 1176)
    assert facts["train_step_gflops_per_clip"] == pytest.approx(562.7, abs=0.05)
    assert facts["student_gflops_per_clip"] == pytest.approx(75.95, abs=0.005)
    assert facts["predictor_gflops_per_clip"] == pytest.approx(112.8, abs=0.05)
    assert facts["teacher_gflops_per_clip"] == pytest.approx(360.7, abs=0.05)
    assert facts["steps"] == 3 * (168_913 // 32) == 15_834


@pytest.mark.parametrize(
    ("model", "gflops"),
    [("vit_tiny_patch16_224", 356.6), ("vit_small_patch16_224", 400.3), ("vit_large_patch16_224", 1104.2)],
)
def test_the_published_figures_of_other_students(check, model, gflops):
    facts = check("ssv2_vitb.toml", f"student.model={model}").facts
    assert facts["train_step_gflops_per_clip"] == pytest.approx(gflops, abs=0.05)


def test_vit_tiny_fast_halves_the_predictor(check):
    assert check("vit_tiny_fast.toml").facts["train_step_gflops_per_clip"] == pytest.approx(188.7, abs=0.05)


def test_what_is_missing_comes_with_a_fix(check):
    report = check("ssv2_vitb.toml", "dataset.root=/nowhere/ssv2", "teacher.checkpoint=/nowhere/weights")
    missing = [finding for finding in report.findings if finding.severity == "missing"]
    assert {finding.key for finding in missing} == {"dataset", "teacher"}
    assert all(finding.fix for finding in missing)
    assert not report.has("error")


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (["clip.size=225"], "student", "not a multiple of the patch of 16 pixels; choose 224 or 240"),
        (["clip.frames=15"], "student", "not a multiple of the tubelet"),
        (["masker.ratio=0.0001"], "masker", ""),
        (["train.max_steps=10"], "schedules.lr", "warm-up of 500 steps"),
        (["schedules.mask_ratio.use=linear", "schedules.mask_ratio.start=0.0", "schedules.mask_ratio.end=0.5"], "", ""),
    ],
)
def test_what_cannot_work_is_an_error(check, overrides, key, text):
    report = check("ssv2_vitb.toml", "train.max_steps=1000", *overrides)
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert errors
    assert any(finding.key.startswith(key) and text in finding.message for finding in errors)


def test_a_batch_larger_than_the_data_is_an_error(check, tmp_path):
    for name in "abc":
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        (folder / "v.mp4").write_bytes(b"x")
    report = check("ssv2_vitb.toml", "dataset.use=video_folder", f"dataset.root={tmp_path}")
    assert report.facts["clips"] == 3
    assert "train.batch_size" in keys(report, "error")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["clip.crop_scale=[0.5, 1.0]"], "clip.crop_scale"),
        (["clip.views=3", "clip.start=center"], "clip.views"),
        (["loader.workers=100", "train.batch_size=8"], "loader.workers"),
    ],
)
def test_settings_without_effect_are_warnings(check, overrides, key):
    assert key in keys(check("ssv2_vitb.toml", *overrides), "warning")
    assert not keys(check("ssv2_vitb.toml"), "warning")


def test_deep_check_finds_a_config_that_promises_too_much(registry, pytestconfig, monkeypatch):
    recipe = load_recipe(pytestconfig.rootpath / "recipes" / "vit_tiny_fast.toml", registry, ["student.depth=1"])
    assert check_built(recipe) == []
    config = type(recipe.student.config)
    honest = config.cost
    monkeypatch.setattr(
        config, "cost", lambda self, clip, visible: honest(self, clip, visible).__class__(parameters=7, forward_flops=0)
    )
    (finding,) = check_built(recipe)
    assert "promises 7 parameters" in finding.message


def test_checking_needs_no_torch(pytestconfig):
    script = (
        "import sys; from salt_toolkit.check import check_recipe; from salt_toolkit.recipe import load_recipe;"
        "from salt_toolkit.registry import discover; from salt_toolkit.report.check_text import render_report;"
        "check_recipe(load_recipe('recipes/ssv2_vitb.toml', discover()));"
        "print([name for name in ('torch', 'timm', 'av', 'transformers', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

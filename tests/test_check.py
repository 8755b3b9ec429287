"""`salt check`: proofs by arithmetic, and findings with a fix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from salt_schedules.curves import Constant

from salt_toolkit.check.deep import check_built
from salt_toolkit.check.findings import Finding
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.check.text import render_report
from salt_toolkit.flops import train_step_flops
from salt_toolkit.geometry import MaskCounts
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
    assert (facts.tokens, facts.visible_tokens, facts.target_tokens) == (1568, 392, 1176)
    assert facts.train_step_gflops_per_clip == pytest.approx(550.8, abs=0.05)
    assert facts.student_gflops_per_clip == pytest.approx(73.18, abs=0.005)
    assert facts.predictor_gflops_per_clip == pytest.approx(110.7, abs=0.05)
    assert facts.teacher_gflops_per_clip == pytest.approx(360.7, abs=0.05)
    assert facts.steps == 3 * (168_913 // 32) == 15_834


@pytest.mark.parametrize(
    ("model", "gflops"),
    [("vit_tiny_patch16_224", 348.9), ("vit_small_patch16_224", 391.2), ("vit_large_patch16_224", 1090.5)],
)
def test_the_published_figures_of_other_students(check, model, gflops):
    facts = check("ssv2_vitb.toml", f"student.model={model}").facts
    assert facts.train_step_gflops_per_clip == pytest.approx(gflops, abs=0.05)


def test_vit_tiny_fast_halves_the_predictor(check):
    assert check("vit_tiny_fast.toml").facts.train_step_gflops_per_clip == pytest.approx(181.0, abs=0.05)


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
        (
            [f"schedules.mask_ratio.{rest}" for rest in ("use=warmup_cosine", "peak=1.0", "floor=0.5", "start=0.5")]
            + ["schedules.mask_ratio.warmup_steps=700"],
            "schedules.mask_ratio",
            "hides all of the 1568 tokens",
        ),
        (["schedules.lr.use=constant", "schedules.lr.value=-0.001"], "schedules.lr", "is -0.001 at step 0"),
        (["schedules.lr.use=linear", "schedules.lr.start=0.001", "schedules.lr.end=-0.001"], "schedules.lr", "below 0"),
        (["schedules.lr.use=constant", "schedules.lr.value=0.0"], "schedules.lr", "nothing would be learned"),
        (["schedules.weight_decay.end=-1.0"], "schedules.weight_decay", "below 0"),
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
    assert report.facts.clips == 3
    assert "train.batch_size" in keys(report, "error")


THRIFTY = ["method.target_fraction=0.25", "method.masks_per_clip=3"]


@pytest.fixture
def cost(registry, pytestconfig):
    """What student and predictor of the recipe cost for one clip and one mask: true, by their contract tests."""
    recipe = load_recipe(pytestconfig.rootpath / "recipes" / "ssv2_vitb.toml", registry)
    spec = recipe.student.config.token_spec(recipe.clip)

    def of(visible, target):
        predictor = recipe.predictor.config.cost(spec, spec, MaskCounts(visible, target))
        return recipe.student.config.cost(recipe.inputs(), visible), predictor

    return of


def test_fewer_targets_and_more_masks_are_counted(check, cost):
    """392 tokens are visible, and of 1176 hidden ones 294 predicted; three times."""
    plain, found = check("ssv2_vitb.toml").facts, check("ssv2_vitb.toml", *THRIFTY).facts
    assert (found.visible_tokens, found.target_tokens, found.drawn_target_tokens) == (392, 294, 1176)
    for name, part in zip(("student", "predictor"), cost(392, 294), strict=True):
        assert getattr(found, f"{name}_gflops_per_clip") == pytest.approx(3 * part.forward_flops / 1e9, rel=1e-12)
        assert getattr(found, f"{name}_parameters") == getattr(plain, f"{name}_parameters")
    step = 3 * train_step_flops(*cost(392, 294)) / 1e9
    assert found.train_step_gflops_per_clip == pytest.approx(step, rel=1e-12)
    assert found.teacher_gflops_per_clip == plain.teacher_gflops_per_clip
    a_clip = step + found.teacher_gflops_per_clip
    assert found.run_pflops == pytest.approx(found.steps * 32 * a_clip / 1e6, rel=1e-12)


def test_memory_follows_targets_and_masks(check, cost):
    """What is kept for the backward pass grows with the masks, and shrinks with the targets; weights stay."""

    def kept(target):
        return 32 * 2 * sum(part.activations for part in cost(392, target)) / 1e9  # 32 clips, 2 bytes a number

    weights = check("ssv2_vitb.toml").facts.device_memory_gb - kept(1176)
    found = check("ssv2_vitb.toml", *THRIFTY).facts.device_memory_gb
    assert found == pytest.approx(weights + 3 * kept(294), rel=1e-9)


@pytest.mark.parametrize(
    ("dtype", "latents"),
    [("bf16", 1568 * 768 * 2), ("fp32", 1568 * 768 * 4), ("int8", 1568 * (768 + 2)), ("fp8", 1568 * (768 + 2))],
)
def test_a_cache_is_as_large_as_its_latents(check, dtype, latents):
    """int8 and fp8 have a scale of two bytes for each token."""
    settings = ("cache.dir=/x", f"cache.dtype={dtype}")
    facts = check("ssv2_vitb.toml", *settings).facts
    assert facts.cache_gb == pytest.approx(168_913 * latents / 1e9)
    plain = check("ssv2_vitb.toml").facts
    assert plain.cache_gb is None
    # The loader's six batches of 32 carry them, too.
    assert facts.host_memory_gb - plain.host_memory_gb == pytest.approx(6 * 32 * latents / 1e9)
    both = check("ssv2_vitb.toml", *settings, 'cache.keep=["clip"]', "clip.views=2").facts.cache_gb
    assert both == pytest.approx(2 * 168_913 * (latents + 16 * 224 * 224 * 3) / 1e9)


def test_memory_is_weights_gradients_moments_and_activations(check, cost):
    facts = check("ssv2_vitb.toml").facts
    trained = facts.student_parameters + facts.predictor_parameters
    activations = 32 * 2 * sum(part.activations for part in cost(392, 1176))  # bf16
    # AdamW keeps two moments: four numbers of four bytes for each weight that learns, one for the teacher's.
    assert facts.device_memory_gb * 1e9 == pytest.approx(16 * trained + 4 * facts.teacher_parameters + activations)
    assert facts.disk_gb * 1e9 == pytest.approx(3 * 12 * trained + 4 * facts.student_parameters)


def test_an_average_of_weights_and_kept_checkpoints_take_room(check):
    plain, found = check("ssv2_vitb.toml").facts, check("ssv2_vitb.toml", "train.ema=0.999").facts
    average = 4 * plain.student_parameters / 1e9
    assert found.device_memory_gb == pytest.approx(plain.device_memory_gb + average)
    assert found.disk_gb > plain.disk_gb + 2 * average
    kept = check("ssv2_vitb.toml", "train.keep_every=5000").facts.disk_gb
    trained = plain.student_parameters + plain.predictor_parameters
    assert kept - plain.disk_gb == pytest.approx(3 * 12 * trained / 1e9)  # after 5,000, 10,000 and 15,000 steps


def scheduled(**values):
    return [f"schedules.mask_ratio.{name}={value}" for name, value in values.items()]


def test_a_scheduled_mask_ratio_decides_the_figures(check):
    plain, found = check("ssv2_vitb.toml").facts, check("ssv2_vitb.toml", *scheduled(use="constant", value=0.5)).facts
    assert (plain.visible_tokens, found.visible_tokens, found.target_tokens) == (392, 784, 784)
    assert found.train_step_gflops_per_clip > plain.train_step_gflops_per_clip
    moving = check("ssv2_vitb.toml", *scheduled(use="linear", start=0.6, end=0.9))
    assert moving.facts.mask_ratios == pytest.approx((0.6, 0.75, 0.9), abs=1e-3)
    text = render_report(Path("x.toml"), moving)
    assert "392 visible, 1176 targets (mask ratio 0.75, the mean of 0.6 to 0.9)" in text


def test_a_ratio_beside_its_schedule_has_no_effect(check):
    settings = scheduled(use="constant", value=0.5)
    assert not check("ssv2_vitb.toml", *settings).has("warning")
    report = check("ssv2_vitb.toml", *settings, "masker.ratio=0.9")
    assert [finding.key for finding in report.findings if finding.severity == "warning"] == ["masker.ratio"]


def test_a_finding_keeps_its_key(check):
    report = check("ssv2_vitb.toml")
    report.findings.append(Finding("warning", "objective", "has no effect: every teacher has its own objective"))
    assert "warning     objective: has no effect: every" in render_report(Path("x.toml"), report)


def test_the_report_says_what_is_predicted(check):
    def line(*overrides):
        report = check("ssv2_vitb.toml", *overrides)
        (found,) = [text for text in render_report(Path("x.toml"), report).splitlines() if text.startswith("  tokens")]
        return found

    assert "; 392 visible, 1176 targets; " in line()
    assert "; 392 visible, 294 of 1176 targets, 3 passes a clip; " in line(*THRIFTY)


def test_a_share_of_targets_that_is_all_of_them_is_a_warning(check):
    report = check("ssv2_vitb.toml", "method.target_fraction=0.9999")
    (finding,) = [finding for finding in report.findings if finding.severity == "warning"]
    assert finding.key == "method.target_fraction"
    assert finding.message == "has no effect: 0.9999 of 1176 targets rounds to all of them"
    scheduled = ["schedules.mask_ratio.use=linear", "schedules.mask_ratio.start=0.6", "schedules.mask_ratio.end=0.8"]
    assert not keys(check("ssv2_vitb.toml", "method.target_fraction=0.9999", *scheduled), "warning")


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
    thrifty = ["student.depth=1", "method.target_fraction=0.25", "method.masks_per_clip=2"]
    recipe = load_recipe(pytestconfig.rootpath / "recipes" / "vit_tiny_fast.toml", registry, thrifty)
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
        "import sys; from salt_toolkit.check.recipe import check_recipe; from salt_toolkit.recipe import load_recipe;"
        "from salt_toolkit.registry import discover; from salt_toolkit.check.text import render_report;"
        "check_recipe(load_recipe('recipes/ssv2_vitb.toml', discover()));"
        "print([name for name in ('torch', 'timm', 'av', 'transformers', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pytestconfig.rootpath, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("answer", [lambda self, step: 1 / 0, lambda self, step: "much"])
def test_a_schedule_that_fails_is_told_as_its_plugins_mistake(check, monkeypatch, answer):
    monkeypatch.setattr(Constant, "__call__", answer)
    report = check("ssv2_vitb.toml", *scheduled(use="constant", value=0.5))
    (finding,) = [finding for finding in report.findings if finding.severity == "error"]
    assert finding.key == "schedules.mask_ratio"
    assert finding.message.startswith("the plugin made a mistake, not the recipe: ")

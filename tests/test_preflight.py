"""`salt check --preflight`: real batches, real steps, and a verdict that names what holds a run back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from salt_toy.data import Squares

from salt_toolkit.check import settings
from salt_toolkit.check.preflight_text import LIMITS, duration
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.check.report import Timings, plain_report, report_schema
from salt_toolkit.check.text import render_report
from salt_toolkit.measure import preflight as preflights
from salt_toolkit.measure.preflight import preflight
from salt_toolkit.measure.verdict import Length, Setting, advice, limit_of
from salt_toolkit.train.step import Stepper

EQUAL = Timings(loader=0.1, loader_cpu=0.1, step=0.1, step_cpu=0.1, copy=0.0, workers=4, cpus=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(preflights, "STEP_SECONDS", 0.05)


def looked_at(recipe, **options):
    report = check_recipe(recipe)
    preflight(recipe, report, **options)
    return report


def found(report, severity):
    return [finding for finding in report.findings if finding.severity == severity]


@pytest.mark.parametrize(
    ("timings", "limit"),
    [
        (replace(EQUAL, loader=0.3, loader_cpu=1.15), "decode"),  # four threads, busy all the time
        (replace(EQUAL, loader=0.3, loader_cpu=0.06), "disk"),
        (replace(EQUAL, loader=0.3, loader_cpu=0.29, workers=1), "decode"),  # one thread can keep one busy
        (replace(EQUAL, loader=0.3, loader_cpu=0.55, workers=16, cpus=2), "decode"),  # and 16 not more than there are
        (replace(EQUAL, loader=0.05), "compute"),
        (replace(EQUAL, loader=0.05, copy=0.02), "compute"),
        (replace(EQUAL, loader=0.05, copy=0.06), "bus"),
        (replace(EQUAL, loader=0.15, copy=0.2), "bus"),
    ],
)
def test_what_limits_a_run(timings, limit):
    assert limit_of(timings) == limit


def test_how_long_a_run_takes():
    slow_loader = replace(EQUAL, loader=0.3)
    assert Length(1000, 1000, 0.0).seconds(slow_loader) == pytest.approx(300)
    assert Length(1000, 1000, 0.0).seconds(EQUAL) == pytest.approx(100)
    # 100 steps read; 900 have half of the clips in memory; then all of them, and the step is what takes time.
    assert Length(1000, 100, 0.5).seconds(slow_loader) == pytest.approx(100 * 0.3 + 900 * 0.15)
    kept = Length(1000, 100, 1.0)
    assert kept.seconds(slow_loader) == pytest.approx(100 * 0.3 + 900 * 0.1)
    assert limit_of(kept.typical(slow_loader)) == "compute"
    assert limit_of(Length(150, 100, 1.0).typical(slow_loader)) == "disk"
    # Two processors cannot read and compute for 0.5 seconds in less than 0.25.
    assert replace(EQUAL, loader_cpu=0.3, step_cpu=0.2, cpus=2).per_step == pytest.approx(0.25)


def test_advice_is_what_helps_there():
    def first(limit, timings=EQUAL, **setting):
        return advice(limit, timings, Setting(on_gpu=True, **setting))[0]

    assert "loader.workers from 4 to 8" in first("decode")
    assert "cache.keep" in first("decode", replace(EQUAL, cpus=4))
    assert "loader.workers from 4 to 16" in first("disk")
    assert 'cache.dtype = "int8"' in first("bus", cached_latents=True)
    assert 'train.precision = "bf16"' in first("compute", could_bf16=True)
    assert "39% of the work" in first("compute", teacher_share=0.39)
    assert "train.compile" in first("compute")
    assert "salt bench" in first("compute", compiles=True)
    for limit in LIMITS:
        assert advice(limit, EQUAL, Setting(on_gpu=False))


def test_facts_of_real_batches_and_steps(small_recipe, tmp_path):
    report = looked_at(small_recipe(), num_batches=4)
    found = report.facts.preflight
    assert not report.has("error", "missing", "warning")
    assert (found.batches, found.loader.clips, found.loader.workers, found.step.steps) == (4, 16, 2, 60)
    for value in (found.loader.clips_per_second, found.loader.read_ms, found.step.clips_per_second, found.disk_free_gb):
        assert value > 0
    assert found.step.timed_steps >= 3 and found.step.ms_per_step > 0
    assert found.bad_clips == []
    # A ring of 6 batches of 4 clips of 4 x 16 x 16 x 3 bytes, and of 16 int64 for the places of their tokens.
    assert found.loader.memory_gb == pytest.approx(6 * 4 * (4 * 16 * 16 * 3 + 8 * 8) / 1e9, rel=0.2)
    timings = found.step.timings
    slowest = max(timings.loader, timings.step, (timings.loader_cpu + timings.step_cpu) / timings.cpus)
    assert found.step.hours == pytest.approx(60 * slowest / 3600)
    printed = plain_report(Path("x.toml"), report)
    jsonschema.validate(json.loads(json.dumps(printed)), report_schema())
    assert printed["facts"]["preflight"]["step"]["timings"]["workers"] == 2
    text = render_report(Path("x.toml"), report)
    assert "60 steps in about" in text and "limited by" in text and "bad clips   none" in text
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.toml"]


def test_a_loader_that_waits_is_the_disks_fault(small_recipe, monkeypatch):
    honest = Squares.read

    def waiting(self, index, view):
        time.sleep(0.15)
        return honest(self, index, view)

    monkeypatch.setattr(Squares, "read", waiting)
    found = looked_at(small_recipe(), num_batches=3).facts.preflight
    assert found.step.limited_by == "disk"
    assert found.loader.read_ms > 150
    assert found.loader.clips_per_second < 2 / 0.15 * 1.01
    assert found.step.hours * 3600 == pytest.approx(60 * 4 * 0.15 / 2, rel=0.5)
    assert any("loader.workers from 2 to 8" in way for way in found.step.advice)


def test_a_loader_that_computes_is_decodings_fault(small_recipe, monkeypatch):
    honest = Squares.read

    def busy(self, index, view):
        end = time.thread_time() + 0.15
        while time.thread_time() < end:
            pass
        return honest(self, index, view)

    monkeypatch.setattr(Squares, "read", busy)
    # A machine that gives the thread less than half of a processor makes it look as if it waited: then once more.
    attempts = (looked_at(small_recipe("loader.workers=1"), num_batches=3).facts.preflight for _ in range(4))
    found = next((found for found in attempts if found.loader.busy_cpus > 0.5), None)
    assert found is not None and found.step.limited_by == "decode"


def test_the_cache_in_memory_counts_from_the_second_pass_on(small_recipe):
    step = looked_at(small_recipe("loader.ram_cache_mb=100")).facts.preflight.step
    assert step.ram_cache_share == 1.0
    assert step.hours == pytest.approx(Length(60, 10, 1.0).seconds(step.timings) / 3600)
    assert looked_at(small_recipe()).facts.preflight.step.ram_cache_share == 0.0


def test_real_videos_are_decoded_and_bad_ones_counted(small_recipe, registry, tmp_path, write_video):
    for number in range(11):
        write_video(tmp_path / "videos" / "train" / "a" / f"{number:02d}.mp4", 20 * number)
    (tmp_path / "videos" / "train" / "a" / "05.mp4").write_bytes(b"no video")
    recipe = video_recipe(small_recipe, tmp_path, registry, tmp_path / "videos")
    report = looked_at(recipe, num_batches=6)
    preflighted = report.facts.preflight
    (bad,) = preflighted.bad_clips
    assert bad.clip_id == "a/05.mp4"
    (warning,) = found(report, "warning")
    assert warning.key == "dataset" and "a/05.mp4" in warning.message
    assert "bad clips   1 of 24 read" in render_report(Path("x.toml"), report)
    assert preflighted.step.hours > 0

    strict = replace(recipe, loader=recipe.loader.model_copy(update={"max_bad_fraction": 0.01}))
    report = looked_at(strict, num_batches=6)
    assert any(finding.key == "dataset" and "max_bad_fraction" in finding.message for finding in found(report, "error"))
    assert report.facts.preflight.step is None


def video_recipe(small_recipe, folder, registry, root):
    from salt_toolkit.recipe import load_recipe

    small_recipe()
    path = folder / "recipe.toml"
    path.write_text(path.read_text().replace('"toy_squares"\nclips = 40', f'"video_folder"\nroot = "{root}"'))
    return load_recipe(path, registry, [f"run.dir={folder / 'runs'}"])


def test_missing_data_is_one_finding(small_recipe, registry, tmp_path):
    report = looked_at(video_recipe(small_recipe, tmp_path, registry, tmp_path / "nowhere"))
    (missing,) = found(report, "missing")
    assert missing.key == "dataset" and "nowhere" in missing.message
    assert report.facts.preflight.step is None
    assert "nothing read" in render_report(Path("x.toml"), report)


def test_a_batch_that_does_not_fit_is_an_error_with_advice(small_recipe, monkeypatch):
    def cramped(self, batch, scalars, *, last):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Stepper, "forward_and_backward", cramped)
    report = looked_at(small_recipe())
    (error,) = found(report, "error")
    assert error.key == "train.batch_size" and "train.accumulate" in error.fix
    assert report.facts.preflight.loader.clips_per_second > 0


def test_numbers_that_are_none_are_an_error(small_recipe, monkeypatch):
    honest = Squares.read
    report = looked_at(small_recipe())
    assert not report.has("error")
    monkeypatch.setattr(Stepper, "_skips", lambda self, norm, losses: torch.ones(()))
    (error,) = found(looked_at(small_recipe()), "error")
    assert "not finite" in error.message
    assert honest is Squares.read


def test_a_recipe_that_cannot_work_is_not_measured(small_recipe):
    report = looked_at(small_recipe("train.batch_size=50"))
    assert len(found(report, "error")) == 1
    assert "nothing was measured" in render_report(Path("x.toml"), report)


def test_too_little_room_is_told(small_recipe, monkeypatch):
    """A warning where the run can begin, and an error where it has no room for one checkpoint."""
    recipe = small_recipe()
    facts = check_recipe(recipe).facts
    # Weights and the two moments of AdamW in fp32, and the student once more.
    least = 4 * (3 * (facts.student_parameters + facts.predictor_parameters) + facts.student_parameters)
    assert least < 1e9 * facts.disk_gb
    monkeypatch.setattr(preflights, "available_memory", lambda: 1000)
    monkeypatch.setattr(preflights, "free_disk", lambda path: least)
    assert {finding.key for finding in found(looked_at(recipe), "warning")} == {"run.dir", "loader"}
    monkeypatch.setattr(preflights, "free_disk", lambda path: least - 1)
    report = looked_at(recipe)
    (error,) = found(report, "error")
    assert error.key == "run.dir" and "one checkpoint and the finished student will take" in error.message
    assert {finding.key for finding in found(report, "warning")} == {"loader"}


def test_a_directory_that_cannot_be_written_is_an_error(small_recipe, tmp_path):
    (tmp_path / "file").touch()
    for folder, why in (("/proc/runs", "/proc"), (tmp_path / "file", "Not a directory")):
        report = looked_at(small_recipe(f"run.dir={folder}"))
        (error,) = found(report, "error")
        assert error.key == "run.dir" and str(folder) in error.message and why in error.message
        assert report.facts.preflight.step.hours > 0  # the rest is told all the same
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "recipe.toml"]


def test_a_file_system_that_is_read_only_is_an_error(small_recipe, tmp_path):
    small_recipe()
    rom = tmp_path / "rom"
    rom.mkdir()
    check = f"{sys.executable} -m salt_toolkit check {tmp_path / 'recipe.toml'} --preflight --set run.dir={rom}/runs"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"mount -t tmpfs -o ro none {rom} && {check}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "run.dir: the run cannot write to" in done.stdout and "Read-only file system" in done.stdout


@pytest.mark.parametrize(
    ("override", "key"),
    [("loader.prefetch=400", "loader.prefetch"), ("loader.ram_cache_mb=4000", "loader.ram_cache_mb")],
)
def test_check_alone_warns_of_more_clips_than_memory_holds(small_recipe, monkeypatch, override, key):
    monkeypatch.setattr(settings, "total_memory", lambda: 5_000_000)
    assert not found(check_recipe(small_recipe()), "warning")
    (warning,) = found(check_recipe(small_recipe(override)), "warning")
    assert warning.key == key and "0.005 GB of memory" in warning.message


def test_the_ring_of_batches_is_counted_whole(small_recipe):
    """Two prefetched batches of 4 clips of 4 x 16 x 16 x 3 bytes: six batches of memory."""
    facts = check_recipe(small_recipe()).facts
    assert facts.host_memory_gb == pytest.approx(6 * 4 * 4 * 16 * 16 * 3 / 1e9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(40.0, "40 s"), (720.0, "12 min"), (19_500.0, "5.4 h"), (400_000.0, "4.63 days")]
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


def test_the_command_leaves_nothing_behind(small_recipe, tmp_path):
    small_recipe()

    def salt(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "salt_toolkit", "check", str(tmp_path / "recipe.toml"), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = salt("--preflight", "--batches", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["preflight"]["batches"] == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.toml"]
    done = salt("--batches", "3")
    assert done.returncode == 2 and "no effect without --preflight" in done.stderr

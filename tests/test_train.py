"""Training: reproducible to the bit, resumable to the bit, and honest about what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from salt_toolkit.assemble import build_method, build_student
from salt_toolkit.errors import DataError, RunError, SaltError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.runs.directory import RunDirectory, load_student
from salt_toolkit.system.files import read_lines, writing
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.metrics import Meter, StepFile
from salt_toolkit.train.optimizer import build_optimizer, set_rates
from salt_toolkit.train.run import run_recipe

RECIPE = """
[run]
name = "small"
[clip]
frames = 4
stride = 1
size = 16
[dataset]
use = "video_folder"
[teacher]
use = "pixels"
patch = 8
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
dim = 24
depth = 2
heads = 3
patch = 8
drop_path = 0.2
[predictor]
use = "transformer"
dim = 24
depth = 1
heads = 2
[masker]
use = "random"
ratio = 0.5
[objective]
use = "mse"
target_norm = "channel"
calibration_clips = 8
[optimizer]
grad_clip = 1.0
[schedules.lr]
use = "warmup_cosine"
peak = 1e-2
floor = 1e-3
warmup_steps = 2
[schedules.weight_decay]
use = "linear"
start = 0.0
end = 0.1
[train]
max_steps = 12
batch_size = 4
log_every = 3
checkpoint_every = 5
[loader]
workers = 2
ram_cache_mb = 10
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory, write_video):
    root = tmp_path_factory.mktemp("videos")
    for number in range(18):
        write_video(root / "train" / "ab"[number % 2] / f"{number:02}.mp4", 7 * number)
    return root


@pytest.fixture
def recipe(tmp_path, videos, registry):
    def load(*overrides):
        path = tmp_path / "recipe.toml"
        path.write_text(RECIPE)
        settings = [f"run.dir={tmp_path / 'runs'}", f"dataset.root={videos}", *overrides]
        return load_recipe(path, registry, settings)

    return load


def weights(recipe):
    return load_file(RunDirectory.of(recipe).student)


def losses(recipe):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_lines(RunDirectory.of(recipe).metrics)]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_is_reproducible_to_the_bit_and_its_loss_falls(recipe):
    first, second = recipe("run.name=one"), recipe("run.name=two", "loader.workers=5", "loader.ram_cache_mb=0")
    outcome = run_recipe(first)
    run_recipe(second)
    assert (outcome.step, outcome.total_steps, outcome.stopped_by) == (12, 12, None)
    assert same(weights(first), weights(second))
    assert losses(first) == losses(second)
    assert [line[0] for line in losses(first)] == [3, 6, 9, 12]
    assert losses(first)[-1][1] < losses(first)[0][1]


def test_another_seed_gives_another_run(recipe):
    first, second = recipe("run.name=one"), recipe("run.name=two", "run.seed=1")
    run_recipe(first)
    run_recipe(second)
    assert not same(weights(first), weights(second))


def test_changing_the_predictor_leaves_the_students_first_weights_alone(recipe):
    first, second = build_student(recipe()), build_student(recipe("predictor.depth=2", "masker.ratio=0.75"))
    assert same(first.state_dict(), second.state_dict())


def test_accumulated_batches_make_the_gradient_of_one_large_batch(recipe):
    # Without position statistics and drop path, the mean of two halves is the whole.
    plain = ["student.drop_path=0.0", "train.max_steps=1", "schedules.lr.warmup_steps=0", "objective.use=l1"]
    large = recipe("run.name=large", "train.batch_size=8", *plain)
    small = recipe("run.name=small", "train.batch_size=4", "train.accumulate=2", *plain)
    for each in (large, small):
        run_recipe(each)
    (_, loss, norm), (_, other_loss, other_norm) = losses(large)[0], losses(small)[0]
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert norm == pytest.approx(other_norm, rel=1e-4)


def test_the_finished_student_loads(recipe):
    loaded = recipe()
    run_recipe(loaded)
    student = load_student(RunDirectory.of(loaded).path)
    assert same(student.state_dict(), weights(loaded))
    assert not student.training
    assert run_recipe(loaded) is None


def test_no_weight_decay_on_biases_and_norms(recipe):
    method = build_method(recipe(), total_steps=10)
    optimizer = build_optimizer(method, recipe().optimizer)
    set_rates(optimizer, lr=0.1, weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in checkpoints.owned_parameters(method).items():
        expected = 0.0 if name.endswith(".bias") or "norm" in name else 0.3
        assert decay[id(parameter)] == expected, name


def test_the_teacher_is_never_saved(recipe):
    loaded = recipe()
    run_recipe(loaded)
    saved = load_file(checkpoints.newest(RunDirectory.of(loaded).checkpoints).path / checkpoints.MODULES)
    assert {name.split(".")[0] for name in saved} == {"student", "predictor", "objective"}


# Resuming.


def start(recipe_, tmp_path, *arguments):
    """`salt run` in a process of its own."""
    path = tmp_path / "resolved.toml"
    path.write_text(recipe_.to_toml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "salt_toolkit", "run", str(path), *arguments]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def long_recipe(recipe):
    # Long enough that a busy machine has not finished it before the signal comes.
    return lambda name: recipe(f"run.name={name}", "train.max_steps=400", "train.checkpoint_every=40")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_like_one_that_never_stopped(long_recipe, tmp_path, number, code):
    straight, broken = long_recipe("straight"), long_recipe("broken")
    run_recipe(straight)
    directory = RunDirectory.of(broken)
    process = start(broken, tmp_path)
    wait_for(lambda: any(directory.checkpoints.glob("step-*")), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert not directory.student.exists()
    if number != signal.SIGKILL:
        assert "a checkpoint is saved, and the same command continues the run" in errors
        assert checkpoints.newest(directory.checkpoints).step == int(errors.split("after step ")[1].split()[0])
    resumed = checkpoints.newest(directory.checkpoints)
    assert 40 <= resumed.step < 400
    process = start(broken, tmp_path)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "done: 400 steps" in output
    assert same(weights(straight), weights(broken))
    assert losses(straight) == losses(broken)


def test_a_damaged_checkpoint_is_passed_over(recipe):
    loaded = recipe()
    run_recipe(loaded)
    folder = RunDirectory.of(loaded).checkpoints
    newest = checkpoints.newest(folder)
    assert newest.step == 12
    file = newest.path / checkpoints.MODULES
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert checkpoints.newest(folder).step == 10
    (folder / "step-00000010" / checkpoints.STATE).write_text("{")
    assert checkpoints.newest(folder) is None


def test_a_run_resumes_from_the_middle_with_the_metrics_of_an_unbroken_one(recipe):
    straight, broken = recipe("run.name=straight"), recipe("run.name=broken")
    run_recipe(straight)
    run_recipe(broken)
    directory = RunDirectory.of(broken)
    directory.student.unlink()
    newest = checkpoints.newest(directory.checkpoints)
    for file in newest.path.iterdir():
        file.unlink()
    newest.path.rmdir()
    assert checkpoints.newest(directory.checkpoints).step == 10
    outcome = run_recipe(broken)
    assert outcome.step == 12
    assert losses(straight) == losses(broken)
    assert same(weights(straight), weights(broken))


def test_another_recipe_in_the_same_directory_is_refused_with_the_keys(recipe):
    run_recipe(recipe())
    with pytest.raises(RunError, match=r"(?s)masker.ratio: was 0.5, now 0.75.*--restart"):
        run_recipe(recipe("masker.ratio=0.75"))
    assert run_recipe(recipe("loader.workers=1")) is None
    outcome = run_recipe(recipe("masker.ratio=0.75"), restart=True)
    assert outcome.step == 12
    assert len(list(RunDirectory.of(recipe()).path.parent.iterdir())) == 2


def test_metrics_have_no_line_twice_and_none_torn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with StepFile(path, done=0) as file:
        for step in (10, 20, 30):
            file.write({"step": step})
    with path.open("a") as torn:
        torn.write('{"step": 4')
    with StepFile(path, done=20) as file:
        file.write({"step": 30, "again": True})
    assert [line["step"] for line in read_lines(path)] == [10, 20, 30]
    assert read_lines(path)[-1]["again"]


def test_the_meter_carries_over_what_was_not_logged():
    meter = Meter()
    meter.add({"loss": [torch.tensor(1.0)]})
    carried = Meter(json.loads(json.dumps(meter.read())))
    carried.add({"loss": [torch.tensor(3.0)]})
    assert carried.means() == {"loss": 2.0}


# What goes wrong.


def test_bad_clips_are_recorded_and_the_run_goes_on(recipe, videos, tmp_path, write_video):
    root = tmp_path / "mixed"
    for path in sorted(videos.rglob("*.mp4")):
        target = root / path.relative_to(videos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    bad = {"train/a/00.mp4": b"", "train/b/01.mp4": b"<html>404</html>"}
    for name, content in bad.items():
        (root / name).write_bytes(content)
    write_video(root / "train" / "a" / "short.mp4", 9, frames=2)
    loaded = recipe(f"dataset.root={root}", "loader.max_bad_fraction=0.5")
    outcome = run_recipe(loaded)
    assert outcome.step == 12
    lines = [json.loads(line) for line in RunDirectory.of(loaded).bad_clips.read_text().splitlines()]
    assert len(lines) == outcome.num_bad_clips == 3
    assert all(line["path"].endswith(line["clip_id"]) and line["reason"] for line in lines)
    with pytest.raises(DataError, match="max_bad_fraction"):
        run_recipe(recipe("run.name=strict", f"dataset.root={root}", "loader.max_bad_fraction=0.1"))


def test_a_run_that_blows_up_stops_with_advice(recipe):
    with pytest.raises(RunError, match=r"not finite in 2 of the last 2 steps.*lower the learning rate"):
        run_recipe(recipe("schedules.lr.peak=1e30", "schedules.lr.floor=1e29", "train.max_skipped_steps=2"))


def test_a_run_that_learned_from_few_of_its_steps_leaves_no_student(recipe, capsys):
    loaded = recipe("schedules.lr.peak=1e30", "schedules.lr.floor=1e29", "train.max_steps=8")
    for _ in range(2):  # the same when it is called again
        with pytest.raises(RunError, match=r"not finite in \d of all 8 steps, so there is no student worth keeping"):
            run_recipe(loaded)
    assert not RunDirectory.of(loaded).student.exists()
    told = " ".join(capsys.readouterr().err.split())
    assert "steps skipped: their loss or gradient was not finite; lower the learning rate" in told


def test_a_closed_pipe_ends_what_is_said_and_not_the_run(recipe, tmp_path):
    loaded = recipe("train.log_every=1")
    path = tmp_path / "resolved.toml"
    path.write_text(loaded.to_toml())
    reading, written = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "salt_toolkit", "run", str(path)]
    done = subprocess.run(command, stdout=written, stderr=written, timeout=120, check=False)
    os.close(written)
    assert done.returncode == 0
    assert RunDirectory.of(loaded).student.exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Make room"), (errno.EROFS, "choose another place"), (errno.ENOTDIR, "choose another")],
)
def test_what_cannot_be_written_gets_advice_that_fits(tmp_path, number, advice):
    reason = os.strerror(number)
    with (
        pytest.raises(RunError, match=rf"x cannot be written \({reason}\)\. .*{advice}.*same command"),
        writing(tmp_path / "x"),
    ):
        raise OSError(number, reason)


def test_a_start_that_failed_can_be_mended_with_the_same_name(recipe, tmp_path):
    with pytest.raises(SaltError, match="nowhere"):
        run_recipe(recipe(f"dataset.root={tmp_path / 'nowhere'}", "masker.ratio=0.25"))
    assert run_recipe(recipe()).step == 12


@pytest.mark.parametrize("text", ["[run", "", None])
def test_a_run_whose_recipe_is_damaged_is_not_taken_for_another(small_recipe, text):
    recipe = small_recipe("train.max_steps=2")
    run_recipe(recipe)
    file = RunDirectory.of(recipe).recipe
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(RunError, match=r"recipe\.toml cannot be read|holds a run of another recipe"):
        run_recipe(recipe)


def test_a_recipe_that_cannot_work_starts_nothing(small_recipe):
    recipe = small_recipe("schedules.lr.use=constant", "schedules.lr.value=-0.5")
    with pytest.raises(RunError, match=r"the recipe cannot work:\n  schedules\.lr: is -0\.5 at step 0"):
        run_recipe(recipe)
    assert not RunDirectory.of(recipe).path.exists()

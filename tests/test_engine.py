"""What a three-day run meets: kills, full disks, damage, the end of its time, numbers that are none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from salt_toy.config import ProjectionConfig

from salt_toolkit import ModelCard
from salt_toolkit.assemble import build_student
from salt_toolkit.errors import DataError, RunError
from salt_toolkit.runs.directory import RunDirectory, load_student
from salt_toolkit.system.files import read_lines
from salt_toolkit.system.signals import StopRequests
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.average import WeightAverage
from salt_toolkit.train.guard import SkippedSteps
from salt_toolkit.train.loop import _Trainer
from salt_toolkit.train.processes import Processes
from salt_toolkit.train.run import run_recipe
from salt_toolkit.train.step import Stepper

SETTINGS = (
    "student.drop_path=0.1",
    "schedules.lr.use=warmup_cosine",
    "schedules.lr.peak=1e-2",
    "schedules.lr.floor=1e-3",
    "schedules.lr.warmup_steps=2",
    "train.log_every=7",
    "train.checkpoint_every=10",
)


@pytest.fixture
def recipe(small_recipe):
    return lambda *overrides: small_recipe(*SETTINGS, *overrides)


def resolved(recipe, tmp_path):
    path = tmp_path / f"{recipe.run.name}.toml"
    path.write_text(recipe.to_toml())
    return path


def weights(recipe):
    return load_file(RunDirectory.of(recipe).student)


def losses(recipe):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_lines(RunDirectory.of(recipe).metrics)]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def steps_on_disk(recipe):
    return sorted(int(path.name.removeprefix("step-")) for path in RunDirectory.of(recipe).checkpoints.glob("step-*"))


KILLER = """
import os, random, signal, sys, time
import torch
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.train import checkpoint
from salt_toolkit.train.run import run_recipe
from salt_toolkit.train.step import Stepper

torch.set_num_threads(1)
recipe = load_recipe(sys.argv[1], discover())
generator = random.Random(1)
step, save = Stepper.step, checkpoint.save_tensors

def slowly(function):
    def later(*arguments, **keywords):
        time.sleep(0.004)  # so that kills fall everywhere, also between the files of a checkpoint
        return function(*arguments, **keywords)
    return later

Stepper.step, checkpoint.save_tensors = slowly(step), slowly(save)
kills = 0
while kills < 20:
    child = os.fork()
    if not child:
        run_recipe(recipe)
        os._exit(0)
    time.sleep(generator.uniform(0.05, 0.9))
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    directory = RunDirectory.of(recipe)
    if directory.student.exists():  # too quick: back to where it was some steps ago
        directory.student.unlink()
        for path in sorted(directory.checkpoints.glob("step-*"))[-1:]:
            (path / checkpoint.STATE).write_text("{")
run_recipe(recipe)
"""


@pytest.mark.slow
def test_killed_twenty_times_and_the_same_to_the_bit(recipe, tmp_path):
    killed = recipe("train.max_steps=150", "train.ema=0.9")
    straight = recipe("run.name=straight", "train.max_steps=150", "train.ema=0.9")
    script = [sys.executable, "-c", KILLER, str(resolved(killed, tmp_path))]
    done = subprocess.run(script, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    torch.set_num_threads(1)
    run_recipe(straight)
    assert same(weights(straight), weights(killed))
    assert losses(straight) == losses(killed)
    assert [step for step, *_ in losses(killed)] == [*range(7, 150, 7), 150]
    assert not list(RunDirectory.of(killed).path.rglob("*.partial"))


def test_a_full_disk_keeps_what_is_there_and_the_run_goes_on_when_there_is_room(recipe, tmp_path):
    """On a real file system of one megabyte, in a mount namespace of its own."""
    straight, small = recipe("run.name=straight"), recipe("train.keep_every=10")
    disk, kept = Path(small.run.dir), tmp_path / "kept"
    disk.mkdir()
    shell = (
        f"mount -t tmpfs -o size=1m none {disk} && "
        f"({sys.executable} -m salt_toolkit run {resolved(small, tmp_path)} 2>&1; echo code $?; cp -r {disk} {kept})"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell],
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "code 1" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stdout and "The same command continues" in done.stdout
    assert "Traceback" not in done.stdout
    disk.rmdir()
    kept.rename(disk)
    found = checkpoints.newest(RunDirectory.of(small).checkpoints)
    assert found is not None and 10 <= found.step < 60
    torch.set_num_threads(1)
    run_recipe(small)
    run_recipe(straight)
    assert same(weights(straight), weights(small)) and losses(straight) == losses(small)


def test_short_of_room_older_checkpoints_go_first(recipe, monkeypatch):
    """The newest one is enough to go on from."""
    loaded = recipe("train.keep_checkpoints=9", "train.keep_every=30")
    save = checkpoints.save

    def no_room_for_many(folder, step, *arguments):
        if len(list(folder.glob("step-*"))) > 3:
            raise OSError(28, "No space left on device")
        return save(folder, step, *arguments)

    monkeypatch.setattr(checkpoints, "save", no_room_for_many)
    assert run_recipe(loaded).complete
    assert steps_on_disk(loaded) == [30, 40, 50, 60]


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(recipe, capsys):
    loaded = recipe()
    run_recipe(loaded)
    directory, before = RunDirectory.of(loaded), weights(loaded)
    directory.student.unlink()
    file = directory.checkpoints / "step-00000060" / checkpoints.OPTIMIZER
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    run_recipe(loaded)
    told = " ".join(capsys.readouterr().err.split())
    assert "step-00000060 is damaged (optimizer.safetensors does not match its checksum)" in told
    assert same(before, weights(loaded))


def test_a_damaged_checkpoint_never_counts_as_the_newest_again(recipe):
    loaded = recipe("train.keep_checkpoints=1", "train.keep_every=50")
    run_recipe(loaded)
    directory = RunDirectory.of(loaded)
    directory.student.unlink()
    (directory.checkpoints / "step-00000060" / checkpoints.STATE).write_text("{")
    assert run_recipe(loaded, max_hours=0.0).step == 50
    assert steps_on_disk(loaded) == [50]
    assert run_recipe(loaded).complete


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew_in_silence(recipe):
    loaded = recipe()
    run_recipe(loaded)
    directory = RunDirectory.of(loaded)
    directory.student.unlink()
    for path in checkpoints.paths(directory.checkpoints):
        (path / checkpoints.STATE).write_text("{")
    lines = directory.metrics.read_text()
    with pytest.raises(RunError, match=r"none of the checkpoints .* is complete: .*start over with --restart"):
        run_recipe(loaded)
    assert directory.metrics.read_text() == lines


def test_two_processes_of_their_own_cannot_train_in_one_directory(recipe):
    loaded = recipe()
    directory = RunDirectory.of(loaded)
    directory.path.mkdir(parents=True)
    other = os.open(directory.path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    for restart in (False, True):
        with pytest.raises(RunError, match="another process trains in"):
            run_recipe(loaded, restart=restart)
    os.close(other)
    assert run_recipe(loaded).complete


def test_bad_clips_of_a_start_that_never_trained_are_forgotten(recipe):
    loaded = recipe()
    directory = RunDirectory.of(loaded)
    directory.path.mkdir(parents=True)
    entries = [{"clip_id": f"train/{index}", "path": "nowhere", "reason": "a wrong path"} for index in range(30)]
    directory.bad_clips.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    assert run_recipe(loaded).num_bad_clips == 0


def test_what_nohup_ignores_stays_ignored(recipe, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as requests:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not requests.pending
            os.kill(os.getpid(), signal.SIGTERM)
            assert requests.received == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def test_checkpoints_that_stay(recipe):
    loaded = recipe("train.keep_checkpoints=1", "train.keep_every=20")
    run_recipe(loaded)
    assert steps_on_disk(loaded) == [20, 40, 60]


def test_a_run_whose_time_is_up_goes_on_next_time(recipe, tmp_path):
    straight, short = recipe("run.name=straight"), recipe()
    command = [sys.executable, "-m", "salt_toolkit", "run", str(resolved(short, tmp_path)), "--max-hours", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin"})
    assert done.returncode == 75, done.stderr
    assert "the time is up after step 0 of 60; a checkpoint is saved, and the same command continues" in done.stderr
    torch.set_num_threads(1)
    outcome = run_recipe(short, max_hours=1.0)
    run_recipe(straight)
    assert outcome.complete and same(weights(straight), weights(short))


def test_changes_that_are_safe_are_told_apart(recipe, capsys):
    loaded = recipe()
    run_recipe(loaded)
    with pytest.raises(RunError) as refused:
        run_recipe(recipe("masker.ratio=0.25", "loader.workers=1"))
    assert "loader.workers: was 2, now 1 (safe to change)" in str(refused.value)
    assert "masker.ratio: was 0.5, now 0.25\n" in str(refused.value)
    RunDirectory.of(loaded).student.unlink()
    run_recipe(recipe("train.log_every=5"))
    assert "changed since the run began: train.log_every: was 7, now 5" in capsys.readouterr().err


def test_a_run_of_an_older_version_goes_on(recipe):
    """Its recipe lacks the keys that came later; their defaults are what it did."""
    loaded = recipe()
    run_recipe(loaded)
    directory = RunDirectory.of(loaded)
    before = weights(loaded)
    directory.student.unlink()
    lines = directory.recipe.read_text().splitlines()
    directory.recipe.write_text("\n".join(line for line in lines if not line.startswith(("max_skipped", "masks_per"))))
    assert run_recipe(loaded).complete
    assert same(before, weights(loaded))


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(recipe, tmp_path):
    first, other = recipe("run.name=first"), recipe("run.name=other", "run.seed=5")
    run_recipe(first)
    run_recipe(other)
    path = RunDirectory.of(first).path
    taught = recipe("run.name=taught", "teacher.use=run", f"teacher.path={path}")
    run_recipe(taught)
    RunDirectory.of(taught).student.unlink()
    RunDirectory.of(other).student.replace(RunDirectory.of(first).student)
    with pytest.raises(RunError, match=r"teacher had the fingerprint \w+, and has \w+ now. Bring those back"):
        run_recipe(taught)


# Numbers that are none.


def poison(monkeypatch, *steps):
    """Makes the loss of some steps infinite, and so their gradients NaN."""
    forward = Stepper.forward_and_backward
    seen = {"step": 0}

    def wrecked(self, batch, scalars, *, last):
        seen["step"] += 1
        if seen["step"] in steps:
            batch = batch.with_tensors(poison=torch.ones(1))
        return forward(self, batch, scalars, last=last)

    from salt_objectives.objective import LatentLoss

    loss = LatentLoss.forward

    def poisoned(self, predicted, targets):
        return loss(self, predicted, targets) * (math.inf if seen["step"] in steps else 1.0)

    monkeypatch.setattr(Stepper, "forward_and_backward", wrecked)
    monkeypatch.setattr(LatentLoss, "forward", poisoned)


def test_a_step_that_is_not_finite_changes_nothing_and_names_its_clips(recipe, monkeypatch):
    poison(monkeypatch, 5, 23)
    loaded = recipe("train.checkpoint_every=1", "train.keep_checkpoints=60", "train.max_steps=30")
    outcome = run_recipe(loaded)
    assert outcome.num_skipped_steps == 2
    directory = RunDirectory.of(loaded)
    skipped = read_lines(directory.skipped_steps)
    assert [line["step"] for line in skipped] == [5, 23]
    assert all(len(line["clip_ids"]) == 4 and line["loss"] == "inf" for line in skipped)
    for file in (checkpoints.MODULES, checkpoints.OPTIMIZER):
        before, after = (load_file(directory.checkpoints / f"step-0000000{step}" / file) for step in (4, 5))
        assert same(before, after)
    lines = read_lines(directory.metrics)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["num_skipped_steps"] == 2
    assert "NaN" not in directory.metrics.read_text() and "Infinity" not in directory.metrics.read_text()
    # After a resume the count goes on, and the steps done again are written once.
    directory.student.unlink()
    for step in range(20, 31):
        (directory.checkpoints / f"step-{step:08d}" / checkpoints.STATE).write_text("{")
    poison(monkeypatch, 4)  # the 23rd again
    assert run_recipe(loaded).num_skipped_steps == 2
    assert [line["step"] for line in read_lines(directory.skipped_steps)] == [5, 23]


@pytest.mark.parametrize(("count", "steps", "refused"), [(0, 1, False), (2, 4, False), (3, 5, True), (4, 4, True)])
def test_a_run_that_learned_from_less_than_half_of_its_steps_is_refused(recipe, tmp_path, count, steps, refused):
    with SkippedSteps(tmp_path / "x.jsonl", done=0, limit=99, processes=Processes(recipe())) as skipped:
        skipped.count = count
        with pytest.raises(RunError, match="no student") if refused else contextlib.nullcontext():
            skipped.refuse_most(steps)


def test_too_many_skipped_steps_stop_the_run(recipe, monkeypatch):
    poison(monkeypatch, *range(8, 60, 3))
    with pytest.raises(RunError, match=r"\(4 in the whole run; train.max_skipped_steps = 3\); lower the learning rate"):
        run_recipe(recipe("train.max_skipped_steps=3", "train.log_every=1"))


def test_latents_that_are_not_finite_spoil_no_running_statistics(recipe, monkeypatch):
    """They would be in every checkpoint from then on."""
    from salt_toy.models import ProjectionTeacher

    forward, seen = ProjectionTeacher.forward, {"batches": 0}

    def wrecked(self, batch):
        seen["batches"] += 1
        return forward(self, batch) * (math.nan if seen["batches"] == 9 else 1.0)

    monkeypatch.setattr(ProjectionTeacher, "forward", wrecked)
    settings = [
        "objective.statistics=running",
        "objective.calibration_clips=256",
        "train.max_steps=30",
        "train.ema=0.9",
    ]
    outcome = run_recipe(recipe(*settings))
    assert outcome.complete and outcome.num_skipped_steps == 1
    assert all(tensor.isfinite().all() for tensor in weights(recipe(*settings)).values())


# Averages, modes, and what else a recipe may ask for.


def test_the_average_is_the_equation(recipe):
    """a <- d a + (1 - d) w, with d = min(decay, (1 + n) / (10 + n))."""
    module = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = WeightAverage({"module": module}, 0.5)
    expected = 0.0
    for step in range(1, 12):
        torch.nn.init.constant_(module.weight, float(step))
        average.update(step, torch.zeros(()))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.tensors()["module.weight"].flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_a_run_with_an_average_leaves_it_and_the_last_weights(recipe):
    plain, averaged = recipe("run.name=plain"), recipe("train.ema=0.9")
    run_recipe(plain)
    run_recipe(averaged)
    directory = RunDirectory.of(averaged)
    assert same(load_file(directory.last("student")), weights(plain))  # averaging changes nothing in training
    assert not same(weights(averaged), weights(plain))
    first = dict(build_student(averaged).named_parameters())
    distance = {
        name: sum((tensor - first[key]).square().sum() for key, tensor in found.items() if key in first)
        for name, found in (("last", load_file(directory.last("student"))), ("average", weights(averaged)))
    }
    assert distance["average"] < distance["last"]
    assert same(load_student(directory.path).state_dict(), weights(averaged))


def test_what_the_memory_does_not_hold_is_told_before_the_run_begins(recipe, capsys):
    loaded = recipe("train.max_steps=5", "loader.ram_cache_mb=100000000")
    run_recipe(loaded)
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: loader" in told and "Lower loader" in told


def test_terms_of_the_teachers_weights_are_told_before_the_run_begins(recipe, capsys, monkeypatch):
    monkeypatch.setattr(ProjectionConfig, "card", lambda self: ModelCard("cc-by-nc-4.0", "none"))
    run_recipe(recipe("train.max_steps=5"))
    told = " ".join(capsys.readouterr().err.split())
    assert "note: teacher: its weights are cc-by-nc-4.0: they are for non-commercial use only" in told


def test_deterministic_algorithms_are_asked_for(recipe):
    run_recipe(recipe("train.deterministic=true", "train.max_steps=5"))
    try:
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_fault_in_a_data_sets_code_names_the_clip_and_the_thread(recipe, monkeypatch):
    from salt_toy.data import Squares

    def broken(self, index, view):
        raise KeyError("width")

    monkeypatch.setattr(Squares, "read", broken)
    with pytest.raises(DataError, match=r"reading the clip 'train/\d+' failed in salt-read_\d, .*: KeyError: 'width'"):
        run_recipe(recipe())


def test_metrics_say_how_the_run_is_doing(recipe):
    loaded = recipe("train.max_steps=30")
    run_recipe(loaded)
    first, *_, last = read_lines(RunDirectory.of(loaded).metrics)
    assert {"clips_per_second", "data_wait_share", "read_ms", "grad_norm", "lr", "hours_left"} <= first.keys()
    assert first["hours_left"] > 0 and last["hours_left"] == 0
    assert json.loads(json.dumps(first)) == first


def test_a_trainer_waits_for_the_device_only_when_it_looks(recipe, monkeypatch):
    """Reading a number from a GPU stops the host until all work is done."""
    reads = {"count": 0}
    item = torch.Tensor.tolist

    def counted(self):
        reads["count"] += 1
        return item(self)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    monkeypatch.setattr(torch.Tensor, "item", counted)
    looks = {"count": 0}
    log = _Trainer._log

    def looked(self, *arguments):
        looks["count"] += 1
        return log(self, *arguments)

    monkeypatch.setattr(_Trainer, "_log", looked)
    run_recipe(recipe("train.log_every=20", "train.checkpoint_every=1000"))
    per_look = 8  # one stack for each metric, and the skipped flags
    assert looks["count"] == 3
    assert reads["count"] <= per_look * (looks["count"] + 1)

"""Several processes train as one does: the same losses, one set of files, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from salt_toolkit.cache.fill import fill_cache
from salt_toolkit.cache.plan import CacheOptions
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.system.files import read_lines
from salt_toolkit.train.run import run_recipe

pytestmark = pytest.mark.slow

SETTINGS = (
    "run.name=one",
    "predictor.depth=2",
    "objective.calibration_clips=256",  # the default: there is no calibration
    "objective.statistics=running",
    "optimizer.grad_clip=1.0",
    "train.max_steps=12",
    "train.accumulate=2",
    "train.log_every=1",
    "train.checkpoint_every=5",
    "train.ema=0.9",
)

TORCHRUN = "torch.distributed.run --nproc_per_node 2 --master_addr 127.0.0.1 --master_port"
# As on a machine with two GPUs; where there are none, the processes find that out for themselves.
ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port"
)


@pytest.fixture
def recipe(small_recipe):
    return lambda *overrides: small_recipe(*SETTINGS, *overrides)


def start(recipe, *words, launcher=TORCHRUN, script=("-m", "salt_toolkit")):
    """`salt` in two processes."""
    path = Path(recipe.run.dir) / f"{recipe.run.name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(recipe.to_toml())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *launcher.split(), str(port), *script, *words, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def launched(recipe, *words, code=0, **how):
    process = start(recipe, *words, **how)
    output, _ = process.communicate(timeout=200)
    assert (process.returncode == 0) == (code == 0), output
    return output


def lines(recipe, *names):
    return [[line[name] for name in names] for line in read_lines(RunDirectory.of(recipe).metrics)]


def assert_alike(first, second, *, names=("loss", "grad_norm", "explained_variance", "cosine")):
    """All but rounding: the order in which gradients are summed is another.

    Weights without a true gradient, such as the biases of keys, follow that rounding: AdamW takes whole steps.
    """
    torch.testing.assert_close(lines(first, "step", *names), lines(second, "step", *names), rtol=2e-4, atol=2e-5)
    directories = [RunDirectory.of(recipe) for recipe in (first, second)]
    for files in ([each.student for each in directories], [each.last("student") for each in directories]):
        one, two = (load_file(file) for file in files)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("launcher", "parallel"), [(ACCELERATE, "ddp"), (TORCHRUN, "fsdp2")])
def test_two_processes_train_as_one_does_and_one_goes_on_from_two(recipe, launcher, parallel):
    one, two = recipe(), recipe("run.name=two", f"train.parallel={parallel}")
    run_recipe(one)
    output = launched(two, "run", launcher=launcher)
    assert output.count("done: 12 steps") == 1 and "2 processes" in output
    assert [line[0] for line in lines(two, "step")] == list(range(1, 13))
    assert_alike(one, two)
    # One process goes on from step 10 of two, and two from step 10 of one.
    for recipe_, resume in ((two, run_recipe), (one, lambda again: launched(again, "run", launcher=launcher))):
        directory = RunDirectory.of(recipe_)
        directory.student.unlink()
        shutil.rmtree(directory.checkpoints / "step-00000012")
        resume(recipe_)
    assert_alike(one, two)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(recipe):
    output = launched(recipe("train.batch_size=5"), "run", code=1)
    assert "train.batch_size = 5 cannot be shared evenly by 2 processes; choose a multiple of 2" in output


def test_a_signal_to_the_launcher_saves_a_checkpoint_and_the_run_goes_on(recipe):
    one, two = recipe("train.max_steps=150"), recipe("train.max_steps=150", "run.name=two")
    run_recipe(one)
    process = start(two, "run")
    folder = RunDirectory.of(two).checkpoints
    end = time.monotonic() + 100
    while not any(folder.glob("step-*")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode and "a checkpoint is saved, and the same command continues the run" in output
    assert not RunDirectory.of(two).student.exists()
    assert "done: 150 steps" in launched(two, "run")
    torch.testing.assert_close(lines(one, "step", "loss"), lines(two, "step", "loss"), rtol=2e-4, atol=2e-5)


SABOTAGE = """
import sys
from salt_toolkit.cli.app import main
from salt_toolkit.errors import BadClip
import salt_toy.models, salt_toy.data

{wrecked}
main()
"""

BAD_CLIPS = """
from salt_toy.data import Squares as Dataset
read = Dataset.read
def wrecked(self, index, view):
    if index % 7 == 3:
        raise BadClip(f"clip {index}", "it is bad")
    return read(self, index, view)
Dataset.read = wrecked
"""

NO_NUMBERS = """
from salt_toy.models import ProjectionTeacher as Teacher
forward = Teacher.forward
def wrecked(self, batch):
    latents = forward(self, batch)
    bad = [clip_id == "train/7" for clip_id in batch.clip_ids]
    latents[bad] = float("nan")
    return latents
Teacher.forward = wrecked
"""


def test_bad_clips_of_one_process_do_not_hang_the_other(recipe, tmp_path):
    script = tmp_path / "bad.py"
    script.write_text(SABOTAGE.format(wrecked=BAD_CLIPS))
    loaded = recipe("train.max_steps=10")
    assert "done: 10 steps" in launched(loaded, "run", script=(str(script),))
    directory = RunDirectory.of(loaded)
    found = [read_lines(directory.bad_clips_of(rank)) for rank in (0, 1)]
    assert all(found) and {entry["reason"] for part in found for entry in part} == {"it is bad"}


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_both(recipe, tmp_path):
    script = tmp_path / "nan.py"
    script.write_text(SABOTAGE.format(wrecked=NO_NUMBERS))
    loaded = recipe("train.max_steps=10", "objective.statistics=calibration", "objective.target_norm=layer")
    assert "done: 10 steps" in launched(loaded, "run", script=(str(script),))
    directory = RunDirectory.of(loaded)
    skipped = read_lines(directory.skipped_steps)
    assert 1 <= len(skipped) <= 3
    assert all("train/7" in line["clip_ids"] and len(line["clip_ids"]) == 8 for line in skipped)
    assert all(torch.isfinite(weight).all() for weight in load_file(directory.student).values())
    assert [line["step"] for line in read_lines(directory.metrics)] == list(range(1, 11))


LAYER = "teachers/teacher"


def test_two_processes_share_a_cache(recipe, tmp_path):
    cached = [f"cache.dir={tmp_path / 'two'}", "cache.shard_mb=1", "cache.dtype=fp32", "teacher.dim=4000"]
    two, one = recipe(*cached), recipe(*cached, f"cache.dir={tmp_path / 'one'}")
    output = launched(two, "cache", launcher=ACCELERATE)
    assert output.count("clips to compute") == 1
    whole = fill_cache(one, CacheOptions()).directory
    shards = sorted(path.name for path in (whole / LAYER / "shards").iterdir())
    assert len(shards) > 3
    for name in shards:
        both = (tmp_path / "two" / "train" / LAYER / "shards" / name, whole / LAYER / "shards" / name)
        assert both[0].read_bytes() == both[1].read_bytes()
    assert len(json.loads((whole / "ids" / "000000.json").read_text())["ids"]) == 40

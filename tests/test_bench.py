"""`salt bench`: every cell is measured, the choice follows the stated rule, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jsonschema
import pytest
import torch

from salt_toolkit.errors import DataError, RunError
from salt_toolkit.measure import bench, peak, throughput
from salt_toolkit.measure.bench import BenchOptions, bench_file, default_batch_sizes, recommend, run_bench, write_bench
from salt_toolkit.measure.bench_report import LoaderRow, Settings, StepRow, bench_schema, plain_bench
from salt_toolkit.measure.bench_text import render_bench
from salt_toolkit.measure.trial import Trial, is_out_of_memory
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.runs.machine import Machine
from salt_toolkit.train.step import Stepper

QUICK = BenchOptions(batch_sizes=(2, 4), workers=(1, 2), seconds=0.05)


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    monkeypatch.setitem(peak.MATRIX_SIDE, "cpu", 256)


def step_row(size, rate):
    return StepRow(size, clips_per_second=rate and float(rate))


def loader_row(workers, rate):
    return LoaderRow(workers, clips_per_second=float(rate), read_ms=1.0, busy_cpus=1.0, clips=8)


def test_every_cell_is_measured(small_recipe, tmp_path):
    recipe = small_recipe()
    found = run_bench(recipe, QUICK)
    assert [row.batch_size for row in found.step] == [2, 4]
    assert [row.workers for row in found.loader] == [1, 2]
    for row in (*found.step, *found.loader, found.both):
        numbers = {name: value for name, value in vars(row).items() if name not in ("why", "data_wait_share")}
        assert all(value is not None and value > 0 for value in numbers.values()), row
    for row in found.step:
        assert row.clips_per_second == pytest.approx(1000 * row.batch_size / row.ms_per_step)
        work = 1e9 * (found.train_step_gflops_per_clip + found.teacher_gflops_per_clip)
        assert row.flop_share == pytest.approx(row.clips_per_second * work / (1e12 * found.flop_limit_tflops))
    assert 0 <= found.both.data_wait_share <= 1
    assert found.recommended == recommend(found.step, found.loader)

    write_bench(found, bench_file(recipe))
    assert json.loads(bench_file(recipe).read_text()) == plain_bench(found)
    assert os.listdir(tmp_path / "runs") == ["small.bench.json"]
    text = render_bench(found)
    assert text.count("<- best") == 2


def test_a_step_is_as_many_batches_as_the_recipe_says(small_recipe):
    trial = Trial(small_recipe("train.accumulate=3"), Machine(torch.device("cpu"), bf16=False))
    _ = trial.method
    found = throughput.time_steps(trial, trial.one_batch(4, 1), 0.0, min_steps=2)
    assert (found.clips, found.steps) == (12, 2)
    assert found.clips_per_second == pytest.approx(24 / found.seconds)


def test_measuring_trains_nothing(small_recipe):
    trial = Trial(small_recipe(), Machine(torch.device("cpu"), bf16=False))
    before = {name: tensor.clone() for name, tensor in trial.method.student.state_dict().items()}
    throughput.time_steps(trial, trial.one_batch(4, 1), 0.0, min_steps=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trial.method.student.state_dict().items())


@pytest.mark.parametrize(
    ("steps", "loaders", "expected"),
    [
        ([(8, 100), (16, 150), (32, 140)], [(1, 200), (2, 400)], (16, 1)),
        # Within 2 % of the fastest the smallest; just outside of it not.
        ([(8, 98.1), (16, 100), (32, 99)], [(1, 200)], (8, 1)),
        ([(8, 97.9), (16, 100), (32, 101)], [(1, 200)], (16, 1)),
        # The smallest loader that is 20 % faster; without one, the fastest.
        ([(8, 100)], [(1, 60), (2, 119), (4, 121), (8, 300)], (8, 4)),
        ([(8, 100)], [(1, 60), (2, 110), (4, 90)], (8, 2)),
        ([(8, 100), (16, None)], [(1, 200)], (8, 1)),
    ],
)
def test_the_best_settings_by_the_stated_rule(steps, loaders, expected):
    found = recommend([step_row(*row) for row in steps], [loader_row(*row) for row in loaders])
    assert found == Settings(*expected)


def test_nothing_is_recommended_where_nothing_fits():
    assert recommend([step_row(8, None)], [loader_row(1, 100)]) is None


def test_sizes_around_the_recipes():
    assert default_batch_sizes(32, 1000) == [8, 16, 32, 64, 128]
    assert default_batch_sizes(2, 1000) == [1, 2, 4, 8]
    assert default_batch_sizes(32, 70) == [8, 16, 32, 64]


def test_a_batch_that_does_not_fit_is_a_row_and_the_last(small_recipe, monkeypatch):
    """Steps beyond 8 clips raise what a GPU without room raises."""
    honest = Stepper.forward_and_backward

    def cramped(self, batch, scalars, *, last):
        if len(batch.clip_ids) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        honest(self, batch, scalars, last=last)

    monkeypatch.setattr(Stepper, "forward_and_backward", cramped)
    found = run_bench(small_recipe("train.batch_size=8"), BenchOptions((8, 16, 32), (1,), 0.02))
    assert [row.batch_size for row in found.step] == [8, 16]
    assert found.step[1].why == "out of memory"
    assert found.step[1].clips_per_second is None
    assert found.recommended.batch_size == 8
    assert "16  out of memory" in render_bench(found)

    assert "were not measured" not in render_bench(found)

    nothing = run_bench(small_recipe("train.batch_size=16"), BenchOptions((16, 32), (1,), 0.02))
    assert nothing.recommended is None and nothing.both is None
    assert "No batch size from 16 on fits into memory" in render_bench(nothing)


def test_the_recipes_own_settings_are_measured_beside_those_that_are_named(small_recipe):
    """Else the advice would compare the best with something that nobody has measured."""
    found = run_bench(small_recipe("train.batch_size=8", "loader.workers=3"), BenchOptions((2, 64), (1,), 0.02))
    assert [row.batch_size for row in found.step] == [2, 8, 64]
    assert [row.workers for row in found.loader] == [1, 3]
    assert found.step[2].why == "the data set has 40 clips"
    assert "No batch size" not in render_bench(found)


def test_the_advice_fits_the_reason(small_recipe):
    found = run_bench(small_recipe(), QUICK)
    both = Settings(batch_size=4, workers=1)
    assert "Larger batch sizes than 4 were not measured, and may be faster" in render_bench(
        replace(found, recommended=both)
    )
    slower = replace(found, recommended=replace(both, batch_size=2))
    assert "were not measured" not in render_bench(slower)  # the fastest is not the largest
    assert "were not measured" not in render_bench(replace(found, recommended=both, num_clips=7))

    too_few = replace(found, recommended=None, both=None, num_clips=1)
    assert "No batch size fits: the data set has 1 clips; choose smaller --batch-sizes." in render_bench(too_few)


def test_a_batch_that_would_overflow_the_host_is_not_tried(small_recipe, monkeypatch):
    """A CPU's memory that overflows ends the process without a word."""
    monkeypatch.setattr(bench, "resident_memory", lambda: 0)
    monkeypatch.setattr(bench, "available_memory", lambda: 1)
    found = run_bench(small_recipe(), BenchOptions((2, 4), (1,), 0.02))
    assert [row.why is None for row in found.step] == [True, False]
    assert "not tried: it would take about" in found.step[1].why


def test_a_batch_larger_than_the_data_set_says_so(small_recipe):
    found = run_bench(small_recipe(), BenchOptions((4, 64), (1,), 0.02))
    assert found.step[1].why == "the data set has 40 clips"


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ..."))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_reading_does_not_come_from_the_cache_in_memory(small_recipe, monkeypatch):
    from salt_toy.data import Squares

    reads = []
    honest = Squares.read
    monkeypatch.setattr(Squares, "read", lambda self, index, view: reads.append(index) or honest(self, index, view))
    trial = Trial(small_recipe("loader.ram_cache_mb=100"), Machine(torch.device("cpu"), bf16=False))
    for _ in range(3):
        found, _ = throughput.time_loading(trial, 2, batch_size=4, num_batches=5)
        assert found.clips == 16
    assert len(reads) == 60 == trial.num_read
    # The first 40 are the whole data set: each reading goes on where the one before ended.
    assert sorted(reads[:40]) == list(range(40))


def test_several_processes_are_refused(small_recipe, monkeypatch):
    class Two:
        count = 2

    monkeypatch.setattr("salt_toolkit.measure.trial.Processes", lambda recipe: Two())
    with pytest.raises(RunError, match="without it"):
        Trial(small_recipe(), Machine(torch.device("cpu"), bf16=False))


@pytest.mark.parametrize(
    ("name", "bf16", "tf32"),
    [
        ("NVIDIA H200", 989.4, 494.7),
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7),
        ("NVIDIA H100 PCIe", 756.0, 378.0),
        ("NVIDIA A100-SXM4-80GB", 312.0, 156.0),
        ("NVIDIA GeForce RTX 5090", 209.5, 104.8),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA L40S", 362.0, 183.0),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA GeForce RTX 5090 D", None, None),
        ("Tesla T4", None, None),
    ],
)
def test_the_published_limits(name, bf16, tf32):
    for precision, teraflops in (("bf16", bf16), ("tf32", tf32), ("fp32", None)):
        expected = None if teraflops is None else pytest.approx(teraflops * 1e12)
        assert peak.published_flops(name, precision) == expected


def test_the_limit_of_vit_b_on_an_h200_is_the_known_one():
    """562.7 GFLOP of a training step of ViT-B: 1758 clips a second from a cache, by the published arithmetic."""
    assert round(peak.published_flops("NVIDIA H200", "bf16") / 562.7e9) == 1758


def test_an_unknown_device_is_measured():
    found = peak.peak_of(Machine(torch.device("cpu"), bf16=False))
    left = torch.randn(256, 256)
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - begin)
    assert 0.1 < found.flops / (2 * 256**3 / min(seconds)) < 10
    assert "fp32 matrix product" in found.source


# The command.


def salt(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "salt_toolkit", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def test_the_command_writes_json_and_no_run_directory(small_recipe, tmp_path):
    recipe = small_recipe()
    quick = ["--batch-sizes", "2,4", "--workers", "1", "--seconds", "0.05", "--set", f"run.dir={tmp_path / 'runs'}"]
    done = salt("bench", tmp_path / "recipe.toml", *quick, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(bench_file(recipe).read_text())
    jsonschema.validate(json.loads(done.stdout), bench_schema())
    assert not RunDirectory.of(recipe).path.exists()
    elsewhere = tmp_path / "figures.json"
    done = salt("bench", tmp_path / "recipe.toml", *quick, "--out", elsewhere)
    assert "Step alone" in done.stdout and "[loader]" in done.stdout
    assert json.loads(elsewhere.read_text())["step"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch-sizes", "8,x"], 2, "'8,x' is no list of whole numbers"),
        (["--workers", "0"], 2, "'0' is no list of whole numbers"),
        (["--set", "masker.ratio=2"], 1, "masker.ratio"),
        (["--set", "dataset.use=video_folder", "--set", "dataset.root=/nowhere"], 1, "/nowhere"),
        (["--seconds", "0", "--batch-sizes", "2", "--workers", "1", "--out", "/proc/x.json"], 1, "--out"),
    ],
)
def test_mistakes_end_in_a_message(small_recipe, tmp_path, arguments, code, message):
    small_recipe()
    if "dataset.use=video_folder" in arguments:
        (tmp_path / "recipe.toml").write_text((tmp_path / "recipe.toml").read_text().replace("clips = 40\n", ""))
    done = salt("bench", tmp_path / "recipe.toml", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr


def test_ctrl_c_ends_it_quietly(small_recipe, tmp_path):
    small_recipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "salt_toolkit", "bench", str(tmp_path / "recipe.toml"), "--seconds", "60"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stderr is not None
    while "loader alone" not in (line := process.stderr.readline()) and "step alone" not in line:
        assert line, "it ended early"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.toml"]


def test_a_data_set_smaller_than_any_batch_is_told(small_recipe):
    with pytest.raises(DataError, match="fewer than one batch"):
        run_bench(small_recipe("dataset.clips=3"), QUICK)

"""The ``salt`` command as a user meets it: in a process of its own, judged by what it prints and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from salt_toolkit import __version__

ROOT = Path(__file__).parents[1]
BASE = "recipes/ssv2_vitb.toml"
SALT = (sys.executable, "-m", "salt_toolkit")
HEAVY = ("torch", "timm", "transformers", "av", "decord", "sklearn", "matplotlib", "scipy")


@pytest.fixture
def salt(tmp_path):
    """Runs ``salt`` in the repository's root, with an empty cache of checkpoints."""

    def run(*arguments, cwd=ROOT):
        return subprocess.run(
            [*SALT, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def recipe_paths():
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / "recipes").rglob("*.toml"))]


# Speed, and what it rests on.


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 0.4), (["check", BASE], 1.5)], ids=["help", "check"])
def test_quick_answers(salt, arguments, seconds):
    """The best of several runs, for other processes only ever make one slower."""
    best = float("inf")
    for _ in range(25):
        start = time.perf_counter()
        assert salt(*arguments).returncode == 0
        best = min(best, time.perf_counter() - start)
        if best <= seconds:
            return
    pytest.fail(f"salt {' '.join(arguments)} took {best:.2f} s at best, more than {seconds} s")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["check", BASE], ["plugins"], ["schema"]], ids=" ".join
)
def test_what_trains_nothing_imports_nothing_heavy(arguments):
    script = (
        "import sys\n"
        "from salt_toolkit.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")


# salt check.


def test_check_prints_one_json_object_for_each_recipe_with_the_published_figures(salt):
    done = salt("check", "--json", BASE, "recipes/vit_tiny_fast.toml", "--set", "dataset.root=nowhere")
    assert done.returncode == 0
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["recipe"], second["recipe"]) == (BASE, "recipes/vit_tiny_fast.toml")
    facts = first["facts"]
    assert (facts["tokens"], facts["visible_tokens"], facts["target_tokens"]) == (1568, 392, 1176)
    assert facts["train_step_gflops_per_clip"] == pytest.approx(550.8, abs=0.05)
    assert facts["teacher_gflops_per_clip"] == pytest.approx(360.7, abs=0.05)
    assert first["ok"]
    assert {finding["severity"] for finding in first["findings"]} == {"missing", "note"}


def test_check_ends_with_0_on_what_is_missing_and_strict_does_not(salt):
    missing = [BASE, "--set", "dataset.root=nowhere"]
    relaxed, strict = salt("check", *missing), salt("check", "--strict", *missing)
    assert relaxed.stdout == strict.stdout
    assert "ok, but not ready on this machine" in relaxed.stdout
    assert "hf download OpenGVLab/VideoMAEv2-Base" in relaxed.stdout
    assert (relaxed.returncode, strict.returncode) == (0, 1)


TOY = """
[run]
name = "toy"
[clip]
frames = 4
size = 16
[dataset]
use = "toy_squares"
[method]
use = "toy_dense"
[teacher]
use = "toy_projection"
[student]
use = "toy_mixer"
[objective]
use = "toy_log_cosh"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 2
batch_size = 4
"""


def test_strict_fails_on_a_warning_and_passes_without_one(salt, tmp_path):
    toy = tmp_path / "toy.toml"
    toy.write_text(TOY)
    assert salt("check", "--strict", toy).returncode == 0
    useless = ["--set", "clip.crop_scale=[0.5, 1.0]"]
    assert salt("check", toy, *useless).returncode == 0
    done = salt("check", "--strict", toy, *useless)
    assert done.returncode == 1
    assert "warning     clip.crop_scale: has no effect" in done.stdout


def test_there_are_all_recipes():
    assert len(recipe_paths()) >= 7


@pytest.mark.parametrize("options", [[], ["--deep"]], ids=["check", "deep"])
def test_every_recipe_passes(salt, options):
    done = salt("check", "--json", *options, *recipe_paths())
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == len(recipe_paths())
    assert [report for report in reports if not report["ok"]] == []
    assert done.returncode == 0


WRONG = f'extends = "{ROOT / BASE}"\n[run]\nname = "wrong"\n[student]\nmodle = "vit"\n[masker]\nratio = 1.5\n'


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_recipe_is_a_list_of_sentences(salt, tmp_path, command):
    recipe = tmp_path / "wrong.toml"
    recipe.write_text(WRONG)
    done = salt(command, recipe)
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"{recipe}:5: student.modle: unknown key; did you mean 'model'?" in printed
    assert f"{recipe}:7: masker.ratio: found 1.5; expected less than 1" in printed
    assert "Traceback" not in printed
    assert not (ROOT / "runs" / "wrong").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check", "no/such.toml"], "there is no such recipe"),
        (["run", "recipes"], "is a directory"),
        (["check", BASE, "--set", "nonsense"], "expected key=value"),
        (["check", BASE, "--set", "teacher.use=videomay"], "did you mean 'videomae' or 'videomae2'?"),
    ],
    ids=["no file", "directory", "override", "name"],
)
def test_mistakes_are_sentences(salt, arguments, text):
    done = salt(*arguments)
    assert done.returncode == 1
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_stops_a_run_with_what_to_do(salt, tmp_path):
    done = salt("run", BASE, "--set", "dataset.root=/nowhere/ssv2", "--set", f"run.dir={tmp_path}")
    assert done.returncode == 1
    assert "the folder /nowhere/ssv2 does not exist. Set dataset.root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["trian"], ["check", "--frobnicate", BASE], ["check"]], ids=" ".join)
def test_a_wrong_command_line_ends_with_2(salt, arguments):
    done = salt(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "Traceback" not in done.stderr


# The other commands.


def test_plugins_as_json(salt):
    rows = json.loads(salt("plugins", "--json").stdout)
    offered = {(c["kind"], c["name"]) for row in rows for c in row["components"]}
    assert {("teacher", "videomae"), ("student", "timm_vit"), ("masker", "multiblock")} <= offered
    for row in rows:
        assert row["error"] is None, row
        assert row["distribution"] and row["version"] and row["module"]


def test_reports_follow_their_schema(salt, tmp_path):
    """Also that of a recipe which cannot be read, and of one of which little is known."""
    schema = json.loads(salt("schema", "--report").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    (tmp_path / "torn.toml").write_text("torn [")
    (tmp_path / "toy.toml").write_text(TOY)
    done = salt("check", "--json", BASE, tmp_path / "torn.toml", tmp_path / "toy.toml")
    for line in done.stdout.splitlines():
        jsonschema.validate(json.loads(line), schema)
        assert set(json.loads(line)) == set(schema["properties"]) == set(schema["required"])
    assert len(done.stdout.splitlines()) == 3


def test_the_schema_is_a_schema(salt):
    schema = json.loads(salt("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"run", "clip", "teacher", "schedules", "extends"} <= schema["properties"].keys()


def test_demo_data_goes_on_and_refuses_what_is_not_its_own(salt, tmp_path):
    small = ["--train", "8", "--validation", "2"]
    first = salt("demo-data", tmp_path / "data", *small)
    assert (first.returncode, first.stdout) == (0, f"10 videos in {tmp_path / 'data'}\n")
    videos = sorted((tmp_path / "data").rglob("*.mp4"))
    assert len(videos) == 10
    content = videos[3].read_bytes()
    videos[3].unlink()
    assert salt("demo-data", tmp_path / "data", *small).stdout == f"10 videos in {tmp_path / 'data'}, 1 of them new\n"
    assert videos[3].read_bytes() == content
    again = salt("demo-data", tmp_path / "data", *small)
    assert again.stdout == f"10 videos in {tmp_path / 'data'}, all there already\n"
    other = salt("demo-data", tmp_path / "data", "--train", "9", "--validation", "2")
    assert other.returncode == 1
    assert "another demo set: it was made with --train 8, not 9; name another directory" in other.stderr

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    done = salt("demo-data", foreign, *small)
    assert done.returncode == 1
    assert "holds no demo set" in done.stderr
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_the_help_of_the_demo_names_the_recipes_that_it_wants(salt):
    said = " ".join(salt("demo", "--help").stdout.replace("│", " ").split())
    assert "demo_teacher.toml and demo_student.toml" in said


def test_an_interrupt_before_training_leaves_no_traceback(tmp_path):
    """The recipe is a pipe that nobody writes to, so the command is surely waiting when the interrupt comes."""
    pipe = tmp_path / "recipe.toml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [*SALT, "run", str(pipe)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    with pipe.open("w"):  # opens when the command has opened the other end
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_version_is_told(salt):
    done = salt("--version")
    assert (done.returncode, done.stdout) == (0, f"salt_toolkit {__version__}\n")

"""Plugins behind the command line: what they print stays off standard output, and their commands are contained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHATTY = """
import atexit, os, sys
from salt_toolkit import Component, hookimpl
import salt_toy
from salt_toy.config import MixerConfig, ProjectionConfig

def chat(where):
    print("CHATTER", where)
    os.write(1, b"CHATTER from C\\n")

chat("import")
atexit.register(chat, "exit")

class Teacher(ProjectionConfig):
    def token_spec(self, clip):
        chat("token_spec")
        return super().token_spec(clip)

    @classmethod
    def known_checkpoints(cls):
        chat("known_checkpoints")
        return super().known_checkpoints()

class Student(MixerConfig):
    def missing(self):
        chat("missing")
        return super().missing()

def build_teacher(config, *, clip):
    chat("build")
    return salt_toy.build_projection(config, clip=clip)

@hookimpl
def salt_teachers():
    chat("hook")
    yield Component("chatty_teacher", Teacher, build_teacher, "Prints.")

@hookimpl
def salt_students():
    yield Component("chatty_student", Student, salt_toy.build_mixer, "Prints.")
"""

RECIPE = """
[run]
name = "chatty"
[clip]
frames = 4
size = 16
[dataset]
use = "toy_squares"
[method]
use = "toy_dense"
[teacher]
use = "chatty_teacher"
[student]
use = "chatty_student"
[objective]
use = "toy_log_cosh"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 2
batch_size = 4
"""

COMMANDS = """
import typer
print("CHATTER")
def hello(name: str = "you"):
    "Greets."
    print(f"hello {name}")
def fails():
    raise ZeroDivisionError("in the plugin")
def denied():
    open("/proc/1/mem/x")
group = typer.Typer(help="Several.")
@group.command()
def one():
    print("one")
@group.command()
def two():
    print("two")
nonsense = 3
"""


@pytest.fixture
def salt(tmp_path):
    """Runs ``salt`` with the plugins that `install` has put on its path."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "salt_toolkit", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def install(folder: Path, name: str, source: str, entry_points: str) -> None:
    site = folder / "site"
    (site / f"{name}-1.0.dist-info").mkdir(parents=True)
    (site / f"{name}.py").write_text(source)
    (site / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (site / f"{name}-1.0.dist-info" / "entry_points.txt").write_text(entry_points)


QUICK_BENCH = ("--json", "--batch-sizes", "4", "--workers", "1", "--seconds", "0")


@pytest.mark.parametrize(
    ("arguments", "places"),
    [
        (["check", "recipe.toml", "--json"], ("import", "hook", "token_spec", "missing")),
        (["check", "recipe.toml", "--json", "--deep"], ("build",)),
        (["check", "recipe.toml", "--json", "--preflight", "--batches", "2"], ("build",)),
        (["bench", "recipe.toml", *QUICK_BENCH], ("build",)),
        (["plugins", "--json"], ("hook",)),
        (["teachers", "--json"], ("known_checkpoints",)),
        (["schema"], ("hook",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_a_plugin_prints_never_reaches_standard_output(salt, tmp_path, arguments, places):
    install(tmp_path, "chatty", CHATTY, "[salt_toolkit]\nchatty = chatty\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    done = salt(*arguments)
    assert "Traceback" not in done.stderr
    assert "CHATTER" not in done.stdout
    assert json.loads(done.stdout)
    assert all(f"CHATTER {place}" in done.stderr for place in (*places, "exit"))
    assert "CHATTER from C" in done.stderr


def test_standard_output_that_cannot_be_written_is_a_sentence(salt, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("chatty_", "toy_").replace("toy_teacher", "toy_projection"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "salt_toolkit", "check", "no.toml"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "salt: standard output: No space left on device. Make room on that disk, or choose another.\n",
    )


@pytest.fixture
def commands(tmp_path):
    points = "".join(f"{name} = extra:{name}\n" for name in ("hello", "fails", "denied", "group", "nonsense", "absent"))
    install(tmp_path, "extra", COMMANDS, f"[salt_toolkit.commands]\n{points}lost = no_such_module:x\n")


def test_a_plugins_commands_are_commands_of_salt(salt, commands):
    help_ = salt("--help")
    assert help_.returncode == 0 and "Greets." in help_.stdout and "Several." in help_.stdout
    assert "nonsense" not in help_.stdout and "CHATTER" not in help_.stdout
    assert salt("hello", "--name", "Ada").stdout == "hello Ada\n"
    assert salt("group", "two").stdout == "two\n"
    assert "demo" in help_.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nonsense", "expected a function or a typer.Typer, found 3"),
        ("absent", "AttributeError: module 'extra' has no attribute 'absent'"),
        ("lost", "No module named 'no_such_module'"),
    ],
)
def test_a_broken_command_says_why_and_breaks_nothing_else(salt, commands, name, why):
    done = salt(name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"salt: the command '{name}' (" in done.stderr and why in done.stderr
    assert "Traceback" not in done.stderr
    row = next(row for row in json.loads(salt("plugins", "--json").stdout) if row["plugin"] == name)
    assert why in row["error"] and row["distribution"] == "extra"
    assert "broken: " in salt("plugins").stdout


def test_a_users_mistake_is_a_sentence_and_a_plugins_is_traced(salt, commands):
    denied = salt("denied")
    assert denied.returncode == 1 and "Traceback" not in denied.stderr
    assert "\nsalt: /proc/1/mem/x: " in denied.stderr
    fails = salt("fails")
    assert fails.returncode == 1 and "Traceback" in fails.stderr
    assert fails.stderr.splitlines()[-1].endswith(
        "made a mistake: ZeroDivisionError: in the plugin; see above, and tell its authors"
    )
    assert "the plugin extra made a mistake" in fails.stderr


def test_a_command_that_two_packages_provide_is_used_from_neither(salt, tmp_path, commands):
    install(tmp_path, "other", COMMANDS, "[salt_toolkit.commands]\nhello = other:hello\nrun = other:hello\n")
    done = salt("hello")
    assert done.returncode == 1 and "extra:hello" in done.stderr and "other:hello" in done.stderr
    assert "Trains a recipe" in salt("run", "--help").stdout  # the toolkit's own command counts

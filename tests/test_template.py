"""What the docs tell a plugin's author to do is done here, command by command, without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, cwd, site=None):
    """Runs a command, with a folder of installed packages before the others; gives what it printed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(site or "")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(folder, site):
    """``pip install`` into a folder of its own, so that this environment stays as it is."""
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", site, folder, cwd=folder)


def listed(site, cwd):
    """What ``salt plugins`` says, by plugin."""
    rows = json.loads(run(sys.executable, "-m", "salt_toolkit", "plugins", "--json", cwd=cwd, site=site))
    assert len({row["plugin"] for row in rows}) == len(rows)
    return {row["plugin"]: row for row in rows}


@pytest.mark.slow
def test_copying_the_template_as_its_readme_says_gives_a_working_plugin(tmp_path):
    readme = (ROOT / "plugins" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)
    copying, _, rest = block.partition("pip install -e .\n")
    assert rest == "salt plugins\npytest tests\n"  # what the rest of this test does
    repository, mine, site = tmp_path / "repository", tmp_path / "salt-mine", tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "plugins" / "toy", repository / "plugins" / "toy", ignore=ignored)
    run("bash", "-euc", copying, cwd=repository)
    install(mine, site)
    rows = listed(site, tmp_path)
    assert (rows["mine"]["distribution"], rows["mine"]["error"]) == ("salt-mine", None)
    assert rows["toy"]["distribution"] == "salt-toolkit"
    toys = [(each["kind"], each["name"].replace("toy", "mine")) for each in rows["toy"]["components"]]
    assert [(each["kind"], each["name"]) for each in rows["mine"]["components"]] == toys
    assert not [row["plugin"] for row in rows.values() if row["error"] and "mine" in row["error"]]
    printed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=mine, site=site)
    assert re.search(r"^\d\d+ passed", printed, flags=re.MULTILINE), printed


@pytest.mark.slow
def test_a_bundled_plugin_may_also_be_installed_alone(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    folder = shutil.copytree(ROOT / "plugins" / "toy", tmp_path / "toy", ignore=ignored)
    install(folder, tmp_path / "site")
    assert listed(tmp_path / "site", tmp_path)["toy"]["error"] is None


def write_the_plugin_of_the_docs(folder):
    """Every file that the page shows, under the name that stands before it."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    shown = r"`((?:\w+/)?\w+\.(?:py|toml))`(?:(?!```).)*?\n\n```(?:python|toml)\n(.*?)```"
    files = dict(re.findall(shown, page.partition("pytest tests")[0], flags=re.DOTALL))
    (tree,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert sorted(Path(name).name for name in files) == sorted(re.findall(r"\w+\.\w+", tree))
    for name, source in files.items():
        file = folder / ("tests" if name.startswith("test_") else "") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)


def test_the_teacher_of_the_docs_keeps_the_contract(tmp_path):
    write_the_plugin_of_the_docs(tmp_path)
    printed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path, site=tmp_path)
    assert re.search(r"^\d\d passed", printed, flags=re.MULTILINE), printed


@pytest.mark.slow
def test_the_plugin_of_the_docs_can_be_installed(tmp_path):
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    # What the rest of this test does, though with a folder of its own in place of this environment.
    assert re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL) == [
        "pip install -e .\nsalt plugins\n",
        "pytest tests\n",
    ]
    mine, site = tmp_path / "my_plugin", tmp_path / "site"
    write_the_plugin_of_the_docs(mine)
    install(mine, site)
    (row,) = [row for name, row in listed(site, tmp_path).items() if name == "my_plugin"]
    assert (row["distribution"], row["error"]) == ("my-plugin", None)
    assert [(each["kind"], each["name"]) for each in row["components"]] == [("teacher", "edges")]
    shutil.rmtree(mine / "my_package")  # what is tested is what was installed
    printed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=mine, site=site)
    assert re.search(r"^\d\d passed", printed, flags=re.MULTILINE), printed

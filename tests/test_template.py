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


def test_the_teacher_of_the_docs_keeps_the_contract(tmp_path):
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"`(my_package/\w+\.py)` (?:(?!```).)*?\n\n```python\n(.*?)```", page, flags=re.DOTALL))
    assert sorted(files) == ["my_package/__init__.py", "my_package/config.py", "my_package/models.py"]
    (files["test_edges.py"],) = re.findall(r"```python\n([^`]*class TestEdges.*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_package").mkdir()
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    printed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".", cwd=tmp_path, site=tmp_path)
    assert re.search(r"^\d\d passed", printed, flags=re.MULTILINE), printed

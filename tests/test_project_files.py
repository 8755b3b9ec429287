"""The files about the project: how to cite it, what runs before a commit, and the versions that it asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import salt_toolkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.lower().replace("_", "-").split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
)
DECLARED = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]


def test_the_citation_is_of_this_version():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert found["cff-version"] == "1.2.0" and found["type"] == "software" and found["message"]
    assert (found["title"], found["license"]) == ("salt_toolkit", PROJECT["license"])
    assert found["version"] == salt_toolkit.__version__
    assert all(author.keys() == {"name"} for author in found["authors"]) and found["authors"]  # entities, not persons


def test_what_runs_before_a_commit_comes_with_the_developers_environment():
    found = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in found["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in found["repos"]} == {"local"}  # nothing is fetched
    assert {hook["language"] for hook in hooks} == {"system"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in hooks:
        folder, _, program = hook["entry"].split()[0].rpartition("/")
        assert folder == ".venv/bin" and f"$(BIN)/{program}" in makefile


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_every_dependency_has_a_lower_bound_and_a_pin_within_its_bounds(requirement):
    bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    assert len(bounds) == 1
    pin = PINS[requirement.name.lower().replace("_", "-")]
    assert requirement.specifier.contains(pin), pin
    assert Version(bounds[0]) <= Version(pin)

"""The walls of the house: one door for plugins, one direction for imports, one list of what there is."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
PACKAGES = sorted(f"salt_{folder.name}" for folder in PLUGINS)


def project_of(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_plugin_folder_is_a_distribution():
    folders = sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir() and path.name != "__pycache__")
    assert folders == PLUGINS
    assert len(PLUGINS) >= 9


def test_the_root_declares_exactly_the_plugins_own_entry_points():
    union: dict[str, dict[str, str]] = {}
    for folder in PLUGINS:
        for group, own in project_of(folder)["project"]["entry-points"].items():
            assert union.setdefault(group, {}).keys().isdisjoint(own)
            union[group] |= own
    assert PROJECT["project"]["entry-points"] == union
    assert sorted(union) == ["salt_toolkit", "salt_toolkit.commands"]


def test_the_wheel_holds_exactly_the_core_and_the_plugins():
    packages = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "plugins").glob("*/salt_*") if path.is_dir())
    assert sorted(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == [*packages, "salt_toolkit"]


def test_a_wheel_unpacked_elsewhere_runs_and_finds_its_recipes(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    script = "from salt_demo.story import bundled_recipes as b; print(b())"
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    recipes = Path(found.stdout.strip())
    assert recipes.is_relative_to(tmp_path)
    assert {path.name for path in recipes.iterdir()} == {path.name for path in (ROOT / "recipes").glob("*.toml")}


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_folder_can_be_copied_and_cannot_be_uploaded(folder):
    found = project_of(folder)
    package = f"salt_{folder.name}"
    assert found["build-system"] == PROJECT["build-system"]
    assert found["project"]["name"] == f"salt-{folder.name}"
    assert found["project"]["requires-python"] == PROJECT["project"]["requires-python"]
    assert "Private :: Do Not Upload" in found["project"]["classifiers"]
    points = found["project"]["entry-points"]
    assert points.get("salt_toolkit", {folder.name: package}) == {folder.name: package}
    commands = points.get("salt_toolkit.commands", {})
    assert all(value.startswith(f"{package}.") for value in commands.values())
    assert "salt_toolkit" in points or commands
    assert found["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [package]
    assert (folder / package / "__init__.py").is_file()
    assert (folder / "README.md").is_file()
    assert list((folder / "tests").glob("test_*.py"))


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_asks_for_what_the_root_asks_for(folder):
    """Whoever installs the one wheel has every library that any bundled plugin names, in the same versions."""
    ours = {*PROJECT["project"]["dependencies"], PROJECT["project"]["name"]}
    assert set(project_of(folder)["project"]["dependencies"]) <= ours


def test_tools_know_every_plugin():
    linter = PROJECT["tool"]["importlinter"]
    assert sorted(linter["root_packages"]) == sorted([*PACKAGES, "salt_toolkit"])
    contracts = {contract["name"]: contract for contract in linter["contracts"]}
    assert sorted(contracts["The core imports no plugin"]["forbidden_modules"]) == PACKAGES
    assert sorted(contracts["Plugins do not import one another"]["modules"]) == PACKAGES
    (checked,) = [o for o in PROJECT["tool"]["pytest"]["ini_options"]["addopts"] if "jaxtyping-packages" in o]
    assert set(PACKAGES) <= set(checked.partition("=")[2].split(","))
    paths = [str(path.relative_to(ROOT)) for folder in PLUGINS for path in (folder, *folder.glob("tools"))]
    assert PROJECT["tool"]["pyright"]["extraPaths"] == paths


def test_imports_keep_their_direction():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_the_core_has_its_place_in_the_layers():
    (layers,) = [c["layers"] for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    placed = {part.strip() for layer in layers for part in layer.replace("|", ":").split(":")}
    modules: set[str] = set()
    for path in (ROOT / "salt_toolkit").iterdir():
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and not path.stem.startswith("__"):
            name = f"salt_toolkit.{path.stem}"
            inner = {f"{name}.{file.stem}" for file in path.glob("*.py") if not file.stem.startswith("__")}
            # The modules of a package that spans several layers are placed one by one.
            modules |= inner if inner & placed else {name}
    assert modules == placed


def public_modules() -> set[str]:
    """What docs/plugins.md allows plugins to import."""
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    listed = page.partition("## What a plugin may import")[2].partition("\n## ")[0]
    return set(re.findall(r"`(salt_toolkit(?:\.[a-z]+)?)`", listed))


def test_the_root_holds_what_a_plugin_may_import_and_little_else():
    core = ROOT / "salt_toolkit"
    root = {f"salt_toolkit.{path.stem}" for path in core.glob("*.py") if not path.stem.startswith("__")}
    assert root - public_modules() == {"salt_toolkit.discovery"}
    assert all((core / name.partition(".")[2]).is_dir() for name in public_modules() - root - {"salt_toolkit"})


def test_bundled_plugins_import_what_any_plugin_may():
    used: set[str] = set()
    for source in (ROOT / "plugins").glob("*/salt_*/**/*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("salt_toolkit"):
                used.add(".".join((node.module or "").split(".")[:2]))
    assert used - public_modules() == set()


def test_plugins_use_nothing_private_of_the_core():
    private: list[str] = []
    sources = sorted((ROOT / "plugins").glob("*/salt_*/**/*.py"))
    assert len(sources) >= 20
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "salt_toolkit":
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                private += [f"{source.name}: {name}" for name in names if name.startswith("_")]
    assert private == []


@pytest.mark.parametrize("package", [*PACKAGES, "salt_toolkit"])
def test_an_import_is_light(package):
    """A plugin's hooks and configs come without the libraries that its build functions need."""
    heavy = ["av", "decord", "matplotlib", "sklearn", "timm", "torch", "torchvision", "transformers"]
    code = f"import sys, {package}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

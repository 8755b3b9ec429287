"""The documentation says what the program does: keys, hooks, options, recipes, transcripts and links."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from salt_toolkit import component, contracts, geometry, hookspecs
from salt_toolkit.cli.app import app
from salt_toolkit.cli.cache_commands import FILL
from salt_toolkit.kinds import KINDS
from salt_toolkit.recipe import load_recipe
from salt_toolkit.recipe.core_sections import CORE_SECTIONS
from salt_toolkit.registry import Registry

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "plugins/*.md", "plugins/*/*.md", "recipes/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
MANUAL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


SECTIONS = CORE_SECTIONS


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# Tables of keys.


def table_of(model: type[BaseModel]) -> list[str]:
    """A config's keys as the pages show them, one row of a Markdown table each."""
    properties = model.model_json_schema()["properties"]
    rows = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        if field.default is None:
            default = "absent"
        takes = _takes(properties[name])
        rows.append(f"| `{name}` | {takes} | {default} | {_escaped(field.description or '')} |")
    return rows


def _takes(schema: dict) -> str:
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    if len(options) > 1:
        return " or ".join(_takes(option) for option in options)
    (schema,) = options
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array" and "prefixItems" in schema:
        return f"{schema['maxItems']} {_takes(schema['prefixItems'][0])}s"
    if schema["type"] == "array":
        return f"several {_takes(schema['items'])}s"
    if schema["type"] == "object":
        return f"a table of {_takes(schema['additionalProperties'])}"
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return names[schema["type"]]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def section_of(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    parts = re.split(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert heading in found, f"{page} has no heading {heading!r}"
    return found[heading]


def rows_of(section: str) -> list[str]:
    return [line for line in section.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_table_of_a_core_section_is_the_models(name):
    assert rows_of(section_of("docs/recipes.md", f"`[{name}]`")) == table_of(SECTIONS[name])


def test_the_tables_of_the_bundled_components_are_the_models(registry: Registry):
    bundled = [p for kind in registry.kinds for p in registry.of_kind(kind) if _is_documented(p.plugin)]
    headings = re.findall(r"^### (.*)$", text_of("docs/components.md"), flags=re.MULTILINE)
    assert sorted(headings) == sorted(f"{p.kind} `{p.component.name}`" for p in bundled)
    for provided in bundled:
        section = section_of("docs/components.md", f"{provided.kind} `{provided.component.name}`")
        assert rows_of(section) == table_of(provided.component.config), f"{provided.kind} {provided.component.name}"
        assert _escaped(provided.component.summary) in section


def _is_documented(plugin) -> bool:
    """Whether it is one of ours; the template's components stand in its own README."""
    return (ROOT / "plugins" / plugin.name / "pyproject.toml").is_file() and plugin.name != "toy"


def test_the_keys_that_a_resumed_run_may_change_are_those_that_say_so(registry: Registry):
    listed = section_of("docs/runs.md", "Continuing a run")
    free = {f"{name}.{key}" for name, section in SECTIONS.items() for key in getattr(section, "free", ())}
    movable = {
        f"{p.kind}.{key}"
        for kind in registry.kinds
        for p in registry.of_kind(kind)
        for key in p.component.config.movable
    }
    told = set(re.findall(r"`((?:cache|dataset|loader|run|teacher|train)\.\w+)`", listed))
    assert told == free | movable


# Hooks and commands.


def test_the_table_of_kinds_is_the_records():
    sections = {"one": "`[{0}]`", "named": "`[{0}s.<name>]`", "either": "`[{0}]` or `[{0}s.<name>]`"}
    rows = []
    for kind in KINDS.values():
        context = ", ".join(f"`{name}`" for name in kind.context)
        built = kind.contract.removeprefix("salt_toolkit.").replace(":", ".")
        section = sections[kind.section].format(kind.name)
        rows.append(f"| `{kind.name}` | {section} | {kind.summary} | {context} | `{built}` |")
        assert kind.built().__name__ == built.rpartition(".")[2]
    assert rows_of(section_of("docs/plugins.md", "The kinds")) == rows


def test_every_hook_is_described():
    hooks = {name for name in vars(hookspecs) if name.startswith("salt_")}
    written = text_of("docs/plugins.md") + text_of("docs/design.md")
    assert hooks == set(re.findall(r"\bsalt_(?:" + "|".join(name[5:] for name in hooks) + r")\b", written))


def commands() -> dict[str, set[str]]:
    """Every command of ``salt`` with its options; ``salt cache RECIPE`` is short for a command of its own."""
    found: dict[str, set[str]] = {}
    salt = typer.main.get_command(app)
    context = salt.make_context("salt", [], resilient_parsing=True)
    for name in salt.list_commands(context):
        command = salt.get_command(context, name)
        for word, inner in getattr(command, "commands", {"": command}).items():
            called = name if word in ("", FILL) else f"{name} {word}"
            options = (option for parameter in inner.params for option in parameter.opts)
            found[called] = {option for option in options if option.startswith("--")}
    return found


def command_of(words: list[str]) -> str:
    """Which command these words call."""
    return next((name for name in (" ".join(words[:2]), *words[:1]) if name in commands()), " ".join(words[:1]))


def test_the_readme_lists_every_command_and_option():
    rows = rows_of(section_of("README.md", "Commands"))
    listed = {}
    for row in rows:
        command, options = row.strip("|").split("|")[:2]
        listed[command_of(command.replace("`", "").split()[1:])] = set(re.findall(r"--[a-z-]+", options))
    assert listed == commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_uses_a_command_or_an_option_that_is_not_there(page):
    known = commands()
    for arguments in _calls(page.read_text(encoding="utf-8")):
        if not arguments or arguments[0].startswith("--"):
            assert set(arguments) <= {"--help"}
            continue
        command = command_of(arguments)
        assert command in known, f"salt {command}"
        options = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert options <= known[command] | {"--help"}, arguments


def _calls(text: str) -> Iterator[list[str]]:
    """The arguments of every ``salt`` call in code of a page."""
    for block in re.findall(r"^```(?:console|sh|bash)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if match := re.match(r"(?:\$ )?(?:\S*/)?salt( .*)?$", line):
                yield shlex.split(match[1] or "", comments=True)
    for inline in re.findall(r"`salt ([^`]+)`", text):
        yield inline.replace("...", "x").split()


# Blocks of code.


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the comment just above it."""

    language: str
    text: str
    mark: str


def blocks_of(page: Path) -> list[Block]:
    fenced = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
    found = fenced.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["text"], match["mark"] or "") for match in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_whole_recipe_on_a_page_loads(page, registry, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for number, block in enumerate(block for block in blocks_of(page) if block.language == "toml"):
        if "[run]" in block.text and "wrong" not in block.mark:
            file = tmp_path / f"{number}.toml"
            file.write_text(block.text, encoding="utf-8")
            load_recipe(file, registry)


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: str(page.relative_to(ROOT)))
def test_transcripts_are_what_the_commands_print(page, tmp_path):
    """Runs the blocks under ``<!-- executed -->``, with the files under ``<!-- file: name -->``, in their order.

    A line ``...`` stands for any lines; blank lines do not count.
    """
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for block in blocks_of(page):
        if block.mark.startswith("file: "):
            (tmp_path / block.mark.removeprefix("file: ").split()[0]).write_text(block.text, encoding="utf-8")
        elif block.mark == "executed":
            for command, expected in _transcript(block.text):
                printed = _printed(command, tmp_path)
                assert re.fullmatch(_pattern(expected), printed), f"{page.name}: $ {command}\n{printed}"


def _transcript(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def _pattern(expected: str) -> str:
    lines = expected.splitlines(keepends=True)
    return "".join("(?:.*\n)*" if line.strip() == "..." else re.escape(line) for line in lines)


def _printed(command: str, folder: Path) -> str:
    name, *arguments = shlex.split(command)
    assert name in ("salt", "ls"), f"a page executes {name}"
    if name == "ls":
        return "".join(f"{entry.name}\n" for entry in sorted((folder / arguments[0]).iterdir()))
    done = subprocess.run(
        [sys.executable, "-m", "salt_toolkit", *arguments],
        cwd=folder,
        # An empty cache of checkpoints, so that what is missing is missing everywhere.
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stdout
    return "".join(line for line in done.stdout.splitlines(keepends=True) if line.strip())


def test_the_metrics_page_lists_every_metric(tmp_path, registry):
    from salt_toolkit.train.run import run_recipe

    (block,) = [block for block in blocks_of(ROOT / "README.md") if block.mark.startswith("file: ")]
    recipe = tmp_path / "first.toml"
    recipe.write_text(block.text, encoding="utf-8")
    smallest = [
        f"run.dir={tmp_path}",
        "dataset.use=toy_squares",
        "clip.size=16",
        "train.max_steps=1",
        "train.batch_size=2",
        "schedules.lr.warmup_steps=0",
        "student.depth=1",
    ]
    run_recipe(load_recipe(recipe, registry, smallest))
    line = json.loads((tmp_path / "first" / "metrics.jsonl").read_text().splitlines()[0])
    listed = set(re.findall(r"^\| `(\w+)`", section_of("docs/runs.md", "Metrics"), flags=re.MULTILINE))
    assert listed == set(line) | {"device_memory_gb"}  # that one needs a GPU


# Links, and the promise of the design page.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_every_named_file_is_there(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name} links to {target}"
    for name in re.findall(r"`((?:salt_toolkit|plugins|recipes|tests|docs|benchmarks)/[\w./-]+)`", prose):
        assert (ROOT / name).exists() or (page.parent / name).exists(), f"{page.name} names {name}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached_from_the_index():
    index = text_of("docs/index.md")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_an_author_of_a_teacher_reads_less_than_300_lines():
    read = [
        inspect.getdoc(hookspecs) or "",
        inspect.getsource(hookspecs.salt_teachers),
        *(inspect.getsource(thing) for thing in (component.Config, component.TeacherConfig, component.Component)),
        *(inspect.getsource(thing) for thing in (geometry.Grid, geometry.TokenSpec)),
        inspect.getdoc(contracts) or "",
        *(inspect.getsource(thing) for thing in (contracts.ClipBatch, contracts.Teacher)),
        *_example_of_a_teacher(),
    ]
    num_lines = sum(len(text.splitlines()) for text in read)
    assert num_lines < 300
    claimed = re.search(r"reads about (\d+) lines", text_of("docs/design.md"))
    assert claimed is not None and abs(int(claimed[1]) - num_lines) <= 15, num_lines


def _example_of_a_teacher() -> list[str]:
    """What the template says of its teacher: config, build function, hook and module."""
    wanted = {"ProjectionConfig", "build_projection", "salt_teachers", "patches_of", "ProjectionTeacher"}
    found = {}
    for name in ("config.py", "__init__.py", "models.py"):
        source = text_of(f"plugins/toy/salt_toy/{name}")
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in wanted:
                found[node.name] = ast.get_source_segment(source, node) or ""
    assert found.keys() >= {"ProjectionConfig", "salt_teachers", "ProjectionTeacher"}
    return list(found.values())

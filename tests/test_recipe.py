"""Recipes: typed, complete, and every mistake told in the user's words."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from types import ModuleType

import jsonschema
import pytest
from pydantic import Field, model_validator

from salt_toolkit import Component, GeometryError, MaskerConfig, hookimpl
from salt_toolkit.errors import RecipeError
from salt_toolkit.recipe import load_recipe, recipe_schema
from salt_toolkit.recipe.section import read_section
from salt_toolkit.registry import Registry

SMALL = """
[run]
name = "small"
[clip]
frames = 8
size = 32
[dataset]
use = "video_folder"
root = "/data"
[teacher]
use = "pixels"
patch = 8
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
dim = 48
depth = 2
heads = 3
patch = 8
[predictor]
use = "transformer"
dim = 32
depth = 1
heads = 2
[masker]
use = "random"
ratio = 0.75
[objective]
use = "mse"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 10
"""


@pytest.fixture
def load(tmp_path, registry):
    def load_text(text, *overrides):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(path, registry, overrides)

    return load_text


def problems(load, text, *overrides):
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return [str(problem) for problem in caught.value.problems]


def test_a_recipe_becomes_typed_configs(load):
    recipe = load(SMALL)
    assert recipe.clip.frames == 8
    assert recipe.student.config.dim == 48
    assert recipe.method.use == "masked_latent"
    assert recipe.schedules["lr"].config.value == 1e-3
    assert "salt-toolkit" in str(recipe.teacher.provided)


def test_settings_of_the_method_need_not_name_the_usual_one(load):
    for recipe in (load(SMALL, "method.masks_per_clip=2"), load(SMALL + "\n[method]\nmasks_per_clip = 2\n")):
        assert recipe.method.use == "masked_latent"
        assert recipe.method.config.masks_per_clip == 2
    assert "method" in problems(load, "method = 3\n" + SMALL)[0]


def test_the_resolved_recipe_is_itself_the_same_recipe(load):
    recipe = load(SMALL, "masker.ratio=0.5")
    again = load(recipe.to_toml())
    assert again.resolved() == recipe.resolved()
    assert again.to_toml() == recipe.to_toml()
    assert tomllib.loads(recipe.to_toml())["masker"]["ratio"] == 0.5
    # Every default is written out.
    assert tomllib.loads(recipe.to_toml())["optimizer"]["eps"] == 1e-8


def test_all_problems_come_at_once_with_file_line_and_the_nearest_name(load):
    text = (
        SMALL.replace("ratio = 0.75", "ratios = 0.75")
        .replace("frames = 8", 'frames = "8"')
        .replace('use = "mse"', 'use = "msee"')
        .replace("[train]", "[trian]")
    )
    found = problems(load, text)
    lines = text.splitlines()
    assert len(found) == 5
    joined = "\n".join(found)
    assert (
        f"recipe.toml:{lines.index('ratios = 0.75') + 1}: masker.ratios: unknown key; did you mean 'ratio'?" in joined
    )
    frames_line = lines.index('frames = "8"') + 1
    assert f'recipe.toml:{frames_line}: clip.frames: found "8"; expected a valid integer' in joined
    use_line = lines.index('use = "msee"') + 1
    assert f"recipe.toml:{use_line}: objective.use:" in joined
    assert "'mse'" in joined
    assert f"recipe.toml:{lines.index('[trian]') + 1}: trian: unknown section; did you mean 'train'?" in joined
    assert "train: found neither of epochs and max_steps" in joined


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps = 10", "max_steps = 10\nepochs = 1", "found both of epochs and max_steps"),
        ("max_steps = 10", "max_steps = 0", "train.max_steps: found 0; expected greater than or equal to 1"),
        ("max_steps = 10", "max_steps = true", "train.max_steps: found true"),
        ("max_steps = 10", "max_steps = nan", "train.max_steps: found"),
        ("value = 1e-3", "value = 2026-01-01", "schedules.lr.value: found"),
        ("[schedules.lr]", "[schedules.lrr]", "schedules.lr: missing"),
        ('[run]\nname = "small"', "", "run.name: missing (Name of the run"),
        ('name = "small"', 'name = "a/b"', 'run.name: found "a/b"; expected letters, digits, dots, underscores and'),
        ('name = "small"', 'name = "a\\n"', 'run.name: found "a\\n"; expected letters'),
        ('name = "small"', "name = 2024-01-01", "run.name: found the date 2024-01-01; expected a valid string"),
        ("frames = 8", "frames = 2024-01-01", "clip.frames: found the date 2024-01-01; expected a valid integer"),
        ("ratio = 0.75", "ratio = 2024-01-01T10:00:00", "masker.ratio: found the date and time 2024-01-01 10:00:00;"),
        ("ratio = 0.75", "ratio = 10:00:00", "masker.ratio: found the time 10:00:00; expected a valid number"),
        ("ratio = 0.75", "ratoi = 2024-01-01", "masker.ratoi: unknown key; did you mean 'ratio'?"),
        (
            "size = 32",
            "crop_scale = [0.5, 2024-01-01]",
            "clip.crop_scale.1: found the date 2024-01-01; expected a valid",
        ),
        ('use = "mse"', "use = 2024-01-01", "objective.use: found the date 2024-01-01; [objective] needs use"),
        ("[run]", "train = 2024-01-01\n[run]", "train: found the date 2024-01-01; expected a section, [train]"),
        ("heads = 2", "heads = 5", "heads = 5"),
        ("[run]", "train = 3\n[run]", "train: found 3; expected a section, [train]"),
        (
            "size = 32",
            "crop_scale = [0.1, 0.2, 0.3]",
            "clip.crop_scale: found [0.1, 0.2, 0.3]; expected at most 2",
        ),
        ('use = "mse"', "", "objective.use: missing; [objective] needs use = one of:"),
        ('use = "mse"', "use = 3", "objective.use: found 3"),
    ],
)
def test_each_mistake_has_its_sentence(load, old, new, message):
    text = SMALL.replace(old, new)
    if new.startswith("train = "):
        text = text[: text.index("[train]")]
    assert message in "\n".join(problems(load, text))


def test_a_date_is_no_value_even_where_anything_goes():
    """Some settings of a plugin may take any table; a date is told all the same."""

    class Anything(MaskerConfig):
        table: dict[str, int] = Field({}, description="Any table.")

    config, faults = read_section({"table": date(2024, 1, 1)}, Anything)
    assert config is None
    assert [(fault.place, fault.message) for fault in faults] == [
        (("table",), "found the date 2024-01-01; expected a value that is no date or time")
    ]


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"dim = 32": "modl = 1", "heads = 2": "heads = 5"},
            ["predictor.modl: unknown key", "predictor: dim = 384 is not a multiple of heads = 5"],
        ),
        (
            {"max_steps = 10": "max_steps = 10\n[optimizer]\nbetas = [0.9, 2.0]\neps = 0"},
            ["optimizer.eps: found 0", "optimizer: betas must lie in 0 <= beta < 1, found [0.9, 2.0]"],
        ),
        # What a rule says of a wrong key's default would be of no use.
        ({"max_steps = 10": "max_steps = 0"}, ["train.max_steps: found 0"]),
        ({"dim = 32": 'dim = "32"', "heads = 2": "heads = 5"}, ['predictor.dim: found "32"']),
        ({"depth = 1": "", "dim = 32": "dim = 0"}, ["predictor.dim: found 0"]),
    ],
)
def test_a_rule_between_keys_speaks_while_another_key_is_wrong(load, changes, messages):
    text = SMALL
    for old, new in changes.items():
        text = text.replace(old, new)
    found = [problem.partition("toml:")[2].partition(": ")[2] for problem in problems(load, text)]
    assert len(found) == len(messages)
    for problem, message in zip(found, messages, strict=True):
        assert problem.startswith(message)


def test_a_rule_that_does_not_say_what_it_is_about_waits_for_right_keys():
    """A stranger's plain ValueError may be about the wrong key's default, which nobody asked for."""

    class Plain(MaskerConfig):
        ratio: float = Field(0.5, description="Share of tokens.")
        width: int = Field(1, description="In tokens.")

        @model_validator(mode="after")
        def _narrow(self):
            if self.width > 3:
                raise ValueError("width is above 3; leave it out")
            return self

    def faults(**values):
        return [(fault.place, fault.kind, fault.leave_out) for fault in read_section(values, Plain)[1]]

    rule = ((), "rule", ())  # without advice: nobody reads the words
    assert faults(width=5) == [rule]
    assert faults(width=5, ratio="x") == [(("ratio",), "float_type", ())]
    assert faults(width=5, ratoi=0.5) == [(("ratoi",), "extra_forbidden", ()), rule]


def careless(registry):
    """The registry's plugins, and one with validators that fail in ways of their own."""

    class Careless(MaskerConfig):
        ratio: float = Field(0.5, description="Share of tokens.")
        width: int = Field(1, description="In tokens.")

        @model_validator(mode="after")
        def _typo(self):
            if self.ratio > 0.9:
                raise GeometryError("ratio is above 0.9; lower it")
            return raito  # noqa: F821 - the mistake of a plugin that the test is about

    module = ModuleType("careless_one")
    module.salt_maskers = hookimpl(lambda: [Component("careless", Careless, print, "Careless.")])
    (plugin,) = Registry.from_modules({"hand": module}).plugins
    return Registry([*registry.plugins, plugin])


def test_a_plugins_own_mistake_is_told_as_such_beside_the_recipes(tmp_path, registry):
    text = SMALL.replace('use = "random"', 'use = "careless"').replace('use = "mse"', 'use = "msee"')
    (tmp_path / "recipe.toml").write_text(text)

    def found(*overrides):
        with pytest.raises(RecipeError) as caught:
            load_recipe(tmp_path / "recipe.toml", careless(registry), overrides)
        return [str(problem).partition("recipe.toml:")[2] for problem in caught.value.problems]

    line = text.splitlines().index("[masker]") + 1
    start = f"{line}: masker: masker 'careless' from module careless_one (plugin hand): the plugin made a mistake"
    first, second = found()
    assert first.startswith(f"{start}, not the recipe: NameError: name 'raito' is not defined (")
    assert re.search(r"test_recipe\.py, line \d+\); tell its authors$", first)
    assert "objective.use: no objective is called 'msee'" in second
    # What a plugin means to say of the recipe is no mistake of its own.
    assert found("masker.ratio=0.95")[0] == f"{line}: masker: ratio is above 0.9; lower it"
    # And neither hides what else is wrong.
    assert len(found("masker.wdith=1", "clip.frames=0")) == 4


def test_a_missing_section_says_what_it_could_be(load):
    start, end = SMALL.index("[masker]"), SMALL.index("[objective]")
    found = "\n".join(problems(load, SMALL[:start] + SMALL[end:]))
    assert "masker.use: missing; [masker] needs use = one of:" in found
    assert "multiblock, random, toy" in found.replace("toy_", "toy")


def test_a_schedule_that_nothing_reads_is_refused(load):
    found = problems(load, SMALL + "[schedules.weight_decy]\nuse = 'constant'\nvalue = 1.0\n")
    assert "schedules.weight_decy: nothing reads this schedule; did you mean 'weight_decay'?" in found[0]


def test_overrides_are_typed_by_the_recipe_and_recorded(load):
    recipe = load(SMALL, "run.name=3", "run.seed=3", "student.model=vit_small_patch16_224", "clip.flip=true")
    assert (recipe.run.name, recipe.run.seed, recipe.clip.flip) == ("3", 3, True)
    assert load(SMALL, "run.name=2024-01-01").run.name == "2024-01-01"
    assert tomllib.loads(recipe.to_toml())["run"]["name"] == "3"


def test_another_length_replaces_the_one_below(load, tmp_path):
    assert load(SMALL, "train.epochs=3").train.max_steps is None
    (tmp_path / "base.toml").write_text(SMALL)
    assert load("extends = 'base.toml'\n[train]\nepochs = 2\n").train.epochs == 2


def test_a_wrong_override_names_the_option(load):
    assert problems(load, SMALL, "masker.ratio=lots")[0].startswith('--set: masker.ratio: found "lots"')
    assert "--set: masker.rato: unknown key; did you mean 'ratio'?" in problems(load, SMALL, "masker.rato=0.5")[0]
    assert "--set: nonsense: unknown section" in problems(load, SMALL, "nonsense.x=1")[0]


def test_the_schema_accepts_every_recipe_and_refuses_mistakes(registry, recipes):
    schema = recipe_schema(registry)
    json.dumps(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for path in recipes:
        validator.validate(tomllib.loads(path.read_text()))
    for wrong in (
        {"masker": {"use": "random", "ratios": 0.5}},
        {"masker": {"use": "randm"}},
        {"trian": {}},
        {"clip": {"frames": "8"}},
    ):
        assert list(validator.iter_errors(wrong)), wrong


def test_every_config_field_is_described(registry):
    schema = recipe_schema(registry)
    for kind in registry.kinds:
        for provided in registry.of_kind(kind):
            for name, field in provided.component.config.model_fields.items():
                assert field.description, f"{provided}: {name} has no description"
    for section in ("run", "clip", "train", "optimizer", "loader"):
        for name, field in schema["properties"][section]["properties"].items():
            assert field.get("description"), f"{section}.{name}"

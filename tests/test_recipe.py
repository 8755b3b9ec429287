"""Recipes: typed, complete, and every mistake told in the user's words."""

from __future__ import annotations

import json
import tomllib

import jsonschema
import pytest

from salt_toolkit.errors import RecipeError
from salt_toolkit.recipe import load_recipe, recipe_schema

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
        ('name = "small"', 'name = "a/b"', 'run.name: found "a/b"; String should match pattern'),
        ("heads = 2", "heads = 5", "heads = 5"),
        ("[run]", "train = 3\n[run]", "train: found 3; expected a section, [train]"),
        ('use = "mse"', "", "objective.use: missing; [objective] needs use = one of:"),
        ('use = "mse"', "use = 3", "objective.use: found 3"),
    ],
)
def test_each_mistake_has_its_sentence(load, old, new, message):
    text = SMALL.replace(old, new)
    if new.startswith("train = 3"):
        text = text[: text.index("[train]")]
    assert message in "\n".join(problems(load, text))


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

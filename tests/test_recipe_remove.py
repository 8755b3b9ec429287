"""Taking away what a recipe inherits: ``remove`` in files, and ``--set KEY=``."""

from __future__ import annotations

import re
import tomllib

import jsonschema
import pytest

from salt_toolkit.errors import RecipeError
from salt_toolkit.recipe import load_recipe, recipe_schema

BASE = """
[run]
name = "base"
[clip]
frames = 4
size = 32
[dataset]
use = "toy_squares"
[teacher]
use = "toy_projection"
[student]
use = "toy_mixer"
[predictor]
use = "toy_regressor"
[masker]
use = "random"
ratio = 0.5
[objective]
use = "mse"
target_norm = "channel"
calibration_clips = 512
[schedules.lr]
use = "constant"
value = 1e-3
[schedules.weight_decay]
use = "constant"
value = 0.05
[optimizer]
grad_clip = 1.0
[train]
max_steps = 10
ema = 0.99
keep_every = 5
[cache]
dir = "latents"
"""
SEVERAL = """
[teachers.one]
use = "toy_projection"
dim = 12
[teachers.two]
use = "toy_projection"
weight = 0.5
[teachers.two.objective]
use = "l1"
[teachers.three]
use = "toy_projection"
dim = 24
"""
TEACHER = '[teacher]\nuse = "toy_projection"\n'


@pytest.fixture
def load(tmp_path, registry):
    def load_text(text, *overrides, **others):
        for name, content in {"base": BASE, **others}.items():
            (tmp_path / f"{name}.toml").write_text(content)
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(path, registry, overrides)

    return load_text


def problems(load, text, *overrides, **others):
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides, **others)
    # Without the folder, which is another one each time.
    return [re.sub(r"/\S*/", "", str(problem)) for problem in caught.value.problems]


def extending(remove, rest="", base="base"):
    return f'extends = "{base}.toml"\nremove = {remove}\n{rest}'


# Files.


def test_settings_and_sections_go_as_if_nothing_had_set_them(load):
    keys = ["train.ema", "train.keep_every", "optimizer.grad_clip", "cache", "schedules.weight_decay", "masker.ratio"]
    recipe = load(extending(keys))
    assert (recipe.train.ema, recipe.train.keep_every, recipe.optimizer.grad_clip) == (None, None, None)
    assert recipe.cache is None
    assert set(recipe.schedules) == {"lr"}
    assert recipe.masker.config == type(recipe.masker.config)()
    assert recipe.train.max_steps == 10
    assert "remove" not in tomllib.loads(recipe.to_toml())
    assert load(recipe.to_toml()) == recipe


def test_what_the_same_file_sets_stands(load):
    recipe = load(extending(["train.ema", "masker"], "[train]\nema = 0.5\n[masker]\nuse = 'random'\n"))
    assert recipe.train.ema == 0.5
    assert recipe.masker.config.ratio != 0.5  # the section has started afresh


def test_it_happens_where_it_stands_in_the_chain(load):
    middle = extending(["train.ema", "optimizer.grad_clip"])
    recipe = load('extends = "middle.toml"\n[train]\nema = 0.9\n', middle=middle)
    assert (recipe.train.ema, recipe.optimizer.grad_clip) == (0.9, None)
    (found,) = problems(load, extending(["train.ema"], base="middle"), middle=middle)
    assert found.startswith("recipe.toml:2: train.ema: nothing below sets it, so it cannot be taken away;")


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_the_list_says_nothing(load, order):
    recipe = load(extending(["cache", "cache.dir", "cache", "train.ema"][::order]))
    assert (recipe.cache, recipe.train.ema) == (None, None)


def test_a_method_with_fewer_parts_can_build_on_one_with_more(load):
    recipe = load(extending(["predictor", "masker"], '[method]\nuse = "toy_dense"\n'))
    assert (recipe.method.use, recipe.predictor, recipe.masker) == ("toy_dense", None, None)


def test_one_of_several_teachers_goes_by_its_name(load):
    several = BASE.replace(TEACHER, SEVERAL)
    recipe = load(extending(["teachers.one", "teachers.two.objective", "teachers.two.weight"]), base=several)
    assert [(each.name, each.weight, each.objective_key) for each in recipe.teachings()] == [
        ("two", 1.0, "objective"),
        ("three", 1.0, "objective"),
    ]
    # The places of those behind it move along.
    wrong = several.replace("dim = 24", "dmi = 24")
    line = wrong.splitlines().index("dmi = 24") + 1
    (found,) = problems(load, extending(["teachers.one"]), base=wrong)
    assert found.startswith(f"base.toml:{line}: teachers.three.dmi: unknown key")
    rest = '[teacher]\nuse = "pixels"\npatch = 8\n'
    assert load(extending(["teachers"], rest), base=several).teacher.use == "pixels"
    found = problems(load, extending(["teachers.one", "teachers.two", "teachers.three"]), base=several)
    assert found[0].startswith("recipe.toml: teacher.use: missing; [teacher] needs use")


def test_what_is_then_missing_is_missing_because_of_that_line(load):
    found = problems(load, extending(["masker", "run.name"]))
    assert found[0].startswith("recipe.toml:2: run.name: missing (Name of the run")
    assert found[1].startswith("recipe.toml:2: masker.use: missing; [masker] needs use = one of:")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (
            ["train.emma"],
            "2: train.emma: nothing below sets it, so it cannot be taken away; did you mean 'ema'? "
            "Set below: max_steps, ema, keep_every",
        ),
        (["traim.ema"], "2: traim.ema: nothing below sets it, so it cannot be taken away; did you mean 'train'?"),
        (["train.ema.x"], "2: train.ema.x: nothing below sets it, so it cannot be taken away"),
        ("train.ema", "2: remove: found 'train.ema'; expected a list of dotted keys, such as [\"train.ema\", "),
        ([3], "2: remove: found [3]; expected a list of dotted keys"),
        (["train..ema"], "2: remove: found ['train..ema']; expected a list of dotted keys"),
    ],
)
def test_a_wrong_list_says_what_there_is(load, remove, message):
    text = extending(repr(remove), "[clip]\nfarmes = 3\n")
    found = problems(load, text)
    assert found[0].startswith(f"recipe.toml:{message}")
    assert "clip.farmes: unknown key" in found[1]


def test_a_recipe_without_a_base_has_nothing_to_take_away(load):
    found = problems(load, 'remove = ["train.ema"]\n' + BASE)
    assert found == ["recipe.toml:1: train.ema: nothing below sets it, so it cannot be taken away"]
    assert load("remove = []\n" + BASE).train.ema == 0.99


# --set.


def test_an_override_without_a_value_takes_away(load):
    recipe = load(BASE, "train.ema=", "cache=", "optimizer.grad_clip=")
    assert (recipe.train.ema, recipe.cache, recipe.optimizer.grad_clip) == (None, None, None)
    assert load(BASE, "predictor=", "masker=", "method.use=toy_dense").method.use == "toy_dense"


def test_the_order_of_overrides_says_nothing(load):
    settings = ["masker=", "masker.ratio=", "masker.use=random", "train.ema=0.5", "train.ema="]
    for order in (settings, settings[::-1]):
        recipe = load(BASE, *order)
        assert recipe.masker.config == type(recipe.masker.config)()
        assert recipe.train.ema == 0.5


def test_an_override_without_a_value_and_without_a_key_is_a_mistake(load):
    (found,) = problems(load, BASE, "train.emma=")
    assert found == (
        "--set: train.emma: nothing below sets it, so it cannot be taken away; did you mean 'ema'? "
        "Set below: max_steps, ema, keep_every; an empty text is written --set 'train.emma=\"\"'"
    )
    assert problems(load, BASE, "run.name=")[0].startswith("--set: run.name: missing")
    assert load(BASE, 'cache.dir=""').cache.dir == ""


def test_files_own_keys_are_none_of_overrides(load):
    for setting in ('remove=["masker"]', "extends=base.toml"):
        (found,) = problems(load, BASE, setting)
        key = setting.partition("=")[0]
        assert found == f"--set: {key}: stands in files alone; --set KEY= takes a key or a section away"


# What messages advise can be done.


def test_a_setting_that_is_inherited_is_left_out_by_taking_it_away(load):
    rest = '[objective]\ntarget_norm = "layer"\n'
    (found,) = problems(load, extending([], rest))
    assert "calibration_clips = 512 has no effect with target_norm = 'layer'; leave it out" in found
    assert found.endswith(
        ' (inherited: remove = ["objective.calibration_clips"] at the top of recipe.toml, '
        "or --set objective.calibration_clips=)"
    )
    assert load(extending(["objective.calibration_clips"], rest)).objective.config.target_norm == "layer"
    assert load(extending([], rest), "objective.calibration_clips=").objective.config.calibration_clips == 256
    (found,) = problems(load, BASE, "objective.target_norm=layer")
    assert found.endswith(" (or --set objective.calibration_clips=)")
    load(BASE, "objective.target_norm=layer", "objective.calibration_clips=")
    # Nothing of the kind where the line itself can go.
    (found,) = problems(load, BASE.replace('target_norm = "channel"', 'target_norm = "layer"'))
    assert found.endswith("with statistics = 'calibration'")


def test_a_section_that_is_inherited_is_removed_by_taking_it_away(load):
    found = problems(load, extending([], '[method]\nuse = "toy_dense"\n'))
    for section, problem in zip(("predictor", "masker"), found, strict=True):
        assert problem.endswith(
            f"{section}: the method does not use a {section}; remove the section "
            f'(inherited: remove = ["{section}"] at the top of recipe.toml, or --set {section}=)'
        )
    found = problems(load, BASE, "method.use=toy_dense")
    assert [problem.partition(" (")[2] for problem in found] == ["or --set predictor=)", "or --set masker=)"]
    own = BASE + '[method]\nuse = "toy_dense"\n'
    assert all(problem.endswith("; remove the section") for problem in problems(load, own))


def test_a_teachers_own_settings_go_by_its_name(load):
    several = BASE.replace(TEACHER, SEVERAL).replace('use = "l1"', 'use = "l1"\nstatistics = "running"')
    several = several.replace("statistics", 'target_norm = "position"\nstatistics')
    text = extending([], '[teachers.two.objective]\ntarget_norm = "layer"\n')
    (found,) = problems(load, text, base=several)
    assert found.endswith("--set teachers.two.objective.statistics=)")
    load(text, "teachers.two.objective.statistics=", base=several)


# The schema.


def test_the_schema_knows_the_list(registry):
    validator = jsonschema.Draft202012Validator(recipe_schema(registry))
    validator.validate({"extends": "base.toml", "remove": ["train.ema", "masker"]})
    for wrong in ("masker", [3], ["train."], [""]):
        assert list(validator.iter_errors({"remove": wrong})), wrong

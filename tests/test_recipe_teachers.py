"""[teachers.NAME]: several teachers in one recipe, in files, over one another, and by --set."""

from __future__ import annotations

import tomllib

import jsonschema
import pytest
import salt_toy
from pydantic import Field
from salt_toy.config import ProjectionConfig

from salt_toolkit import Component, hookimpl
from salt_toolkit.errors import RecipeError
from salt_toolkit.kinds import TeacherKeys
from salt_toolkit.recipe import load_recipe, recipe_schema
from salt_toolkit.registry import Registry

REST = """
[run]
name = "small"
[clip]
frames = 4
size = 32
[dataset]
use = "toy_squares"
[student]
use = "toy_mixer"
[predictor]
use = "toy_regressor"
[masker]
use = "random"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 10
"""
OBJECTIVE = """
[objective]
use = "mse"
target_norm = "layer"
"""
ONE = """
[teacher]
use = "pixels"
patch = 8
"""
TWO = """
[teachers.motion]
use = "pixels"
patch = 16

[teachers.look]
weight = 0.5
use = "toy_projection"
dim = 12

[teachers.look.objective]
use = "l1"
"""


@pytest.fixture
def load(tmp_path, registry):
    def load_text(text, *overrides, **others):
        for name, content in others.items():
            (tmp_path / f"{name}.toml").write_text(content)
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(path, registry, overrides)

    return load_text


def problems(load, text, *overrides, **others):
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides, **others)
    return [str(problem) for problem in caught.value.problems]


def at(text, line, message, nth=0):
    """A problem's text, on the n-th line that reads like this."""
    numbers = [number for number, found in enumerate(text.splitlines(), 1) if found == line]
    return f"recipe.toml:{numbers[nth]}: {message}"


def shown(recipe):
    """The teachers as (name, weight, teacher, objective)."""
    return [
        (each.name, each.weight, each.teacher.use, each.objective and each.objective.use) for each in recipe.teachings()
    ]


# One view.


def test_each_teacher_has_a_weight_and_an_objective(load):
    recipe = load(REST + OBJECTIVE + TWO)
    assert shown(recipe) == [("motion", 1.0, "pixels", "mse"), ("look", 0.5, "toy_projection", "l1")]
    assert recipe.teachings()[1].teacher.config.dim == 12
    assert [each.key for each in recipe.teachings()] == ["teachers.motion", "teachers.look"]
    assert [each.objective_key for each in recipe.teachings()] == ["objective", "teachers.look.objective"]


def test_one_teacher_is_the_short_form_of_the_same(load):
    assert shown(load(REST + OBJECTIVE + ONE)) == [("teacher", 1.0, "pixels", "mse")]
    long = load(REST + OBJECTIVE + ONE.replace("[teacher]", "[teachers.teacher]"))
    assert shown(long) == [("teacher", 1.0, "pixels", "mse")]
    assert long.teachings()[0].teacher.config == load(REST + OBJECTIVE + ONE).teachings()[0].teacher.config


def test_every_component_has_its_key(load):
    selected = load(REST + OBJECTIVE + TWO).selected()
    assert selected["teachers.motion"].use == "pixels"
    assert selected["teachers.look.objective"].use == "l1"
    assert {"objective", "teachers.look"} < selected.keys()
    assert not {"teacher", "teachers", "teachers.motion.objective"} & selected.keys()


def test_the_resolved_recipe_is_itself_the_same_recipe(load):
    recipe = load(REST + OBJECTIVE + TWO, "teachers.look.weight=0.25")
    again = load(recipe.to_toml())
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()
    written = tomllib.loads(recipe.to_toml())["teachers"]
    assert {name: teacher["weight"] for name, teacher in written.items()} == {"motion": 1.0, "look": 0.25}
    assert written["motion"]["norm"] == "tubelet"  # every default is written out
    assert written["look"]["objective"]["target_norm"] == "none"
    assert "objective" not in written["motion"]


def test_no_objective_is_needed_where_every_teacher_has_one(load):
    own = TWO.replace("patch = 16\n", 'patch = 16\nobjective = {use = "cosine"}\n')
    recipe = load(REST + own)
    assert recipe.objective is None
    assert [each[3] for each in shown(recipe)] == ["cosine", "l1"]


# Recipes that build on others.


@pytest.mark.parametrize(("below", "above"), [(ONE, TWO), (TWO, ONE)], ids=["several over one", "one over several"])
def test_one_form_takes_the_place_of_the_other(load, below, above):
    recipe = load("extends = 'base.toml'\n" + above, base=REST + OBJECTIVE + below)
    assert shown(recipe) == shown(load(REST + OBJECTIVE + above))


def test_a_new_name_adds_a_teacher_behind_the_others(load):
    recipe = load("extends = 'base.toml'\n[teachers.new]\nuse = 'pixels'\n", base=REST + OBJECTIVE + TWO)
    assert [each[0] for each in shown(recipe)] == ["motion", "look", "new"]


def test_teachers_are_replaced_by_taking_the_others_away(load):
    text = "extends = 'base.toml'\nremove = ['teachers']\n[teachers.new]\nuse = 'pixels'\n"
    assert shown(load(text, base=REST + OBJECTIVE + TWO)) == [("new", 1.0, "pixels", "mse")]


def test_a_table_changes_the_teacher_of_its_name(load):
    recipe = load("extends = 'base.toml'\n[teachers.motion]\nweight = 3.0\n", base=REST + OBJECTIVE + TWO)
    assert shown(recipe) == [("motion", 3.0, "pixels", "mse"), ("look", 0.5, "toy_projection", "l1")]
    assert recipe.teachings()[0].teacher.config.patch == 16


def test_a_part_of_the_one_teacher_still_merges(load):
    recipe = load("extends = 'base.toml'\n[teacher]\nnorm = 'clip'\n", base=REST + OBJECTIVE + ONE)
    assert (recipe.teacher.config.patch, recipe.teacher.config.norm) == (8, "clip")


# --set.


def test_overrides_name_the_teacher(load):
    settings = ["teachers.motion.weight=2.5", "teachers.motion.patch=8", "teachers.look.objective.target_norm=layer"]
    for order in (settings, settings[::-1]):
        first, second = load(REST + OBJECTIVE + TWO, *order).teachings()
        assert (first.weight, first.teacher.config.patch) == (2.5, 8)
        assert (second.objective.use, second.objective.config.target_norm) == ("l1", "layer")


def test_another_component_keeps_name_weight_and_objective(load):
    recipe = load(REST + OBJECTIVE + TWO, "teachers.look.use=pixels", "teachers.look.patch=8")
    assert shown(recipe)[1] == ("look", 0.5, "pixels", "l1")
    assert recipe.teachings()[1].teacher.config.patch == 8


def test_an_override_is_text_where_the_recipe_wants_text(load, tmp_path):
    text = REST + OBJECTIVE + TWO.replace('use = "pixels"\npatch = 16', 'use = "run"\npath = "x"')
    assert load(text, "teachers.motion.path=7").teachings()[0].teacher.config.path == "7"


def test_a_whole_section_can_be_set_and_changed_in_any_order(load):
    settings = ['teachers={only = {use = "pixels"}}', "teachers.only.weight=4"]
    for order in (settings, settings[::-1]):
        assert shown(load(REST + OBJECTIVE + ONE, *order)) == [("only", 4.0, "pixels", "mse")]


# Mistakes.


def test_mistakes_have_file_line_and_the_teachers_name(load):
    text = REST + OBJECTIVE + TWO.replace("patch = 16", "pach = 16").replace("weight = 0.5", 'weight = "half"')
    text = text.replace('use = "l1"', 'use = "l2"')
    found = problems(load, text)
    assert len(found) == 3
    joined = "\n".join(found)
    assert at(text, "pach = 16", "teachers.motion.pach: unknown key; did you mean 'patch'?") in joined
    assert at(text, 'weight = "half"', 'teachers.look.weight: found "half"; expected a valid number') in joined
    assert at(text, 'use = "l2"', "teachers.look.objective.use: no objective is called 'l2'") in joined


def test_a_name_must_do_for_metrics(load):
    text = REST + OBJECTIVE + TWO.replace("[teachers.motion]", '[teachers."Look!"]')
    (found,) = problems(load, text)
    rule = 'found the name "Look!"; expected lowercase letters, digits and underscores, a letter first'
    assert at(text, '[teachers."Look!"]', f"teachers.Look!: {rule}") in found


def test_misspelt_keys_beside_the_settings_are_named(load):
    (found,) = problems(load, REST + OBJECTIVE + TWO.replace("weight = 0.5", "wieght = 0.5"))
    assert "teachers.look.wieght: unknown key; did you mean 'weight'?" in found


def test_both_forms_in_one_recipe_are_refused(load):
    found = "\n".join(problems(load, REST + OBJECTIVE + ONE + TWO))
    assert "teachers: found beside [teacher]; write one as [teacher], or several as [teachers.NAME]" in found


def test_a_teacher_without_any_objective_is_named(load):
    (found,) = problems(load, REST + TWO)
    assert at(REST + TWO, "[teachers.motion]", "teachers.motion.objective: missing; give the teacher its own") in found


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "teachers.motin.weight=2",
            "teachers.motin.use: missing; [teachers.motin] needs use = one of: ",
        ),
        ("teachers.motin.weight=2", "; or did you mean [teachers.motion]?"),
        ("teachers.motion.weight=0", "teachers.motion.weight: found 0; expected greater than 0"),
        ("teachers.motion.weight=nan", "teachers.motion.weight: found"),
        ("teachers.motion=3", "teachers.motion: found 3; expected a section, [teachers.motion]"),
        ("teachers=[]", "teachers: found []; expected a table for each teacher, [teachers.NAME] with use"),
        ('teachers=[{name = "a"}]', 'teachers: found [{"name": "a"}]; expected a table for each teacher'),
        ("teachers={}", "teachers: found {}; expected a table for each teacher"),
        ("teachers.look.objective=3", "look.objective: found 3; expected a section, [teachers.look.objective]"),
        ("teachers.look.objective.beta=3", "teachers.look.objective.beta: unknown key"),
    ],
)
def test_a_wrong_override_names_the_option(load, setting, message):
    (found,) = problems(load, REST + OBJECTIVE + (ONE if "=[" in setting or "={" in setting else TWO), setting)
    assert found.startswith("--set: ") and message in found


def test_a_teacher_without_use_says_what_there_is(load):
    (found,) = problems(load, REST + OBJECTIVE + ONE, "teachers.motion.weight=2")
    assert found.startswith("--set: teachers.motion.use: missing; [teachers.motion] needs use = one of: dino, ")


def test_a_method_without_teachers_refuses_them(load, monkeypatch, registry):
    needs = registry.get("method", "toy_dense").component.config
    text = REST.replace('[predictor]\nuse = "toy_regressor"\n[masker]\nuse = "random"\n', "")
    text += '[method]\nuse = "toy_dense"\n' + OBJECTIVE + TWO
    assert len(load(text).teachings()) == 2
    monkeypatch.setattr(needs, "needs", ("student",))
    found = "\n".join(problems(load, text))
    assert "teachers: the method does not use a teacher; remove the section" in found
    assert "teachers.look.objective: the method does not use an objective; remove the section" in found


def test_keys_of_a_teachers_table_cannot_be_settings_of_a_teacher(monkeypatch):
    class Heavy(ProjectionConfig):
        weight: float = Field(1.0, description="Kilograms.")

    def salt_teachers():
        yield Component("heavy", Heavy, print, "Heavy.")

    monkeypatch.setattr(salt_toy, "salt_teachers", hookimpl(salt_teachers))
    (plugin,) = Registry.from_modules({"salt_toy": salt_toy}).plugins
    assert "the config of teacher 'heavy' has a field 'weight', a key that recipes reserve" in plugin.error


# The manual.


def test_the_manual_has_every_key_beside_the_settings(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name, field in TeacherKeys.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default}`"
        kind = {"str": "text", "float": "number"}[field.annotation.__name__]
        assert f"| `{name}` | {kind} | {default} | {field.description} |" in page


# The schema.


def test_the_schema_knows_several_teachers(registry):
    validator = jsonschema.Draft202012Validator(recipe_schema(registry))
    validator.validate(tomllib.loads(REST + OBJECTIVE + TWO))
    validator.validate({"teachers": {"motion": {"weight": 2.0}}})
    for wrong in (
        {"A!": {"use": "pixels"}},
        {"a": {"use": "pixels", "weight": 0}},
        {"a": {"use": "pixels", "pach": 3}},
        {"a": {"use": "pixels", "objective": {"use": "msee"}}},
        [{"use": "pixels"}],
    ):
        assert list(validator.iter_errors({"teachers": wrong})), wrong

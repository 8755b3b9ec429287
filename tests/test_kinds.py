"""A kind is one record: what a plugin adds with it works everywhere, with no line of the core changed."""

from __future__ import annotations

import inspect
import tomllib
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import jsonschema
import pytest
from pydantic import Field
from salt_toy.config import DenseConfig

from salt_toolkit import Component, Config, Kind, MethodConfig, MissingArtifact, component, hookimpl, hookspecs, kinds
from salt_toolkit.assemble import build, build_all, build_method
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.cli.plugin_text import plugin_rows, render_plugins
from salt_toolkit.contracts import Method
from salt_toolkit.errors import RecipeError, SaltError
from salt_toolkit.recipe import load_recipe, recipe_schema
from salt_toolkit.registry import Registry
from salt_toolkit.testing.cold import questions

REST = """
[run]
name = "small"
[clip]
frames = 4
size = 32
[dataset]
use = "toy_squares"
[teacher]
use = "toy_projection"
[student]
use = "toy_mixer"
[objective]
use = "mse"
[method]
use = "toy_dense"
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 10
"""
WITHOUT_PARTS = REST[: REST.index("[teacher]")] + REST[REST.index("[method]") :].replace("toy_dense", "giver")
ONE = """
[augmenter]
use = "noise"
strength = 0.5
"""
TWO = """
[augmenters.first]
use = "noise"
order = 2
strength = 0.5
[augmenters.second]
use = "blur"
"""


class AugmenterConfig(Config):
    """The base of a kind that the core has never heard of."""

    def changes(self, seed: int) -> bool:
        """Whether it does anything."""
        return seed >= 0


class NoiseConfig(AugmenterConfig):
    strength: float = Field(0.1, ge=0, description="Standard deviation, as a share of the range.")
    table: str | None = Field(None, description="A file of noise.")

    def missing(self):
        return [MissingArtifact(f"the file {self.table} does not exist", "Make it.")] if self.table else []


class BlurConfig(AugmenterConfig):
    pass


class AugmenterKeys(Config):
    order: int = Field(1, description="The least comes first.")


def build_noise(config, *, seed, clip):
    return SimpleNamespace(config=config, seed=seed, clip=clip)


def build_blur(config):
    return "blur"


def kind_of(section, **changes):
    values = {
        "name": "augmenter",
        "config": AugmenterConfig,
        "contract": "types:SimpleNamespace",
        "summary": "Change clips.",
        "context": ("clip", "seed", "grid"),
        "section": section,
        "extra": AugmenterKeys,
    }
    return Kind(**values | changes)


def module(**hooks):
    made = ModuleType("stranger")
    for name, hook in hooks.items():
        setattr(made, f"salt_{name}", hookimpl(hook))
    return made


def noise(build=build_noise):
    return Component("noise", NoiseConfig, build, "Adds noise.")


def registry_of(registry, section="one", **changes):
    """The installed plugins, one that adds the kind, and another one that adds to that."""
    added = Registry.from_modules(
        {
            "adder": module(kinds=lambda: [kind_of(section, **changes)], augmenters=lambda: [noise()]),
            "other": module(augmenters=lambda: [Component("blur", BlurConfig, build_blur, "Blurs.")]),
        }
    )
    assert added.broken == []
    return Registry([*registry.plugins, *added.plugins])


@pytest.fixture
def load(tmp_path, registry):
    def load_text(text, *overrides, section="one", **changes):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(path, registry_of(registry, section, **changes), overrides)

    return load_text


def problems(load, *arguments, **keywords):
    with pytest.raises(RecipeError) as caught:
        load(*arguments, **keywords)
    return [str(problem) for problem in caught.value.problems]


# Recipes.


def test_a_section_of_the_new_kind_is_typed_checked_and_written_out(load):
    recipe = load(REST + ONE, "augmenter.strength=0.25")
    assert recipe.components["augmenter"].config == NoiseConfig(strength=0.25)
    assert load(recipe.to_toml()) == recipe
    assert tomllib.loads(recipe.to_toml())["augmenter"] == {"use": "noise", "strength": 0.25}
    assert check_recipe(recipe).findings == []
    (finding,) = check_recipe(load(REST + ONE, "augmenter.table=none.bin")).findings
    assert str(finding) == "augmenter: the file none.bin does not exist. Make it."


def test_named_sections_keep_their_order_and_the_kinds_own_keys(load):
    recipe = load(REST + TWO, "augmenters.second.order=7", "augmenters.first.use=blur", section="named")
    assert [(name, each.use, each.extra.order) for name, each in recipe.named("augmenter").items()] == [
        ("first", "blur", 2),
        ("second", "blur", 7),
    ]
    assert load(recipe.to_toml(), section="named") == recipe
    for text in (ONE, TWO):
        assert load(REST + text, section="either")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("augmenter.strenght=1", "augmenter.strenght: unknown key; did you mean 'strength'?"),
        ("augmenter.strength=-1", "augmenter.strength: found -1; expected greater than or equal to 0"),
        (
            "augmenter.use=noize",
            "augmenter.use: no augmenter is called 'noize'; did you mean 'noise'? Known",
        ),
        ("augmentor.use=noise", "augmentor: unknown section; did you mean 'augmenter'?"),
        ("augmenter=3", "augmenter: found 3; expected a section, [augmenter]"),
    ],
)
def test_mistakes_are_told_as_of_any_other_section(load, setting, message):
    (found,) = problems(load, REST + ONE, setting)
    assert found.startswith(f"--set: {message}")


def test_a_name_that_is_nearly_anothers_is_suggested(load):
    (found,) = problems(load, REST + TWO, "augmenters.frist.strength=1", section="named")
    assert found.startswith("--set: augmenters.frist.use: missing; [augmenters.frist] needs use = one of: blur, noise")
    assert found.endswith("or did you mean [augmenters.first]?")


def test_presence_decides_who_must_have_one(load, registry, monkeypatch):
    assert "augmenter" not in load(REST).components
    (found,) = problems(load, REST, presence="always")
    assert "augmenter.use: missing; [augmenter] needs use = one of: blur, noise" in found
    (found,) = problems(load, REST, presence="always", section="named")
    assert "augmenters: missing; expected a table for each augmenter, [augmenters.NAME] with use" in found
    assert load(REST, presence="always", default="blur").components["augmenter"].use == "blur"
    (found,) = problems(load, REST + ONE, presence="needed")
    assert "augmenter: the method does not use an augmenter; remove the section" in found
    monkeypatch.setattr(DenseConfig, "needs", (*DenseConfig.needs, "augmenter"))
    assert load(REST + ONE, presence="needed")


def test_the_schema_completes_it(registry):
    for section, good, bad in (
        ("one", ONE, ONE.replace("strength", "strngth")),
        ("named", TWO, TWO.replace("2", '"2"')),
    ):
        validator = jsonschema.Draft202012Validator(recipe_schema(registry_of(registry, section)))
        validator.validate(tomllib.loads(REST + good))
        assert list(validator.iter_errors(tomllib.loads(REST + bad)))


# Building.


def test_it_is_built_with_what_its_signature_names(load):
    recipe = load(REST + ONE)
    built = build(recipe, "augmenter")
    assert (built.config.strength, built.seed, built.clip.size) == (0.5, 0, 32)
    assert build(recipe, "augmenter", seed=3).seed == 3
    named = build_all(load(REST + TWO, section="named"), "augmenter")
    assert (named["first"].seed, named["second"]) == (0, "blur")
    with pytest.raises(RecipeError, match=r"augmenters.third: missing; this needs the section \[augmenters.third\]"):
        build(recipe, "augmenters.third")


def test_a_method_that_needs_the_kind_is_given_it(registry, tmp_path):
    class Giver(Method):
        def __init__(self, parts):
            super().__init__()
            self.others = parts.others

        def owned_modules(self):
            return {}

        def forward(self, batch):
            raise NotImplementedError

    class Config(MethodConfig):
        needs: ClassVar[tuple[str, ...]] = ("augmenter",)

    def salt_methods():
        yield Component("giver", Config, lambda config, *, parts: Giver(parts), "Keeps what it gets.")

    plugins = Registry.from_modules({"giver": module(methods=salt_methods)}).plugins
    for section, text, names in (("one", ONE, ["augmenter"]), ("named", TWO, ["first", "second"])):
        (tmp_path / "recipe.toml").write_text(WITHOUT_PARTS + text)
        known = Registry([*registry_of(registry, section, context=("clip", "seed")).plugins, *plugins])
        given = build_method(load_recipe(tmp_path / "recipe.toml", known), total_steps=10).others
        assert list(given) == ["augmenter"] and list(given["augmenter"]) == names


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda config, *, wombat: None, "the augmenter 'noise' cannot be built: its build function asks for wombat; "),
        (lambda config, wombat: None, "there is: clip, seed, grid"),
        (lambda config, *, wombat=1, seed: None, None),
        (lambda config, **context: None, None),
    ],
)
def test_a_build_function_that_asks_for_more_is_refused(build, error):
    hooks = module(kinds=lambda: [kind_of("one")], augmenters=lambda: [noise(build)])
    (plugin,) = Registry.from_modules({"adder": hooks}).plugins
    assert plugin.error is None if error is None else error in plugin.error


# Plugins.


def test_plugins_are_listed_with_their_kinds(registry):
    rows = plugin_rows(registry_of(registry), {})
    (adder,) = [row for row in rows if row["plugin"] == "adder"]
    assert adder["kinds"] == [{"name": "augmenter", "summary": "Change clips."}]
    text = render_plugins(rows, [])
    assert "  kind       augmenter  Change clips.\n" in text
    assert "  augmenter  noise      Adds noise.\n" in text


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "teacher"}, "it adds the kind 'teacher', but there is a 'teacher' already; rename it"),
        ({"name": "run"}, "kind name 'run': recipes have a section [run] already; rename it"),
        ({"name": "Augmenter"}, "kind name 'Augmenter' is not made of lowercase letters"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(changes, error):
    made = module(kinds=lambda: [kind_of("one", **changes)])
    (plugin,) = Registry.from_modules({"adder": made}).plugins
    assert error in plugin.error


def test_two_plugins_cannot_add_one_kind():
    first, second = (module(kinds=lambda section=section: [kind_of(section)]) for section in ("one", "named"))
    registry = Registry.from_modules({"first": first, "second": second})
    assert "augmenter" not in registry.kinds
    for plugin in registry.plugins:
        assert "add the kind 'augmenter', so neither is used" in plugin.error
    same = Registry.from_modules({"first": first, "again": first})
    assert same.broken == [] and "augmenter" in same.kinds


def test_a_component_of_a_kind_that_nobody_adds_is_told_of():
    made = module(augmenters=lambda: [noise()])
    (plugin,) = Registry.from_modules({"other": made}).plugins
    assert plugin.error.startswith("it implements an unknown hook, salt_augmenters(); the hooks are salt_datasets, ")
    assert plugin.error.endswith("salt_kinds")


def test_a_config_has_none_of_the_kinds_own_keys():
    class Taken(AugmenterConfig):
        order: int = Field(0, description="Taken.")

    made = module(kinds=lambda: [kind_of("named")], augmenters=lambda: [Component("x", Taken, build_blur, "X.")])
    (plugin,) = Registry.from_modules({"adder": made}).plugins
    assert "the config of augmenter 'x' has a field 'order', a key that recipes reserve" in plugin.error


def test_an_author_of_a_kind_reads_less_than_400_lines():
    """What there is to know: the record, the hooks, configs and components, and this file's example of one."""
    read = [
        inspect.getsource(kinds)[: inspect.getsource(kinds).index("KINDS: dict")],
        inspect.getdoc(hookspecs) or "",
        inspect.getsource(hookspecs.salt_kinds),
        *(inspect.getsource(thing) for thing in (component.Config, component.Component)),
        *(inspect.getsource(thing) for thing in (AugmenterConfig, NoiseConfig, AugmenterKeys, build_noise, kind_of)),
    ]
    assert sum(len(text.splitlines()) for text in read) < 400


# The contract kit.


def test_the_kit_asks_every_method_of_the_kinds_base():
    kind = kind_of("one")
    given = {"seed": 1, "inputs": {"sample": {}}}
    asked = {name: question() for name, question in questions(kind, noise(), NoiseConfig(), given)}
    assert asked["changes()"] is True
    assert {"missing()", "card()", "weight_files()"} <= asked.keys()
    with pytest.raises(SaltError, match=r"changes\(\) asks for seed: add it to the test's circumstances"):
        list(questions(kind, noise(), NoiseConfig(), {}))

"""What happens when strangers' plugins meet: nothing silent, nothing lost, nothing that depends on order.

Every plugin here is a real distribution on disk, with a real ``dist-info``, next to the bundled ones.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

import salt_toolkit
from salt_toolkit import Component, MaskerConfig, TeacherConfig, hookimpl, hookspecs
from salt_toolkit.errors import PluginError
from salt_toolkit.kinds import KINDS
from salt_toolkit.registry import Registry, discover

TEACHER = """
from salt_toolkit import Component, TeacherConfig, hookimpl

class Config(TeacherConfig):
    pass

@hookimpl
def salt_teachers():
    yield Component("{name}", Config, lambda config, **context: None, "A stranger's teacher.")
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Writes a distribution with one plugin into a folder of its own, and puts that on sys.path."""

    def write(distribution, version, entry_points, modules=None, site=None):
        site = tmp_path / (site or f"{distribution}-{version}")
        information = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {target}" for name, target in entry_points.items()]
        (information / "entry_points.txt").write_text("\n".join(["[salt_toolkit]", *lines, ""]))
        for name, source in (modules or {}).items():
            (site / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(site))
        return site

    return write


def plugin(registry, name):
    (found,) = [plugin for plugin in registry.plugins if plugin.name == name]
    return found


def failure(registry, name):
    """The error of a plugin that must be the only broken one."""
    assert [plugin.name for plugin in registry.broken] == [name]
    assert registry.get("masker", "tube").plugin.distribution == "salt-toolkit"
    return plugin(registry, name).error


def test_every_kind_has_its_hook():
    specs = {name for name in vars(hookspecs) if name.startswith("salt_")}
    assert specs == {"salt_kinds", *(kind.hook for kind in KINDS.values())}
    assert Registry([]).kinds == KINDS


def test_the_bundled_plugins_are_sound(registry):
    assert registry.broken == []
    assert registry.clashes == []
    assert {provided.kind for kind in registry.kinds for provided in registry.of_kind(kind)} == set(KINDS)


def test_a_component_knows_where_it_came_from(install, registry):
    install("strangers-teacher", "2.5", {"strange": "strange_one"}, {"strange_one": TEACHER.format(name="strange")})
    found = discover().get("teacher", "strange")
    assert str(found) == "teacher 'strange' from strangers-teacher 2.5 (plugin strange)"
    assert found.plugin.module == "strange_one"
    masker = str(registry.get("masker", "tube"))
    assert masker == f"masker 'tube' from salt-toolkit {salt_toolkit.__version__} (plugin masking)"


def test_everything_is_sorted_whatever_the_order_of_installation(install):
    source = {"zebra_one": TEACHER.format(name="a_zebra"), "aardvark_one": TEACHER.format(name="z_aardvark")}
    install("zebra", "1", {"zebra": "zebra_one"}, source)
    install("aardvark", "1", {"aardvark": "aardvark_one"}, {})
    registry = discover()
    names = [plugin.name for plugin in registry.plugins]
    assert names == sorted(names)
    teachers = [provided.component.name for provided in registry.of_kind("teacher")]
    assert {"a_zebra", "z_aardvark"} <= set(teachers)
    assert teachers == sorted(teachers)
    points = [EntryPoint(name, f"{name}_one", "salt_toolkit") for name in ("zebra", "aardvark")]
    forwards, backwards = Registry.from_entry_points(points), Registry.from_entry_points(points[::-1])
    assert (
        [each.name for each in forwards.plugins] == [each.name for each in backwards.plugins] == ["aardvark", "zebra"]
    )


def test_two_providers_of_one_plugin_name_are_both_disabled(install):
    install("impostor", "9.1", {"masking": "impostor_one"}, {"impostor_one": TEACHER.format(name="impostor")})
    registry = discover()
    assert [each.distribution for each in registry.broken] == ["impostor", "salt-toolkit"]
    for each in registry.broken:
        assert "'masking' is claimed by impostor 9.1 (plugin masking), module impostor_one" in each.error
        assert f"salt-toolkit {salt_toolkit.__version__} (plugin masking), module salt_masking" in each.error
    with pytest.raises(PluginError, match=r"impostor 9\.1"):
        registry.get("masker", "tube")
    with pytest.raises(PluginError, match=r"impostor 9\.1"):
        registry.get("teacher", "impostor")
    assert "impostor_one" not in sys.modules  # not even imported
    assert registry.get("schedule", "cosine")


def test_a_bundled_plugin_that_is_also_installed_alone_is_the_same_plugin(install):
    install("salt-masking", "0.1.0", {"masking": "salt_masking"})
    registry = discover()
    assert registry.broken == registry.clashes == []
    assert [each.name for each in registry.plugins].count("masking") == 1


def test_one_module_under_two_plugin_names_is_no_clash(install):
    install("salt-masking-again", "0.1.0", {"masking_again": "salt_masking"})
    registry = discover()
    assert registry.clashes == []
    assert registry.get("masker", "tube").plugin.name == "masking"


def test_a_distribution_seen_twice_on_the_path_counts_once(install):
    source = {"twice_one": TEACHER.format(name="twice")}
    install("seen-twice", "1.0", {"twice": "twice_one"}, source, site="first")
    install("seen-twice", "1.0", {"twice": "twice_one"}, source, site="second")
    registry = discover()
    assert registry.broken == registry.clashes == []
    assert plugin(registry, "twice").origin == "seen-twice 1.0 (plugin twice)"


def test_two_components_of_one_name_are_not_used_and_everything_else_is(install):
    install("left", "1.0", {"left": "left_one"}, {"left_one": TEACHER.format(name="contested")})
    install("right", "2.0", {"right": "right_one"}, {"right_one": TEACHER.format(name="contested")})
    registry = discover()
    expected = (
        "the teacher 'contested' is provided by left 1.0 (plugin left) and right 2.0 (plugin right), "
        "so neither is used; uninstall or rename one"
    )
    assert registry.clashes == [expected]
    with pytest.raises(PluginError) as caught:
        registry.get("teacher", "contested")
    assert str(caught.value) == expected
    assert "contested" not in [provided.component.name for provided in registry.of_kind("teacher")]
    assert registry.get("masker", "tube")


@pytest.mark.parametrize(
    ("number", "source", "expected"),
    [
        (1, "import a_library_that_is_not_there", "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
        (2, "this is no python", "SyntaxError: invalid syntax"),
        (3, "raise SystemExit('bye')", "SystemExit: bye"),
        (4, "try:\n 1 / 0\nexcept Exception as e:\n raise KeyError('x') from e", "caused by ZeroDivisionError"),
        (5, "", "it defines no hook; mark a function with @hookimpl"),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_why_and_breaks_nothing(install, number, source, expected):
    install("broken", "0.3", {"broken": f"broken_{number}"}, {f"broken_{number}": source})
    registry = discover()
    assert expected in failure(registry, "broken")
    with pytest.raises(PluginError) as caught:
        registry.get("teacher", "whatever")
    assert "It may belong to a plugin that is broken: broken 0.3 (plugin broken): " in str(caught.value)
    assert expected in str(caught.value)


def test_the_place_of_an_error_is_named(install):
    site = install("broken", "0.3", {"broken": "broken_place"}, {"broken_place": "\n\nraise OSError('no disk')"})
    assert failure(discover(), "broken") == f"OSError: no disk (at {site / 'broken_place.py'}:3)"


def test_a_module_that_is_not_there(install):
    install("ghost", "1", {"ghost": "ghost_that_was_removed"})
    assert failure(discover(), "ghost") == "ModuleNotFoundError: No module named 'ghost_that_was_removed'"


@pytest.mark.parametrize(
    ("number", "hook", "expected"),
    [
        (1, "@hookimpl\ndef salt_teacher(): return []", "unknown hook, salt_teacher(); did you mean salt_teachers()?"),
        (2, "@hookimpl\ndef salt_wombats(): return []", "unknown hook, salt_wombats(); the hooks are salt_datasets, "),
        (3, "def salt_teachers(): return []", "salt_teachers() looks like a hook and is not marked"),
        (4, "def salt_techers(): return []", "put @hookimpl above it; did you mean salt_teachers()?"),
        (5, "@hookimpl\ndef salt_teachers(): pass", "salt_teachers() returned None; it has to yield Components"),
        (6, "@hookimpl\ndef salt_teachers(): yield 'x'", "yielded 'x' of type str, not a Component"),
        (7, "@hookimpl\ndef salt_teachers(): raise ValueError('hm')", "ValueError: hm"),
        (8, "@hookimpl\ndef salt_teachers(clip): return []", "salt_teachers"),
        (9, "@hookimpl\ndef salt_teachers(): yield component(MaskerConfig)", "is no subclass of TeacherConfig"),
        (10, "@hookimpl\ndef salt_teachers(): yield forced(config=dict)", "is no subclass of TeacherConfig"),
        (11, "@hookimpl\ndef salt_maskers(): yield component(TeacherConfig)", "is no subclass of MaskerConfig"),
        (12, "@hookimpl\ndef salt_teachers(): return 2 * [component()]", "it provides the teacher 'mine' twice"),
        (13, "@hookimpl\ndef salt_teachers(): yield component(name='Mine')", "component name 'Mine' is not made of"),
        (14, "@hookimpl\ndef salt_teachers(): yield component(summary=' ')", "component 'mine' has no summary"),
        (15, "@hookimpl\ndef salt_teachers(): yield forced(build=3)", "build of teacher 'mine' is not a function"),
        (16, "@hookimpl\ndef salt_teachers(): yield component(Reserved)", "has a field 'use'"),
    ],
)
def test_a_hook_that_breaks_its_promise_is_refused_with_a_sentence(install, number, hook, expected):
    head = """
from salt_toolkit import Component, MaskerConfig, TeacherConfig, hookimpl

class Reserved(TeacherConfig):
    use: str = ""

def component(config=TeacherConfig, name="mine", build=len, summary="Mine."):
    return Component(name, config, build, summary)

def forced(**changes):  # past the types that these tests check at run time, and users' runs do not
    made = component()
    for name, value in changes.items():
        object.__setattr__(made, name, value)
    return made

@hookimpl
def salt_students():
    return []

"""
    install("wrong", "1.2", {"wrong": f"wrong_{number}"}, {f"wrong_{number}": head + hook})
    assert expected in failure(discover(), "wrong")


def test_a_hook_of_a_later_version_may_be_optional(install):
    hook = "\n@hookimpl(optionalhook=True)\ndef salt_wombats(): return []\n"
    install("modern", "1", {"modern": "modern_one"}, {"modern_one": TEACHER.format(name="modern") + hook})
    assert discover().get("teacher", "modern")


def test_an_unknown_name_gives_the_nearest_and_all_the_others(registry):
    with pytest.raises(PluginError) as caught:
        registry.get("masker", "multi_blok")
    names = ", ".join(provided.component.name for provided in registry.of_kind("masker"))
    assert str(caught.value) == f"no masker is called 'multi_blok'; did you mean 'multiblock'? Known maskers: {names}."
    with pytest.raises(
        PluginError, match="no kind of component is called 'wombat'; the kinds are dataset, teacher, student"
    ):
        registry.get("wombat", "x")
    with pytest.raises(PluginError, match="No plugin provides a teacher"):
        Registry([]).get("teacher", "x")


def test_modules_in_hand_make_a_registry():
    module = ModuleType("in_hand")

    @hookimpl
    def salt_maskers():
        return [Component("mine", MaskerConfig, lambda config, grid: None, "Mine.")]

    module.salt_maskers = salt_maskers
    registry = Registry.from_modules({"hand": module})
    assert str(registry.get("masker", "mine")) == "masker 'mine' from module in_hand (plugin hand)"
    assert not issubclass(registry.get("masker", "mine").component.config, TeacherConfig)


def test_what_a_plugin_prints_is_not_what_the_command_says(install, capsys):
    source = "print('imported')\n" + TEACHER.format(name="chatty").replace(
        "    yield", "    print('called')\n    yield"
    )
    install("chatty", "1.0", {"chatty": "chatty_one"}, {"chatty_one": source})
    assert discover().get("teacher", "chatty")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "imported\ncalled\n")


def test_discovery_imports_no_heavy_library():
    code = """
import sys
from salt_toolkit.registry import discover
assert not discover().broken
print(sorted({"torch", "timm", "transformers", "av", "decord", "sklearn", "matplotlib"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

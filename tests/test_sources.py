"""TOML files, what they extend, and where each key was written."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from salt_toolkit.errors import RecipeError
from salt_toolkit.recipe.lines import key_lines
from salt_toolkit.recipe.reading import Override, read_source

names = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="="), max_size=4)
leaves = (
    st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.text(max_size=12)
    | st.lists(st.integers(0, 9) | st.text("a\"'\n#[="))
)
tables = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=12)


def leaf_keys(value, key=()):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaf_keys(inner, (*key, name))
    else:
        yield key


@given(st.dictionaries(names, tables, max_size=4))
def test_every_key_is_found_on_the_line_that_writes_it(table):
    text = tomli_w.dumps(table)
    found = key_lines(text)
    for key in leaf_keys(table):
        head = text.split("\n")[found[key] - 1].split("=")[0]
        assert tomllib.loads(f"{head} = 0") == {key[-1]: 0}


def test_lines_of_arrays_strings_and_inline_tables():
    text = 'a = 1\n[b]\nc = [\n  1,\n  2,\n]\nd = """\n[not.a.table]\nx = 3\n"""\n'
    text += 'e = {f = 1}\n[b.g]\n"h.i" = 2 # c\n[[j]]\nk = 1\n[[j]]\nk = 2\n'
    found = key_lines(text)
    assert found["a",] == 1
    assert found["b", "c"] == 3
    assert found["b", "d"] == 7
    assert found["b", "e", "f"] == 11
    assert found["b", "g", "h.i"] == 13
    assert found["j", "k"] == 15  # no section of a recipe is an array of tables
    assert ("not", "a", "table") not in found


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


def test_extends_merges_deeply_and_keeps_each_origin(tmp_path):
    write(
        tmp_path,
        base="[run]\nname = 'base'\nseed = 3\n[masker]\nuse = 'random'\nratio = 0.75\n",
        middle="extends = 'base.toml'\n[run]\nname = 'middle'\n",
        top="extends = 'middle.toml'\n[masker]\nratio = 0.9\n",
    )
    source = read_source(tmp_path / "top.toml")
    assert source.values == {"run": {"name": "middle", "seed": 3}, "masker": {"use": "random", "ratio": 0.9}}
    assert source.origin(("run", "seed")).file.endswith("base.toml")
    assert source.origin(("run", "seed")).line == 3
    assert source.origin(("run", "name")).file.endswith("middle.toml")
    assert source.origin(("masker", "ratio")).line == 3


def test_another_component_starts_afresh(tmp_path):
    write(
        tmp_path,
        base="[masker]\nuse = 'multiblock'\nratio = 0.75\nplacement = 'wrap'\n",
        top="extends = 'base.toml'\n[masker]\nuse = 'tube'\n",
        same="extends = 'base.toml'\n[masker]\nuse = 'multiblock'\nratio = 0.9\n",
    )
    assert read_source(tmp_path / "top.toml").values["masker"] == {"use": "tube"}
    same = read_source(tmp_path / "same.toml").values["masker"]
    assert same == {"use": "multiblock", "ratio": 0.9, "placement": "wrap"}


def test_extends_counts_from_the_files_own_folder(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(tmp_path, base="[run]\nname = 'x'\n")
    write(tmp_path / "deep", top="extends = '../base.toml'\n")
    monkeypatch.chdir(tmp_path)
    assert read_source(tmp_path / "deep" / "top.toml").values == {"run": {"name": "x"}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "\nextends = 'top.toml'"}, r"top.toml:2: extends: .* circle: top.toml -> top.toml"),
        (
            {"top": "extends = 'b.toml'", "b": "\n\nextends = 'top.toml'"},
            r"b.toml:3: extends: .* circle: top.toml -> b.toml -> top.toml",
        ),
        ({"top": "a = 1\nextends = 'none.toml'"}, r"top.toml:2: extends: extends 'none.toml', which does not exist"),
        ({"top": "extends = 3"}, r"top.toml:1: extends: found 3; expected one file name"),
        ({"top": "a = 1\nb = = 2\n"}, r"top.toml:2: is not valid TOML"),
        ({"top": "a = 1\na = 2\n"}, r"is not valid TOML"),
        ({"other": ""}, "there is no such recipe"),
        ({"top": f"a = {'[' * 3000}{']' * 3000}"}, "top.toml: tables and arrays lie more than 50 deep"),
        ({"top": f"[{'.'.join('a' * 3000)}]"}, "top.toml: tables and arrays lie more than 50 deep"),
        ({"top": f"a = {'[' * 60}{']' * 60}"}, "top.toml: tables and arrays lie more than 50 deep"),
        ({"top": f"a = {'9' * 5000}"}, "top.toml: cannot be read: Exceeds the limit"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(RecipeError, match=message):
        read_source(tmp_path / "top.toml")


def test_a_directory_or_a_binary_file_is_one_sentence(tmp_path):
    (tmp_path / "video.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read as a text file"):
        read_source(tmp_path / "video.toml")
    with pytest.raises(RecipeError, match="is a directory"):
        read_source(tmp_path)


def test_a_link_to_itself_is_one_sentence(tmp_path):
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    with pytest.raises(RecipeError, match=r"loop.toml: cannot be read as a text file: .*Too many levels"):
        read_source(tmp_path / "loop.toml")
    write(tmp_path, top="\nextends = 'loop.toml'")
    with pytest.raises(RecipeError, match=r"top.toml:2: extends: extends 'loop.toml', which does not exist"):
        read_source(tmp_path / "top.toml")


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path):
    (tmp_path / "marked.toml").write_text("[run]\nname = 'x'\n", encoding="utf-8-sig")
    source = read_source(tmp_path / "marked.toml")
    assert source.values == {"run": {"name": "x"}}
    assert source.origin(("run",)).line == 1


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("masker.ratio=0.9", ("masker", "ratio"), 0.9),
        ("student.model=vit_small_patch16_224", ("student", "model"), "vit_small_patch16_224"),
        ("clip.flip = true", ("clip", "flip"), True),
        ("clip.crop_scale=[0.5, 1.0]", ("clip", "crop_scale"), [0.5, 1.0]),
        ("dataset.root=/mnt/a=b c", ("dataset", "root"), "/mnt/a=b c"),
        ("run.name=", ("run", "name"), ""),
    ],
)
def test_overrides_are_read_as_toml_or_as_text(argument, key, value):
    override = Override.parse(argument)
    assert (override.key, override.value) == (key, value)


def test_an_override_that_is_nested_too_deeply_is_text():
    for depth in (60, 3000):
        text = "[" * depth + "]" * depth
        assert Override.parse(f"run.name={text}").value == text


@pytest.mark.parametrize("argument", ["masker.ratio", "=3", "a..b=1", "a b=1", f"{'.'.join('a' * 3000)}=1"])
def test_a_malformed_override_says_what_is_expected(argument):
    with pytest.raises(RecipeError, match=r"--set: found .* expected key=value"):
        Override.parse(argument)


def test_overrides_together_mean_the_same_in_any_order(tmp_path):
    write(tmp_path, top="[masker]\nuse = 'multiblock'\nplacement = 'wrap'\n")
    settings = [Override.parse("masker.use=random"), Override.parse("masker.ratio=0.5")]
    for order in (settings, settings[::-1]):
        assert read_source(tmp_path / "top.toml", order).values["masker"] == {"use": "random", "ratio": 0.5}

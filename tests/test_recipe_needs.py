"""Each command says which sections of a recipe it needs; a cache needs nothing of training."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

from salt_toolkit.errors import RecipeError, SettingError
from salt_toolkit.recipe import load_recipe

CACHING = """
[clip]
frames = 4
size = 16
[dataset]
use = "toy_squares"
clips = 6
[teachers.coarse]
use = "pixels"
patch = 8
[teachers.fine]
use = "toy_projection"
patch = 8
[cache]
dir = "latents"
"""
NEEDS = ("dataset", "teacher", "cache")


@pytest.fixture
def load(tmp_path, registry):
    def load_text(text, *overrides, needs=NEEDS):
        (tmp_path / "recipe.toml").write_text(text)
        return load_recipe(tmp_path / "recipe.toml", registry, overrides, needs=needs)

    return load_text


def problems(load, text, *overrides, needs=NEEDS):
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides, needs=needs)
    return caught.value.problems


def test_a_cache_needs_a_data_set_and_teachers(load):
    recipe = load(CACHING)
    assert [each.name for each in recipe.teachings()] == ["coarse", "fine"]
    assert (recipe.run.seed, recipe.run.name, recipe.train.batch_size) == (0, "", 32)
    assert load(recipe.to_toml()) == recipe
    with pytest.raises(RecipeError, match=r"method: missing; this needs the section \[method\]"):
        assert recipe.method


def test_what_it_needs_is_asked_for(load):
    (found,) = problems(load, CACHING[: CACHING.index("[cache]")])
    assert (found.key, found.kind) == ("cache.dir", "missing")
    start, end = CACHING.index("[teachers.coarse]"), CACHING.index("[cache]")
    (found,) = problems(load, CACHING[:start] + CACHING[end:])
    assert (found.key, found.kind) == ("teacher.use", "missing")
    assert load(CACHING[: CACHING.index("[cache]")], needs=NEEDS[:2]).cache is None


def test_training_needs_more_of_the_same_recipe(load):
    found = {problem.key for problem in problems(load, CACHING, needs=None)}
    assert found == {
        "run.name",
        "train",
        "schedules.lr",
        "student.use",
        "predictor.use",
        "masker.use",
        "teachers.coarse.objective",
        "teachers.fine.objective",
    }


def test_what_it_does_not_need_may_be_there_and_must_be_right(load):
    more = CACHING + '[train]\nepochs = 3\n[masker]\nuse = "random"\n[schedules.ratio]\nuse = "constant"\nvalue = 1.0\n'
    assert load(more).masker.use == "random"
    (found,) = problems(load, more, "masker.ratoi=0.5")
    assert (found.key, found.kind, found.file) == ("masker.ratoi", "extra_forbidden", "--set")


def test_the_command_fills_a_cache_from_such_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(CACHING)
    command = [sys.executable, "-m", "salt_toolkit", "cache", "recipe.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 clips in " in done.stdout
    assert list((tmp_path / "latents" / "train").rglob("*.safetensors"))


@pytest.mark.parametrize("training", ["", "[train]\nmax_steps = 1\n"], ids=["only caches", "trains"])
def test_check_takes_a_recipe_without_training_sections_as_one_that_fills_a_cache(tmp_path, training):
    path = tmp_path / "recipe.toml"
    path.write_text(CACHING + training)
    command = [sys.executable, "-m", "salt_toolkit", "check", str(path), "--json", "--preflight"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(done.stdout)
    if training:
        assert not report["ok"] and {"run.name", "student.use"} <= {each["key"] for each in report["findings"]}
        return
    assert report["ok"] and report["facts"]["clips"] == 6
    assert [each["name"] for each in report["facts"]["teachers"]] == ["coarse", "fine"]
    # Two tubelets of 2 x 2 tokens of 2 x 8 x 8 x 3 numbers, in bf16; the other teacher says its own.
    assert report["facts"]["cache_gb"] * 1e9 > 6 * 8 * 384 * 2
    (finding,) = report["findings"]
    assert finding["severity"] == "warning" and "only fills a cache" in finding["message"]


def test_problems_and_rules_survive_pickling(load):
    with pytest.raises(RecipeError) as caught:
        load(CACHING, "teachers.fine.objective.use=mse", "teachers.fine.objective.statistics=running")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    (problem,) = again.problems
    assert (problem.kind, problem.leave_out) == ("rule", ("teachers.fine.objective.statistics",))
    rule = pickle.loads(pickle.dumps(SettingError("no", fields=["a"], leave_out=["b"])))
    assert (str(rule), rule.fields, rule.leave_out) == ("no", ("a", "b"), ("b",))

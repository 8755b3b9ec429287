"""Earlier runs as teachers: what they need, what they are, which of their layers teach, and whose terms they carry."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from salt_teachers import build_run
from salt_teachers.config import RunConfig
from teaching_runs import CLIP, RECIPE, change_environment, load, taught_by, train

from salt_toolkit import CheckpointError, ClipSpec, GeometryError, MissingArtifact, ModelCard
from salt_toolkit.check.deep import check_built
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.context import video_inputs
from salt_toolkit.runs.directory import load_student, stored_cards
from salt_toolkit.teaching.fingerprint import identify
from salt_toolkit.testing import TeacherContract, random_batch

TINY_VIT = "vit_tiny_patch16_224"
STUDENT = f'model = "{TINY_VIT}"\ndim = 24\ndepth = 1\nheads = 3\npatch = 8'


# A student that began as an image model.


def put_into_cache(hub_cache, name):
    """Writes random weights to where the hub's client keeps timm's downloads."""
    torch.manual_seed(0)
    folder = hub_cache / f"models--timm--{timm.create_model(name).pretrained_cfg['hf_hub_id'].partition('/')[2]}"
    snapshot = folder / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    save_file(timm.create_model(name).state_dict(), snapshot / "model.safetensors")


def test_a_pretrained_student_teaches_when_the_hubs_weights_are_gone(hub_cache, tmp_path, monkeypatch):
    """What it says is what the pretrained network says with the trained weights; nobody is asked for the old ones."""
    name = "test_vit2.r160_in1k"
    put_into_cache(hub_cache, name)
    recipe = RECIPE.replace(STUDENT, f'model = "{name}"\npretrained = true').replace("size = 16", "size = 32")
    recipe = recipe.replace('use = "pixels"\npatch = 8', 'use = "pixels"\npatch = 16')
    path, clip = train(tmp_path, recipe=recipe), ClipSpec(frames=4, stride=1, size=32)
    network = load(tmp_path, recipe=recipe).student.build(clip=clip).eval()
    before = network(random_batch(clip))
    network.load_state_dict(load_file(path / "student.safetensors"))
    shutil.rmtree(hub_cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the hub was asked"))
    config = RunConfig(path=str(path))
    latents = build_run(config, clip=clip)(random_batch(clip))
    with torch.no_grad():
        assert torch.equal(latents, network(random_batch(clip)))
    assert not torch.equal(latents, before)
    assert load_student(path).positions.requires_grad  # as in its own training
    assert check_built(load(tmp_path, recipe=taught_by(path))) == []
    assert config.card() == stored_cards(path)[1]
    assert config.card().labels == "ImageNet-1k"


# Files that are not the run's.


def findings(tmp_path, path):
    return [
        (finding.severity, finding.message) for finding in check_recipe(load(tmp_path, recipe=taught_by(path))).findings
    ]


def test_a_truncated_student_is_an_error_of_check(first_run, tmp_path):
    path = shutil.copytree(first_run, tmp_path / "torn")
    weights = (path / "student.safetensors").read_bytes()
    (path / "student.safetensors").write_bytes(weights[:-5])
    ((severity, message),) = findings(tmp_path, path)
    assert severity == "error"
    assert "is truncated or not a checkpoint" in message and "\n" not in message
    with pytest.raises(CheckpointError, match="is truncated"):
        RunConfig(path=str(path)).token_spec(CLIP)


@pytest.mark.parametrize("bigger", [True, False])
def test_the_student_of_another_run_is_refused(first_run, deep_run, tmp_path, bigger):
    own, other = (first_run, deep_run) if bigger else (deep_run, first_run)
    path = shutil.copytree(own, tmp_path / "mixed")
    shutil.copy(other / "student.safetensors", path)
    ((severity, message),) = findings(tmp_path, path)
    assert severity == "error"
    assert "holds another student than the one that its run has trained" in message and "\n" not in message
    with pytest.raises(CheckpointError, match=r"unknown|lacks|another student") as told:
        build_run(RunConfig(path=str(path)), clip=CLIP)
    assert "\n" not in str(told.value)
    assert findings(tmp_path, own) == []


def test_the_deep_check_of_a_run_is_silent(first_run, deep_run, tmp_path, recwarn):
    assert check_built(load(tmp_path, recipe=taught_by(first_run))) == []
    assert check_built(load(tmp_path, "teacher.layer=[1,2]", recipe=taught_by(deep_run))) == []
    assert [str(warning.message) for warning in recwarn] == []


def test_a_student_that_does_not_fit_is_told_in_our_words(first_run, deep_run, tmp_path):
    path = shutil.copytree(first_run, tmp_path / "mixed")
    shutil.copy(deep_run / "student.safetensors", path)
    with pytest.raises(CheckpointError, match=r"does not match its run's student: it has unknown 24 weights") as told:
        load_student(path)
    assert "\n" not in str(told.value) and "state_dict" not in str(told.value)


# Who it is.


def fingerprint(path, **settings):
    return identify("run", RunConfig(path=str(path), **settings), video_inputs(CLIP)).fingerprint


def test_what_mattered_in_training_alone_does_not_change_who_it_is(first_run, tmp_path):
    path = shutil.copytree(first_run, tmp_path / "copy")
    recipe = (path / "recipe.toml").read_text()
    for old, new in (
        ("drop_path = 0.0", "drop_path = 0.3"),
        ("grad_checkpointing = false", "grad_checkpointing = true"),
    ):
        assert old in recipe
        (path / "recipe.toml").write_text(recipe.replace(old, new))
        assert fingerprint(path) == fingerprint(first_run), new
    (path / "recipe.toml").write_text(recipe.replace("tubelet = 2", "tubelet = 4"))
    assert fingerprint(path) != fingerprint(first_run)


# Which layers.


class TestLayersOfARun(TeacherContract):
    """Two of three blocks; the third is left out, and costs nothing."""

    plugin = "salt_teachers"

    @pytest.fixture(autouse=True)
    def run(self, deep_run):
        self.section = {"use": "run", "path": str(deep_run), "layer": [2, 1], "norm": "layer"}


def hidden_by_hooks(path, batch):
    """The student's tokens after each block, behind its last norm; the blocks are watched from outside."""
    student, found = load_student(path), []
    for block in student.blocks:
        block.register_forward_hook(lambda _module, _inputs, tokens: found.append(tokens))
    with torch.no_grad():
        last = student(batch)
        return [student.norm(tokens) for tokens in found], last


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_layers_are_the_students_blocks(deep_run, norm):
    batch = random_batch(CLIP)
    hidden, last = hidden_by_hooks(deep_run, batch)
    if norm == "layer":
        hidden, last = ([torch.nn.functional.layer_norm(t, (24,), eps=1e-6) for t in part] for part in (hidden, [last]))
        (last,) = last

    def latents(**settings):
        return build_run(RunConfig(path=str(deep_run), norm=norm, **settings), clip=CLIP)(batch)

    assert torch.equal(latents(), last)
    for layer in (3, -1, (3,)):
        assert torch.equal(latents(layer=layer), last)
    assert torch.equal(latents(layer=1), hidden[0])
    assert torch.equal(latents(layer=-2), hidden[1])
    assert torch.equal(latents(layer=(3, 1)), torch.cat([hidden[2], hidden[0]], dim=-1))
    torch.testing.assert_close(latents(layer=(1, 2, 3), join="mean"), sum(hidden) / 3)


def test_layers_are_part_of_who_it_is_and_the_last_is_the_default(deep_run):
    default = fingerprint(deep_run)
    assert {fingerprint(deep_run, layer=layer) for layer in ("last", 3, -1, (3,), (-1,))} == {default}
    assert "layers" not in identify("run", RunConfig(path=str(deep_run)), video_inputs(CLIP)).fields["config"]
    others = [{"layer": 1}, {"layer": (1, 2)}, {"layer": (2, 1)}, {"layer": (1, 2), "join": "mean"}]
    assert len({default, *(fingerprint(deep_run, **settings) for settings in others)}) == 5
    assert fingerprint(deep_run, layer=-3) == fingerprint(deep_run, layer=1)


@pytest.mark.parametrize(
    ("layer", "message"),
    [(4, "names no block of this encoder; it has 3"), ((1, 1), "names a block twice"), (0, "names no block")],
)
def test_layers_that_cannot_be_are_refused(deep_run, layer, message):
    with pytest.raises(GeometryError, match=message):
        RunConfig(path=str(deep_run), layer=layer).token_spec(CLIP)
    with pytest.raises(ValidationError, match="has no effect with one layer"):
        RunConfig(path=str(deep_run), join="mean")


def test_a_student_that_gives_its_last_tokens_alone_says_so(tmp_path):
    path = train(tmp_path, recipe=RECIPE.replace(f'use = "timm_vit"\n{STUDENT}', 'use = "toy_mixer"\npatch = 8'))
    assert RunConfig(path=str(path)).token_spec(CLIP).dim == 32
    assert findings(tmp_path, path) == []
    for layer in (1, (1, 2)):
        with pytest.raises(GeometryError, match="gives no tokens but its last ones"):
            RunConfig(path=str(path), layer=layer).token_spec(CLIP)
    with torch.no_grad():
        expected = load_student(path)(random_batch(CLIP))
    assert torch.equal(build_run(RunConfig(path=str(path), layer=-1), clip=CLIP)(random_batch(CLIP)), expected)


# Whose terms.

TERMS = {"licence": "cc-by-nc-4.0", "labels": "Kinetics-710"}


def test_a_run_keeps_the_terms_of_teachers_that_have_moved(first_run, tmp_path):
    ancestor = shutil.copytree(first_run, tmp_path / "ancestor")
    change_environment(ancestor, cards={"teacher": TERMS, "student": None})
    second = train(tmp_path, recipe=taught_by(ancestor))
    assert json.loads((second / "environment.json").read_text())["cards"] == {"teacher": TERMS, "student": None}
    third = train(tmp_path, "run.name=third", recipe=taught_by(second))
    (second / "student.safetensors").unlink()
    change_environment(ancestor, cards={"teacher": {"licence": "unknown", "labels": "unknown"}})
    train(tmp_path, recipe=taught_by(ancestor))  # going on does not forget
    shutil.rmtree(ancestor)
    assert RunConfig(path=str(second)).card() == ModelCard("cc-by-nc-4.0", "Kinetics-710")
    shutil.rmtree(second)
    assert RunConfig(path=str(third)).card() == ModelCard("cc-by-nc-4.0", "Kinetics-710")
    assert ("note", "its weights are cc-by-nc-4.0: they are for non-commercial use only") in findings(tmp_path, third)


def test_terms_of_several_are_named_once_each(first_run, tmp_path):
    path = shutil.copytree(first_run, tmp_path / "ancestor")
    both = {"licence": "apache-2.0 and cc-by-nc-4.0", "labels": "none"}
    own = {"licence": "own", "labels": "none"}
    change_environment(
        path, cards={"teachers.one": TERMS, "teachers.two": both, "teachers.three": own, "student": None}
    )
    assert RunConfig(path=str(path)).card() == ModelCard("apache-2.0 and cc-by-nc-4.0", "Kinetics-710")


def test_a_run_that_names_itself_is_one_sentence(tmp_path):
    itself = tmp_path / "second"
    for _ in range(2):  # also when the recipe lies there by now
        with pytest.raises(MissingArtifact) as told:
            train(tmp_path, recipe=taught_by(itself))
    assert f"the run in {itself} is its own teacher, by its recipe. Name another run" in str(told.value)
    assert [severity for severity, _ in findings(tmp_path, itself)] == ["missing"]
    (itself / "environment.json").unlink()
    with pytest.raises(MissingArtifact, match="is its own teacher"):
        RunConfig(path=str(itself)).card()
    assert [severity for severity, _ in findings(tmp_path, itself)] == ["missing"]


def test_runs_that_name_one_another_are_one_sentence(tmp_path):
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").write_text(taught_by(tmp_path / other))
    with pytest.raises(MissingArtifact, match="is its own teacher"):
        RunConfig(path=str(tmp_path / "one")).card()

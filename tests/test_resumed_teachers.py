"""A run goes on with the teacher that it began with: one that was downloaded, one that has moved, no other."""

from __future__ import annotations

import json
import shutil
from functools import partial

import huggingface_hub
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from salt_toolkit.errors import RunError
from salt_toolkit.recipe import load_recipe
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.teaching.fingerprint import identify
from salt_toolkit.train import run
from salt_toolkit.train.run import run_recipe

HUB_ID = "somebody/their-model"


def save_checkpoint(folder, seed=0):
    """A small VideoMAE, as transformers saves it."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40}
    config = VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, tubelet_size=2, **sizes)
    model = VideoMAEModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no published checkpoint has biases of zero
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(hub_cache, tmp_path, monkeypatch):
    """A hub that holds one repository, in ``published``; what is asked of it comes into the cache."""
    published = save_checkpoint(tmp_path / "published")

    def download(name, **_):
        assert name == HUB_ID
        folder = hub_cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0")
        return str(shutil.copytree(published, folder / "snapshots" / "0"))

    files = [huggingface_hub.hf_api.RepoSibling(rfilename="model.safetensors")]
    info = type("Info", (), {"siblings": files})
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return published


@pytest.fixture
def recipe(small_recipe, tmp_path, registry):
    """The small recipe of six steps with a VideoMAE as its teacher: the only one, or a named one."""

    def load(checkpoint, *, header="[teacher]"):
        text = small_recipe("train.max_steps=6", "train.checkpoint_every=3").to_toml()
        before, _, after = text.partition("[teacher]")
        teacher = f'{header}\nuse = "videomae"\ncheckpoint = "{checkpoint}"\n'
        (tmp_path / "taught.toml").write_text(f"{before}[{after.partition('[')[2]}\n{teacher}")
        return load_recipe(tmp_path / "taught.toml", registry)

    return load


def environment(loaded):
    return json.loads(RunDirectory.of(loaded).environment.read_text())


def unfinish(loaded, **environment_values):
    """Takes the last step away, so that the run has to go on; changes what it had written down."""
    directory = RunDirectory.of(loaded)
    directory.student.unlink(missing_ok=True)
    shutil.rmtree(directory.checkpoints / "step-00000006", ignore_errors=True)
    directory.environment.write_text(json.dumps({**environment(loaded), **environment_values}))


def fingerprint(loaded):
    return identify("videomae", loaded.teacher.config, loaded.inputs()).fingerprint


def test_a_downloaded_teacher_is_written_down_before_the_first_checkpoint(hub, recipe, monkeypatch):
    loaded, seen = recipe(HUB_ID), []
    train = run.train

    def watched(*arguments, built, **keywords):
        def then(method):
            seen.append(environment(loaded)["teachers"])
            built(method)
            assert not RunDirectory.of(loaded).checkpoints.exists()
            seen.append(environment(loaded)["teachers"])

        return train(*arguments, built=then, **keywords)

    monkeypatch.setattr(run, "train", watched)
    run_recipe(loaded)
    assert seen == [{"teacher": None}, {"teacher": fingerprint(loaded)}]
    assert environment(loaded)["teachers"] == seen[1]


@pytest.mark.parametrize("known_before_building", [True, False])
def test_a_run_does_not_go_on_with_what_the_hub_holds_by_now(hub, hub_cache, recipe, known_before_building):
    loaded = recipe(HUB_ID)
    run_recipe(loaded)
    first = environment(loaded)
    unfinish(loaded)
    shutil.rmtree(hub_cache)
    save_checkpoint(hub, seed=1)
    if known_before_building:
        huggingface_hub.snapshot_download(HUB_ID)
    with pytest.raises(RunError, match=r"began with other teachers: teacher had the fingerprint \w+, and has \w+ now"):
        run_recipe(loaded)
    assert environment(loaded)["teachers"] == first["teachers"]
    shutil.rmtree(hub_cache)
    save_checkpoint(hub)
    assert run_recipe(loaded).complete


def test_a_run_of_an_earlier_version_is_completed(hub, hub_cache, recipe):
    """It had written down that its teacher was unknown."""
    loaded = recipe(HUB_ID)
    run_recipe(loaded)
    for _ in range(2):  # with the weights here, and to be downloaded once more
        unfinish(loaded, teachers={"teacher": None})
        run_recipe(loaded)
        assert environment(loaded)["teachers"] == {"teacher": fingerprint(loaded)}
        shutil.rmtree(hub_cache)


@pytest.mark.parametrize(
    ("header", "key"),
    [("[teacher]", "teacher.checkpoint"), ("[teachers.motion]", "teachers.motion.checkpoint")],
)
def test_a_checkpoint_may_move(recipe, tmp_path, capsys, header, key):
    load = partial(recipe, header=header)
    here = save_checkpoint(tmp_path / "here")
    run_recipe(load(here))
    there = shutil.copytree(here, tmp_path / "there")
    assert run_recipe(load(there)) is None  # complete, and the same teacher
    unfinish(load(there))
    capsys.readouterr()
    assert run_recipe(load(there)).complete
    told = " ".join(capsys.readouterr().err.split()).replace(" ", "")
    assert f'changedsincetherunbegan:{key}:was"{here}",now"{there}"' in told
    other = save_checkpoint(tmp_path / "other", seed=1)
    for _ in range(2):  # a complete run, and one to go on with
        with pytest.raises(RunError, match="began with other teachers"):
            run_recipe(load(other))
        unfinish(load(there))


def test_a_checkpoint_that_cannot_be_compared_may_not_move(recipe, tmp_path):
    here = save_checkpoint(tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "there")
    run_recipe(recipe(here))
    unknown = r"teacher.checkpoint: was .*here\", now .*\" \(nothing here tells whether its weights are the same\)"
    with pytest.raises(RunError, match=unknown):
        run_recipe(recipe(tmp_path / "nowhere"))  # not here now
    unfinish(recipe(here), teachers={"teacher": None})
    with pytest.raises(RunError, match=unknown):
        run_recipe(recipe(there))  # unknown when the run began
    assert run_recipe(recipe(here)).complete

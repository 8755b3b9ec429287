"""The pixel teacher against plain numpy, and earlier runs as teachers, in every size of clip."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from salt_teachers import build_pixels, build_run
from salt_teachers.config import PixelsConfig, RunConfig
from teaching_runs import CLIP, RECIPE

from salt_toolkit import CheckpointError, ClipSpec, MissingArtifact, ModelCard
from salt_toolkit.assemble import build_teachers
from salt_toolkit.context import video_inputs
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.recipe import load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import load_student
from salt_toolkit.teaching.alignment import fit_clip
from salt_toolkit.teaching.fingerprint import identify
from salt_toolkit.testing import TeacherContract, random_batch
from salt_toolkit.train.run import run_recipe


class TestPixels(TeacherContract):
    plugin = "salt_teachers"
    section = {"use": "pixels", "patch": 8}


@pytest.mark.parametrize("norm", ["none", "tubelet", "clip"])
def test_pixels_are_cut_and_normalised_as_numpy_does(norm):
    batch = random_batch(CLIP)
    config = PixelsConfig(patch=8, norm=norm)
    latents = build_pixels(config, clip=CLIP)(batch).numpy()
    clips = batch.tensors["clip"].numpy().astype(np.float64) / 255
    if norm == "clip":
        axes = (1, 2, 3)
        clips = (clips - clips.mean(axes, keepdims=True)) / np.sqrt(clips.var(axes, ddof=1, keepdims=True) + 1e-6)
    for number, (frame, row, column) in enumerate(np.ndindex(2, 2, 2)):
        place = np.s_[:, 2 * frame : 2 * frame + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        cut = clips[place].transpose(0, 4, 1, 2, 3).reshape(2, -1)
        if norm == "tubelet":
            cut = (cut - cut.mean(1, keepdims=True)) / np.sqrt(cut.var(1, ddof=1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(latents[:, number], cut, rtol=1e-4, atol=1e-5)


def test_a_plain_clip_stays_finite():
    batch = random_batch(CLIP)
    batch.tensors["clip"].fill_(77)
    for norm in ("none", "tubelet", "clip"):
        assert torch.isfinite(build_pixels(PixelsConfig(patch=8, norm=norm), clip=CLIP)(batch)).all()


def test_an_earlier_run_teaches_with_its_students_tokens(first_run):
    config = RunConfig(path=str(first_run))
    assert list(config.missing()) == []
    assert (config.token_spec(CLIP).grid.num_tokens, config.token_spec(CLIP).dim) == (8, 24)
    teacher = build_run(config, clip=CLIP)
    batch = random_batch(CLIP)
    latents = teacher(batch)
    with torch.no_grad():
        torch.testing.assert_close(latents, load_student(first_run)(batch), rtol=0, atol=0)
    # The file itself says that these are the trained weights, and not those of a new student.
    stored = load_file(first_run / "student.safetensors")
    found = teacher.student.state_dict()
    assert stored.keys() == found.keys()
    assert all(torch.equal(stored[name], found[name]) for name in stored)
    assert not teacher.training
    assert not latents.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert config.cost(video_inputs(CLIP)).parameters == sum(parameter.numel() for parameter in teacher.parameters())


class TestRun(TeacherContract):
    """On clips of 32 pixels, where the run learned from 16."""

    plugin = "salt_teachers"

    @pytest.fixture(autouse=True)
    def run(self, first_run):
        self.section = {"use": "run", "path": str(first_run), "norm": "layer"}


@pytest.mark.parametrize(
    "clip", [ClipSpec(frames=4, size=32), ClipSpec(frames=9, size=16), ClipSpec(frames=2, size=12)]
)
def test_the_run_decides_what_its_student_sees(first_run, clip):
    """Any clip becomes the run's four frames of 16 pixels, and gives the run's grid at the run's cost."""
    config, batch = RunConfig(path=str(first_run)), random_batch(clip)
    assert config.token_spec(clip) == TokenSpec(Grid(2, 2, 2), 24)
    assert config.cost(video_inputs(clip)) == config.cost(video_inputs(CLIP))
    fitted = fit_clip(batch.clip, frames=4, size=16).permute(0, 2, 3, 4, 1)
    with torch.no_grad():
        expected = load_student(first_run)(ClipBatch(batch.clip_ids, {"clip": fitted}))
    teacher = build_run(config, clip=clip)
    assert teacher.token_spec == config.token_spec(clip)
    assert torch.equal(teacher(batch), expected)


def test_a_student_on_another_grid_learns_from_a_run(first_run, tmp_path):
    (tmp_path / "second.toml").write_text(
        RECIPE.replace("size = 16", "size = 32").replace(
            'use = "pixels"\npatch = 8', f'use = "run"\npath = "{first_run}"'
        )
    )
    recipe = load_recipe(tmp_path / "second.toml", discover(), [f"run.dir={tmp_path}"])
    teacher = build_teachers(recipe)["teacher"]
    assert teacher.token_spec == TokenSpec(Grid(2, 4, 4), 24)
    assert teacher(random_batch(recipe.clip)).shape == (2, 32, 24)
    run_recipe(recipe)  # two steps, to the end
    assert (tmp_path / "first" / "student.safetensors").is_file()


def test_the_layer_norm_has_no_weights(first_run, tmp_path):
    """On a student whose own last norm triples its tokens."""
    path, batch = shutil.copytree(first_run, tmp_path / "tripled"), random_batch(CLIP)
    weights = load_file(path / "student.safetensors")
    (name,) = (key for key in weights if key.endswith("norm.weight"))
    save_file(weights | {name: 3 * weights[name]}, path / "student.safetensors")
    plain = build_run(RunConfig(path=str(path)), clip=CLIP)(batch).double().numpy()
    normed = build_run(RunConfig(path=str(path), norm="layer"), clip=CLIP)(batch)
    expected = (plain - plain.mean(-1, keepdims=True)) / np.sqrt(plain.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normed.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(plain - expected).max() > 1


def fingerprint(path, clip=CLIP, **settings):
    return identify("run", RunConfig(path=str(path), **settings), video_inputs(clip)).fingerprint


def test_a_run_is_the_same_teacher_wherever_it_lies(first_run, tmp_path, monkeypatch):
    copy = shutil.copytree(first_run, tmp_path / "elsewhere")
    assert fingerprint(copy) == fingerprint(first_run)
    monkeypatch.chdir(tmp_path)
    assert fingerprint("elsewhere") == fingerprint("./elsewhere/") == fingerprint(first_run)
    assert fingerprint(copy, ClipSpec(frames=8, size=32)) == fingerprint(first_run)  # it sees its own clip
    fields = identify("run", RunConfig(path="elsewhere"), video_inputs(CLIP)).fields
    assert "elsewhere" not in str(fields)
    assert "pixels" not in str(fields)  # what its own teacher was is in its weights
    assert fields["config"]["preprocessing"] == {"frames": 4, "size": 16}
    assert fields["config"]["student"]["use"] == "timm_vit"
    # Its loader, its name and its schedule do not decide its tokens.
    changed = (copy / "recipe.toml").read_text().replace("max_steps = 2", "max_steps = 3")
    (copy / "recipe.toml").write_text(changed.replace('name = "first"', 'name = "other"'))
    assert fingerprint(copy) == fingerprint(first_run)


def test_another_run_is_another_teacher(first_run, tmp_path):
    copy = shutil.copytree(first_run, tmp_path / "copy")
    recipe = (copy / "recipe.toml").read_text()
    found = {fingerprint(copy), fingerprint(copy, norm="layer")}
    for old, new in (("heads = 3", "heads = 4"), ("\nsize = 16", "\nsize = 32"), ("\nframes = 4", "\nframes = 8")):
        assert recipe.count(old) == 1, old
        (copy / "recipe.toml").write_text(recipe.replace(old, new))
        found.add(fingerprint(copy))
    (copy / "recipe.toml").write_text(recipe)
    weights = (copy / "student.safetensors").read_bytes()
    (copy / "student.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert len(found | {fingerprint(copy)}) == 6
    (copy / "student.safetensors").unlink()
    assert RunConfig(path=str(copy)).weight_files() == ()
    with pytest.raises(MissingArtifact, match="has not finished"):
        fingerprint(copy)


def test_the_identity_of_pixels_is_their_cut_and_norm():
    fingerprints = {
        identify("pixels", PixelsConfig(**settings), video_inputs(CLIP)).fingerprint
        for settings in ({"patch": 8}, {"patch": 8, "norm": "clip"}, {"patch": 4}, {"patch": 8, "tubelet": 4})
    }
    assert len(fingerprints) == 4
    assert identify("pixels", PixelsConfig(patch=8), video_inputs(CLIP)) == identify(
        "pixels", PixelsConfig(patch=8, tubelet=2), video_inputs(CLIP)
    )
    assert identify("pixels", PixelsConfig(), video_inputs(CLIP)).fields["weights"] == "none"
    assert PixelsConfig().card() is None


VIDEOMAE2 = 'use = "videomae2"\ncheckpoint = "OpenGVLab/VideoMAEv2-Base"'
VJEPA2 = 'use = "vjepa2"\ncheckpoint = "facebook/vjepa2-vitg-fpc64-256"'
PIXELS = 'use = "pixels"\npatch = 8'


def run_with(folder, *teachers, **changes):
    """A run's directory whose recipe names these teachers; cards need no weights."""
    folder.mkdir()
    tables = "".join(f"[teachers.t{number}]\n{text}\n" for number, text in enumerate(teachers))
    recipe = RECIPE.replace(f"[teacher]\n{PIXELS}\n", tables if len(teachers) > 1 else f"[teacher]\n{teachers[0]}\n")
    for old, new in changes.items():
        recipe = recipe.replace(old, new)
    (folder / "recipe.toml").write_text(recipe)
    return str(folder)


def test_terms_and_labels_of_its_own_teachers_are_carried_over(tmp_path):
    nc = run_with(tmp_path / "nc", VIDEOMAE2)
    assert RunConfig(path=nc).card() == ModelCard("cc-by-nc-4.0", "Kinetics-710")
    assert RunConfig(path=nc).card().non_commercial
    free = run_with(tmp_path / "free", VJEPA2)
    assert RunConfig(path=free).card() == ModelCard("apache-2.0", "none")
    both = run_with(tmp_path / "both", VJEPA2, VIDEOMAE2)
    assert RunConfig(path=both).card() == ModelCard("apache-2.0 and cc-by-nc-4.0", "Kinetics-710")
    assert RunConfig(path=both).card().non_commercial
    again = run_with(tmp_path / "again", f'use = "run"\npath = "{both}"')
    assert RunConfig(path=again).card() == RunConfig(path=both).card()


def test_a_run_from_pixels_alone_is_ones_own_unless_it_began_as_something_else(tmp_path):
    assert RunConfig(path=run_with(tmp_path / "own", PIXELS)).card() == ModelCard("own", "none")
    begun = run_with(tmp_path / "begun", PIXELS, **{"dim = 24\ndepth = 1\nheads = 3\npatch = 8": "pretrained = true"})
    assert RunConfig(path=begun).card() == ModelCard("apache-2.0", "ImageNet-21k, ImageNet-1k")
    random = run_with(tmp_path / "random", VJEPA2 + '\nweights = "random"')
    assert RunConfig(path=random).card() == ModelCard("own", "none")
    for path in (tmp_path / "nothing", run_with(tmp_path / "lost", f'use = "run"\npath = "{tmp_path}/gone"')):
        assert RunConfig(path=str(path)).card() == ModelCard("unknown", "unknown")
    (tmp_path / "own" / "recipe.toml").write_text("[clip")
    assert RunConfig(path=str(tmp_path / "own")).card() == ModelCard("unknown", "unknown")


def test_a_run_that_is_not_there_or_not_finished_is_missing_with_a_fix(first_run, tmp_path):
    (absent,) = RunConfig(path=str(tmp_path / "none")).missing()
    assert "holds no run" in absent.what
    half = tmp_path / "half"
    half.mkdir()
    (half / "recipe.toml").write_text((first_run / "recipe.toml").read_text())
    (unfinished,) = RunConfig(path=str(half)).missing()
    assert "has not finished" in unfinished.what
    assert "salt run" in unfinished.fix
    with pytest.raises(MissingArtifact):
        build_run(RunConfig(path=str(half)), clip=CLIP)


def test_truncated_weights_are_one_sentence(first_run, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "recipe.toml").write_text((first_run / "recipe.toml").read_text())
    weights = (first_run / "student.safetensors").read_bytes()
    (broken / "student.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(
        CheckpointError, match=r"student.safetensors is truncated or not a checkpoint \(it has \d+ bytes"
    ):
        load_student(broken)

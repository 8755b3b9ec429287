"""The demo: videos whose labels are motion, and a story that ends with figures."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from salt_demo.motion import (
    DIRECTIONS,
    FADE,
    LABELS,
    NUM_FRAMES,
    SIZE,
    SPEEDS,
    _meeting,
    _strength,
    draw_motion,
)
from salt_demo.story import _lead, run_demo
from salt_demo.videos import write_demo_data
from sklearn.linear_model import RidgeClassifier

from salt_toolkit.errors import DataError, RunError
from salt_toolkit.seeding import generator_for

SIZES = {"train": 1000, "validation": 600}


def clips_of(split, num_clips, motions=LABELS):
    labels = np.arange(num_clips) % len(motions)
    clips = [
        draw_motion(generator_for(0, "demo", split, number), label=LABELS.index(motions[label]), split=split)
        for number, label in enumerate(labels)
    ]
    return np.stack(clips), labels


CROSSING = tuple(label for label in LABELS if label.partition("_")[0] in DIRECTIONS)


@pytest.mark.parametrize("alike", [CROSSING, ("collide", "pass")], ids=["crossing", "meeting"])
def test_no_single_frame_gives_the_label_away(alike):
    (train, labels), (held_out, truth) = (clips_of(split, count, alike) for split, count in SIZES.items())
    chance = 1 / len(alike)
    for frame in (0, NUM_FRAMES // 2, NUM_FRAMES - 1):
        probe = RidgeClassifier(alpha=100.0).fit(train[:, frame, ::2, ::2].reshape(len(train), -1) / 255, labels)
        score = probe.score(held_out[:, frame, ::2, ::2].reshape(len(held_out), -1) / 255, truth)
        # Four standard errors of a guess.
        assert score < chance + 4 * np.sqrt(chance * (1 - chance) / len(truth))


def ink_of(clip):
    """How far each pixel is from the background: a corner-to-corner median of every frame."""
    return np.abs(clip.astype(float) - np.median(clip, axis=(1, 2), keepdims=True)).sum(axis=-1)


def draw(label, number=0):
    return draw_motion(generator_for(0, "demo", "train", number), label=LABELS.index(label), split="train")


@pytest.mark.parametrize("number", range(6))
def test_growing_and_shrinking_are_one_film_forwards_and_backwards(number):
    np.testing.assert_array_equal(draw("approach", number), draw("recede", number)[::-1])
    area = (ink_of(draw("approach", number)) > 60).sum(axis=(1, 2))
    assert area[-1] > 1.5 * area[0]


@pytest.mark.parametrize("number", range(6))
def test_digits_appear_and_vanish_once_and_wholly(number):
    for label, order in (("appear", 1), ("vanish", -1)):
        ink = ink_of(draw(label, number)).sum(axis=(1, 2))[::order]
        assert ink[0] == 0 < ink[-1]
        assert (np.diff(ink) >= -0.01 * ink[-1]).all()
    # Whatever a vanishing digit looks like, an appearing one looks like it too, in a frame elsewhere.
    shown = [_strength(begin, "appear").tolist() for begin in range(1, NUM_FRAMES - FADE + 1)]
    hidden = [_strength(begin, "vanish")[::-1].tolist() for begin in range(1, NUM_FRAMES - FADE + 1)]
    np.testing.assert_allclose(sorted(shown), sorted(hidden))


def centres_of(ink):
    """Row and column of the centre in each frame, on a torus: the phases of the first harmonic, unwrapped."""
    wave = np.exp(2j * np.pi * np.arange(SIZE) / SIZE)
    phases = [np.unwrap(np.angle(ink.sum(axis=axis) @ wave)) for axis in (2, 1)]
    return np.stack(phases, axis=1) * SIZE / (2 * np.pi)


def test_digits_cross_the_picture_as_their_label_says():
    clips, labels = clips_of("train", 96, CROSSING)
    for clip, label in zip(clips, labels, strict=True):
        direction, _, speed = CROSSING[label].partition("_")
        centres = centres_of(ink_of(clip))
        travelled = (centres[-1] - centres[0]) / (NUM_FRAMES - 1)
        least, largest = SPEEDS[speed]
        # Clipped colours and other strokes coming in over the edge move the measured centre a little.
        assert least - 0.3 < np.dot(travelled, DIRECTIONS[direction]) < largest + 0.3
        assert abs(np.dot(travelled, DIRECTIONS[direction][::-1])) < 0.3


@pytest.mark.parametrize("number", range(12))
def test_two_digits_meet_and_only_then_rebound_or_pass(number):
    collide, through = (_meeting(generator_for(0, "meeting", number), motion) for motion in ("collide", "pass"))
    between, beyond = (two[0].path - two[1].path for two in (collide, through))
    axis = int(np.ptp(between[:, 1]) > np.ptp(between[:, 0]))
    before = beyond[:, axis] * beyond[0, axis] > 0
    assert 0 < before.sum() < NUM_FRAMES
    np.testing.assert_allclose(between[before], beyond[before])
    # Afterwards the other digit is where this one would have been.
    np.testing.assert_allclose(between[~before, axis], -beyond[~before, axis])
    np.testing.assert_allclose(between[:, 1 - axis], beyond[:, 1 - axis])


def test_videos_on_disk_are_real_and_the_splits_share_no_digit(tmp_path):
    assert write_demo_data(tmp_path / "d", num_train=16, num_validation=8, seed=0) == 24
    files = sorted((tmp_path / "d").rglob("*.mp4"))
    assert len(files) == 24
    with av.open(str(files[0])) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert len(list(container.decode(stream))) == NUM_FRAMES
    # A second call finds everything there; one file that is gone comes back the same.
    before = files[3].read_bytes()
    files[3].unlink()
    assert write_demo_data(tmp_path / "d", num_train=16, num_validation=8, seed=0) == 1
    assert files[3].read_bytes() == before
    with pytest.raises(DataError, match="name another directory"):
        write_demo_data(tmp_path / "d", num_train=8, num_validation=8, seed=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="holds no demo set"):
        write_demo_data(tmp_path / "mine", num_train=8, num_validation=8, seed=0)


@pytest.fixture
def recipes(tmp_path, pytestconfig):
    """The demo's recipes, a few steps long."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("demo_teacher", "demo_student"):
        base = pytestconfig.rootpath / "recipes" / f"{name}.toml"
        quick = "[train]\nmax_steps = 4\nlog_every = 2\nbatch_size = 8\n[schedules.lr]\nwarmup_steps = 1\n"
        (folder / f"{name}.toml").write_text(f"extends = '{base}'\n{quick}[objective]\ncalibration_clips = 16\n")
    return folder


def test_the_story_ends_with_figures_and_pictures(tmp_path, recipes, capsys):
    run_demo(tmp_path / "demo", recipes, seed=0, num_train=32, num_validation=16)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert list(summary["encoders"]) == ["raw pixels", "random initialisation", "teacher", "distilled student"]
    assert all(0 <= score <= 1 for result in summary["encoders"].values() for score in result.values())
    assert set(summary["motions"]["teacher"]) <= set(LABELS)
    assert summary["runs"]["student"]["step"] == 4
    assert (tmp_path / "demo" / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "demo" / "masks.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    margin = summary["margin"]
    if abs(margin) >= 0.0005:
        ahead = "ahead of" if margin > 0 else "behind"
        assert f"The distilled student is {100 * abs(margin):.1f} points {ahead} the better of raw pixels" in said
    # Another seed, or another recipe, is another demo; what is there stays, and the advice can be followed.
    small = {"num_train": 32, "num_validation": 16}
    with pytest.raises(RunError) as told:
        run_demo(tmp_path / "demo", recipes, seed=1, **small)
    assert f"{tmp_path}/demo/teacher holds a run of another recipe:\n  run.seed: was 0, now 1\n" in str(told.value)
    assert str(told.value).endswith(f"name another directory, such as {tmp_path / 'demo-seed1'}.")
    assert "--set" not in str(told.value) and "--restart" not in str(told.value)
    longer = recipes / "demo_teacher.toml"
    longer.write_text(longer.read_text().replace("max_steps = 4", "max_steps = 5"))
    (tmp_path / "demo-2").mkdir()
    with pytest.raises(RunError, match=r"train\.max_steps: was 4, now 5[^-]*such as .*/demo-3\.$"):
        run_demo(tmp_path / "demo", recipes, seed=0, **small)
    (tmp_path / "demo" / "teacher" / "recipe.toml").write_text("torn [")
    with pytest.raises(RunError, match=r"cannot be read.*\n.* such as .*/demo-3\.$"):
        run_demo(tmp_path / "demo", recipes, seed=0, **small)


@pytest.mark.parametrize(
    ("margin", "words"),
    [(0.466, "46.6 points ahead of"), (-0.122, "12.2 points behind"), (0.0, "level with"), (-0.0004, "level with")],
)
def test_a_lead_is_said_in_words(margin, words):
    assert _lead(margin) == words

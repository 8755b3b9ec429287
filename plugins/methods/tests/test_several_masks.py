"""Several masks of each clip, and a share of each mask's targets."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_parts import GRID, DoubledMSE, HalfMasker, MeanRemoved, batch_of, parts, two_teachers
from pydantic import ValidationError
from salt_methods import build_masked_latent
from salt_methods.config import MaskedLatentConfig

from salt_toolkit import ClipSpec, MaskCounts
from salt_toolkit.masking import masks_for
from salt_toolkit.seeding import generator_for
from salt_toolkit.testing import MethodContract

SETTINGS = {"target_fraction": 0.5, "masks_per_clip": 3}


class TestContract(MethodContract):
    plugin, section = "salt_methods", {"use": "masked_latent", **SETTINGS}
    clip = ClipSpec(frames=2, size=8)

    def parts(self):
        return parts(objectives={"teacher": MeanRemoved(calibration_clips=4)})


def method_of(given=None, **changes):
    return build_masked_latent(MaskedLatentConfig(**(given or {})), parts=parts(**changes))


def prepared(given, *clip_ids, epoch=0, step=0, **changes):
    return method_of(given, **changes).prepare(batch_of(*clip_ids), epoch=epoch, step=step).tensors


# How many.


@pytest.mark.parametrize(
    ("fraction", "targets", "kept"),
    [
        (1.0, 1176, 1176),
        (0.5, 1176, 588),
        (0.25, 1411, 353),
        (0.29, 100, 29),
        (0.1, 4, 1),
        (1e-9, 1176, 1),
        (0.99, 4, 4),
    ],
)
def test_a_fraction_is_rounded_to_whole_tokens_and_keeps_one(fraction, targets, kept):
    config = MaskedLatentConfig(target_fraction=fraction, masks_per_clip=7)
    assert config.counts(MaskCounts(392, targets)) == MaskCounts(392, kept)
    assert config.passes() == 7


@given(fraction=st.floats(0, 1, exclude_min=True), targets=st.integers(1, 5000))
def test_no_rounding_is_off_by_more_than_half_a_token(fraction, targets):
    kept = MaskedLatentConfig(target_fraction=fraction).counts(MaskCounts(1, targets)).target
    assert 1 <= kept <= targets
    assert kept == 1 or abs(kept - Fraction(str(fraction)) * targets) <= Fraction(1, 2)


@pytest.mark.parametrize("given", [{"target_fraction": 0.0}, {"target_fraction": 1.1}, {"masks_per_clip": 0}])
def test_what_makes_no_sense_is_refused(given):
    with pytest.raises(ValidationError):
        MaskedLatentConfig(**given)


def test_a_fraction_that_rounds_to_everything_has_no_effect():
    drawn = MaskCounts(4, 4)
    (reason,) = MaskedLatentConfig(target_fraction=0.9).without_effect(drawn).values()
    assert reason == "0.9 of 4 targets rounds to all of them"
    assert not MaskedLatentConfig(target_fraction=0.5).without_effect(drawn)
    assert not MaskedLatentConfig().without_effect(drawn)


# Which ones.


def test_by_default_masks_are_what_they_always_were():
    """One draw for each clip, from (seed, "mask", epoch, clip id), and all that it hides is predicted."""
    found = prepared(None, "a", "b", epoch=2)
    for row, clip_id in enumerate(("a", "b")):
        visible, target = HalfMasker().draw(generator_for(3, "mask", 2, clip_id))
        assert found["visible"][row].tolist() == visible.tolist()
        assert found["target"][row].tolist() == target.tolist()
    assert found["visible"].shape == found["target"].shape == (2, 4)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
    clip_ids=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True),
    order=st.randoms(use_true_random=False),
    fraction=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    num_masks=st.integers(1, 3),
)
def test_targets_are_a_pure_choice_of_what_the_mask_hides(seed, epoch, clip_ids, order, fraction, num_masks):
    given = {"target_fraction": fraction, "masks_per_clip": num_masks}
    found = prepared(given, *clip_ids, epoch=epoch, seed=seed)
    kept = int(4 * fraction)
    target = found["target"].reshape(len(clip_ids), num_masks, kept)
    visible = found["visible"].reshape(len(clip_ids), num_masks, 4)
    for number in range(num_masks):
        whole = masks_for(
            HalfMasker(), num_tokens=GRID.num_tokens, seed=seed, epoch=epoch, clip_ids=clip_ids, number=number
        )
        assert torch.equal(visible[:, number], whole.visible)
        for row in range(len(clip_ids)):
            assert set(target[row, number].tolist()) <= set(whole.target[row].tolist())
    assert bool((target.diff(dim=-1) > 0).all())  # ascending, and none twice
    shuffled = list(clip_ids)
    order.shuffle(shuffled)
    again = prepared(given, *shuffled, "zz", epoch=epoch, step=5, seed=seed)
    for row, clip_id in enumerate(shuffled):
        for name in ("visible", "target"):
            assert torch.equal(again[name][row], found[name][clip_ids.index(clip_id)])


def test_the_first_mask_is_that_of_a_run_with_one():
    for fraction in (1.0, 0.5):
        one = prepared({"target_fraction": fraction}, "a", "b")
        several = prepared({"target_fraction": fraction, "masks_per_clip": 3}, "a", "b")
        assert several["target"].shape == (2, 3, 4 * fraction)
        for name in ("visible", "target"):
            assert torch.equal(several[name][:, 0], one[name])


def test_every_mask_and_every_choice_is_a_draw_of_its_own():
    masks, choices = set(), set()
    for seed, epoch in ((0, 0), (1, 0), (0, 1), (1, 1)):
        found = prepared(SETTINGS, "a", "b", epoch=epoch, seed=seed)
        for clip in range(2):
            masks |= set(map(tuple, found["visible"][clip].tolist()))
            choices |= set(map(tuple, found["target"][clip].tolist()))
    # 24 draws of 70 masks, and of 28 pairs of tokens: seldom the same.
    assert len(masks) >= 15
    assert len(choices) >= 12


def test_every_target_is_chosen_equally_often():
    clip_ids = [f"clip{number}" for number in range(300)]
    batch = batch_of(*clip_ids)
    method = method_of({"target_fraction": 0.25, "masks_per_clip": 2})
    target = method.prepare(batch, epoch=0, step=0).tensors["target"]
    counts = np.bincount(target.flatten().numpy(), minlength=GRID.num_tokens)
    # 600 choices of one of eight tokens: 75 each, with a deviation of 8.
    assert counts.sum() == 600
    assert abs(counts - 75).max() < 40


def test_fewer_targets_are_among_more():
    quarter, half = (prepared({"target_fraction": fraction}, "a", "b", "c")["target"] for fraction in (0.25, 0.5))
    for few, many in zip(quarter.tolist(), half.tolist(), strict=True):
        assert set(few) < set(many)


def test_a_scheduled_ratio_is_thinned_too():
    schedules = {"mask_ratio": lambda step: 0.25 if step < 10 else 0.75}
    method = method_of(SETTINGS, schedules=schedules)
    shapes = [method.prepare(batch_of("a"), epoch=0, step=step).tensors["target"].shape for step in (9, 10)]
    assert shapes == [(1, 3, 1), (1, 3, 3)]
    assert torch.isfinite(method(method.prepare(batch_of("a"), epoch=0, step=10)).loss)


# What comes of them.


def trainable(method):
    return [parameter for name in ("student", "predictor") for parameter in getattr(method, name).parameters()]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_loss_and_gradient_are_the_means_over_masks_one_by_one(fraction):
    given = {"target_fraction": fraction, "masks_per_clip": 3}
    method = build_masked_latent(MaskedLatentConfig(**given), parts=two_teachers())
    alone = build_masked_latent(MaskedLatentConfig(), parts=two_teachers())
    alone.load_state_dict(method.state_dict())
    batch = method.prepare(batch_of("a", "b", "c", "d"), epoch=1, step=0)
    together = method(batch)
    together.loss.backward()
    outputs = []
    for number in range(3):
        masks = {name: batch.tensors[name][:, number] for name in ("visible", "target")}
        outputs.append(alone(batch_of(*batch.clip_ids).with_tensors(**masks)))
        (outputs[-1].loss / 3).backward()
    losses = torch.stack([output.loss for output in outputs])
    assert losses.std() > 1e-4  # so that a mean is more than any of them
    torch.testing.assert_close(together.loss, losses.mean(), rtol=0, atol=1e-6)
    for one, other in zip(trainable(method), trainable(alone), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-6)
    for name in ("motion/loss", "type/loss", "cosine", "motion/cosine", "type/cosine"):
        expected = torch.stack([output.metrics[name] for output in outputs]).mean()
        torch.testing.assert_close(together.metrics[name], expected, rtol=0, atol=1e-6)


def test_explained_variance_is_over_all_masks():
    method = method_of(SETTINGS)
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    latents = 2 * method.teachers[0](batch).detach()
    guesses, wanted = [], []
    for clip in range(2):
        for number in range(3):
            visible, target = (batch.tensors[name][clip, number] for name in ("visible", "target"))
            seen = method.student(batch)[clip, visible].mean(0)
            guesses.append(method.predictor.project(seen + method.predictor.query[target]))
            wanted.append(latents[clip, target])
    guesses, wanted = torch.cat(guesses).detach().double(), torch.cat(wanted).double()
    variance = (wanted - wanted.mean(0)).square().mean()
    expected = 1 - (guesses - wanted).square().mean() / variance
    assert method(batch).metrics["explained_variance"].item() == pytest.approx(expected.item(), rel=1e-5)


class Counting(DoubledMSE):
    """Notes what it gets."""

    def __init__(self):
        super().__init__()
        self.latents, self.predicted = [], []

    def targets(self, latents):
        self.latents.append(latents)
        return super().targets(latents)

    def forward(self, predicted, targets):
        self.predicted.append(predicted.shape)
        return super().forward(predicted, targets)


def test_teachers_and_statistics_see_each_clip_once():
    objective = Counting()
    method = method_of(SETTINGS, objectives={"teacher": objective})
    teacher, student, predictor = [], [], []
    method.teachers[0].register_forward_hook(lambda *call: teacher.append(call[2].shape))
    method.student.register_forward_hook(lambda *call: student.append(call[2].shape))
    method.predictor.register_forward_hook(lambda *call: predictor.append(call[2].shape))
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    method(batch)
    assert teacher == [(2, 8, 5)]
    (latents,) = objective.latents
    assert torch.equal(latents, method.teachers[0](batch))
    assert student == 3 * [(2, 4, 6)]
    assert predictor == objective.predicted == [(2 * 3, 2, 5)]

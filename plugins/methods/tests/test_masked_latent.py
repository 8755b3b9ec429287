"""Masked latent regression, with small real modules."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from method_parts import DoubledMSE, MeanRemoved, TinyPredictor, TinyTeacher, batch_of, parts, patches_of, two_teachers
from salt_methods import build_masked_latent
from salt_methods.config import MaskedLatentConfig

from salt_toolkit import ClipSpec, GeometryError, Grid
from salt_toolkit.contracts import Method, Predictor
from salt_toolkit.errors import RecipeError
from salt_toolkit.testing import MethodContract


class TestContract(MethodContract):
    plugin, section = "salt_methods", {"use": "masked_latent"}
    clip = ClipSpec(frames=2, size=8)

    def parts(self):
        return parts(objectives={"teacher": MeanRemoved(calibration_clips=4)})


class TestContractWithTwoTeachers(MethodContract):
    plugin, section = "salt_methods", {"use": "masked_latent"}
    clip = ClipSpec(frames=2, size=8)

    def parts(self):
        return two_teachers(objectives={"motion": MeanRemoved(4), "type": DoubledMSE()})


def method_of(**changes) -> Method:
    return build_masked_latent(MaskedLatentConfig(), parts=parts(**changes))


def test_the_loss_is_the_one_computed_by_hand():
    method = method_of()
    batch = method.prepare(batch_of("a", "b", "c"), epoch=0, step=0)
    visible, target = batch.tensors["visible"], batch.tensors["target"]
    latents = method.teachers[0].project(patches_of(batch))
    squares = []
    for clip in range(3):
        seen = method.student(batch)[clip, visible[clip]]
        for index in target[clip]:
            predicted = method.predictor.project(seen.mean(0) + method.predictor.query[index])
            squares.append((predicted - 2 * latents[clip, index]).square())
    expected = torch.stack(squares).mean()
    output = method(batch)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert output.loss.dtype == torch.float32


def test_metrics_are_scalars_without_gradient():
    method = method_of()
    output = method(method.prepare(batch_of("a", "b"), epoch=0, step=0))
    assert set(output.metrics) == {"explained_variance", "cosine"}
    for value in output.metrics.values():
        assert value.shape == ()
        assert not value.requires_grad
    assert output.metrics["explained_variance"] < 1


def test_a_perfect_predictor_explains_everything():
    class Oracle(Predictor):
        def __init__(self):
            super().__init__()
            self.answers = torch.zeros(0)

        def forward(self, tokens, mask):
            return self.answers.gather(1, mask.target.unsqueeze(-1).expand(-1, -1, 5))

    method = method_of(predictor=Oracle())
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    method.predictor.answers = 2 * method.teachers[0](batch).detach()
    output = method(batch)
    assert output.loss == 0
    assert output.metrics["explained_variance"] == 1
    assert output.metrics["cosine"].item() == pytest.approx(1, rel=1e-6)


def test_the_gradient_reaches_student_and_predictor_and_never_the_teacher():
    method = method_of()
    method(method.prepare(batch_of("a", "b"), epoch=0, step=0)).loss.backward()
    for name in ("student", "predictor"):
        for parameter in method.owned_modules()[name].parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
    for parameter in method.teachers.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_the_teacher_stays_in_evaluation_mode():
    method = method_of()
    assert not method.teachers[0].training  # also without a call of train()
    method.train()
    assert method.student.training
    assert not any(module.training for module in method.teachers.modules())
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    assert method(batch).loss == method(batch).loss  # the teacher's dropout would differ
    method.eval()
    assert not method.student.training


def test_the_teacher_is_not_owned():
    method = method_of()
    assert set(method.owned_modules()) == {"student", "predictor", "objective"}
    owned = {id(parameter) for module in method.owned_modules().values() for parameter in module.parameters()}
    assert owned.isdisjoint(id(parameter) for parameter in method.teachers.parameters())
    assert len(owned) == len([parameter for parameter in method.parameters() if parameter.requires_grad])


def test_masks_are_the_same_in_any_batch():
    method = method_of()
    whole = method.prepare(batch_of("a", "b", "c"), epoch=2, step=10)
    other = method.prepare(batch_of("x", "c", "a"), epoch=2, step=99)
    for name in ("visible", "target"):
        assert whole.tensors[name].dtype == torch.int64
        assert torch.equal(whole.tensors[name][0], other.tensors[name][2])
        assert torch.equal(whole.tensors[name][2], other.tensors[name][1])
    later = method.prepare(batch_of("a", "b", "c"), epoch=3, step=10)
    reseeded = method_of(seed=4).prepare(batch_of("a", "b", "c"), epoch=2, step=10)
    assert not torch.equal(whole.tensors["target"], later.tensors["target"])
    assert not torch.equal(whole.tensors["target"], reseeded.tensors["target"])
    assert "clip" in whole.tensors


def test_a_scheduled_mask_ratio_is_read_at_the_step():
    method = method_of(schedules={"mask_ratio": lambda step: 0.25 if step < 10 else 0.75})
    assert method.prepare(batch_of("a"), epoch=0, step=9).tensors["target"].shape == (1, 2)
    assert method.prepare(batch_of("a"), epoch=0, step=10).tensors["target"].shape == (1, 6)
    assert torch.isfinite(method(method.prepare(batch_of("a"), epoch=0, step=10)).loss)


@pytest.mark.parametrize(("sizes", "expected"), [((2, 2, 2), [2, 2, 1]), ((5,), [5]), ((1,) * 9, [1] * 5)])
def test_the_objective_is_calibrated_on_as_many_clips_as_it_wants(sizes, expected):
    names = iter("abcdefghi")
    batches = [batch_of(*(next(names) for _ in range(size))) for size in sizes]
    objective = MeanRemoved(calibration_clips=5)
    method = method_of(objectives={"teacher": objective})
    assert method.calibration_clips == 5
    method.train()
    method.calibrate(iter(batches))
    assert [len(batch) for batch in objective.seen] == expected
    latents = method.teachers[0](batch_of("a", "b", "c", "d", "e"))
    assert torch.allclose(objective.mean, latents.mean((0, 1)), atol=1e-6)


def test_without_calibration_no_batch_is_read():
    def unread():
        raise AssertionError("a batch was read")
        yield

    method = method_of()
    assert method.calibration_clips == 0
    method.calibrate(unread())


def test_latents_and_loss_are_float32_under_autocast():
    method = method_of()
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(batch)
    assert output.loss.dtype == torch.float32
    assert output.metrics["explained_variance"].dtype == torch.float32
    assert output.loss.item() == pytest.approx(method(batch).loss.item(), rel=0.05)


# Several teachers.


def several(config=None, **changes) -> Method:
    return build_masked_latent(config or MaskedLatentConfig(), parts=two_teachers(**changes))


def test_the_loss_of_two_teachers_is_the_one_computed_by_hand():
    method = several()
    batch = method.prepare(batch_of("a", "b", "c"), epoch=0, step=0)
    visible, target = batch.tensors["visible"], batch.tensors["target"]
    motion, other = (teacher.project(patches_of(batch)) for teacher in method.teachers)
    first, second = [], []
    for clip in range(3):
        seen = method.student(batch)[clip, visible[clip]]
        for index in target[clip]:
            predicted = method.predictor.project(seen.mean(0) + method.predictor.query[index])
            first.append((predicted[:5] - motion[clip, index]).abs())
            second.append((predicted[5:] - 2 * other[clip, index]).square())
    losses = [torch.stack(each).mean().item() for each in (first, second)]
    output = method(batch)
    assert output.loss.item() == pytest.approx((2.0 * losses[0] + 0.5 * losses[1]) / 2.5, rel=1e-5)
    assert output.metrics["motion/loss"].item() == pytest.approx(losses[0], rel=1e-5)
    assert output.metrics["type/loss"].item() == pytest.approx(losses[1], rel=1e-5)


def test_metrics_of_two_teachers_have_their_names_and_their_weighted_mean():
    method = several()
    output = method(method.prepare(batch_of("a", "b"), epoch=0, step=0))
    kinds = ("explained_variance", "cosine")
    assert set(output.metrics) == {
        *kinds,
        *(f"{name}/{kind}" for name in ("motion", "type") for kind in ("loss", *kinds)),
    }
    for kind in kinds:
        values = [output.metrics[f"{name}/{kind}"].item() for name in ("motion", "type")]
        assert values[0] != values[1]
        assert output.metrics[kind].item() == pytest.approx((2.0 * values[0] + 0.5 * values[1]) / 2.5, rel=1e-5)
    assert all(value.shape == () and not value.requires_grad for value in output.metrics.values())


def test_each_teacher_has_its_own_part_of_the_head():
    """What one teacher's loss teaches the last layer leaves the other's rows alone."""
    method = several()
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    weight = method.predictor.project.weight
    whole = torch.autograd.grad(method(batch).loss, weight)[0]
    for name, rows, share in (("motion", slice(0, 5), 0.8), ("type", slice(5, 8), 0.2)):
        number = method.names.index(name)
        teacher, objective = method.teachers[number], method.objectives[number]
        alone = method_of(
            teachers={name: teacher},
            objectives={name: objective},
            student=method.student,
            predictor=_Rows(method.predictor, rows),
        )
        gradient = torch.autograd.grad(alone(batch).loss, weight)[0]
        torch.testing.assert_close(whole[rows], share * gradient[rows])


class _Rows(Predictor):
    """Some of a predictor's numbers."""

    def __init__(self, predictor, rows):
        super().__init__()
        self.predictor, self.rows = predictor, rows

    def forward(self, tokens, mask):
        return self.predictor(tokens, mask)[..., self.rows]


def test_states_are_saved_by_the_teachers_names():
    method = several()
    assert list(method.owned_modules()) == ["student", "predictor", "objective.motion", "objective.type"]
    assert method.owned_modules()["objective.motion"] is method.objectives[0]
    assert isinstance(method.objectives[0], MeanRemoved)  # whatever the order in which objectives are given


def test_one_pass_calibrates_every_objective_that_wants_it():
    names = iter("abcdefghijkl")
    batches = [batch_of(*(next(names) for _ in range(2))) for _ in range(6)]
    objectives = {"many": MeanRemoved(7), "few": MeanRemoved(3), "none": DoubledMSE()}
    teachers = {name: TinyTeacher() for name in objectives}
    method = several(teachers=teachers, objectives=objectives, weights={}, predictor=TinyPredictor(teacher_dim=15))
    assert method.calibration_clips == 7
    calls = []
    for name, teacher in teachers.items():
        teacher.register_forward_hook(lambda *_, name=name: calls.append(name))
    read = iter(batches)
    method.calibrate(read)
    assert [calls.count(name) for name in teachers] == [4, 2, 0]
    assert len(list(read)) == 2  # no batch was read beyond the last that was needed
    for name, clip_ids in (("many", "abcdefg"), ("few", "abc")):
        expected = teachers[name](batch_of(*clip_ids)).mean((0, 1))
        torch.testing.assert_close(objectives[name].mean, expected)


def test_missing_parts_are_named_all_at_once():
    with pytest.raises(RecipeError) as caught:
        method_of(teachers={}, masker=None)
    assert [problem.key for problem in caught.value.problems] == ["teacher", "masker"]
    assert "method masked_latent needs a [masker] section, found none" in str(caught.value)


def test_different_grids_are_refused():
    with pytest.raises(GeometryError, match="'other' are 4 x 2 x 2 = 16 tokens, and the student's tokens 2 x 2 x 2"):
        method_of(teachers={"other": TinyTeacher(grid=Grid(4, 2, 2))}, objectives={"other": DoubledMSE()})


def test_one_graph_serves_every_batch():
    """Compiled whole (no host sync, no break), and compiled once, whatever the clips and their masks.

    In a process of its own: the run-time type checks of these tests would be compiled as well.
    """
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "same losses"


def compile_and_compare(method: Method) -> None:
    """Run as a script: the compiled method's losses, gradients and metrics equal the plain one's."""
    torch._dynamo.reset()
    torch._dynamo.config.error_on_recompile = True
    method = method.train()
    compiled = torch.compile(method, fullgraph=True, backend="aot_eager")
    for step, names in enumerate((("a", "b"), ("c", "d"), ("e", "f"))):
        batch = method.prepare(batch_of(*names), epoch=step, step=step)
        results = []
        for forward in (method, compiled):
            method.zero_grad()
            output = forward(batch)
            output.loss.backward()
            gradients = [parameter.grad for parameter in method.student.parameters()]
            results.append([output.loss, *output.metrics.values(), *gradients])
        torch.testing.assert_close(results[0], results[1])


if __name__ == "__main__":
    compile_and_compare(method_of())
    compile_and_compare(several())
    compile_and_compare(several(MaskedLatentConfig(target_fraction=0.5, masks_per_clip=3)))
    sys.stdout.write("same losses\n")

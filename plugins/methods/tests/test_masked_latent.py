"""Masked latent regression, with small real modules: a linear patch encoder as teacher and student."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from salt_methods import build_masked_latent
from salt_methods.config import MaskedLatentConfig
from torch import nn

from salt_toolkit import ClipSpec, GeometryError, Grid, MaskCounts, TokenSpec
from salt_toolkit.contracts import ClipBatch, Masker, Method, Objective, Parts, Predictor, Student, Teacher
from salt_toolkit.errors import RecipeError
from salt_toolkit.testing import MethodContract

GRID = Grid(2, 2, 2)
PATCH = 4  # pixels


def patches_of(batch: ClipBatch) -> torch.Tensor:
    """Tubelets of 1 frame x 4 x 4 pixels, time-major, as numbers in 0 to 1."""
    clip = batch.tensors["clip"].float() / 255
    num_clips = clip.shape[0]
    cut = clip.reshape(num_clips, GRID.frames, GRID.rows, PATCH, GRID.columns, PATCH, 3)
    return cut.permute(0, 1, 2, 4, 3, 5, 6).reshape(num_clips, GRID.num_tokens, -1)


class TinyTeacher(Teacher):
    def __init__(self, dim=5, grid=GRID):
        super().__init__()
        self.token_spec = TokenSpec(grid, dim)
        self.project = nn.Linear(PATCH * PATCH * 3, dim)
        self.dropout = nn.Dropout(0.5)  # latents differ from call to call unless in evaluation mode

    def forward(self, batch):
        return self.dropout(self.project(patches_of(batch)))


class TinyStudent(Student):
    def __init__(self, dim=6, grid=GRID):
        super().__init__()
        self.token_spec = TokenSpec(grid, dim)
        self.project = nn.Linear(PATCH * PATCH * 3, dim)
        self.position = nn.Parameter(torch.randn(GRID.num_tokens, dim))

    def forward(self, batch, visible=None):
        tokens = self.project(patches_of(batch)) + self.position
        if visible is None:
            return tokens
        return tokens.gather(1, visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class TinyPredictor(Predictor):
    def __init__(self, student_dim=6, teacher_dim=5):
        super().__init__()
        self.query = nn.Parameter(torch.randn(GRID.num_tokens, student_dim))
        self.project = nn.Linear(student_dim, teacher_dim)

    def forward(self, tokens, mask):
        return self.project(tokens.mean(1, keepdim=True) + self.query[mask.target])


class HalfMasker(Masker):
    """Hides half of the tokens, or the scheduled share."""

    def counts(self, ratio=None):
        hidden = int(GRID.num_tokens * (0.5 if ratio is None else ratio))
        return MaskCounts(visible=GRID.num_tokens - hidden, target=hidden)

    def draw(self, generator, ratio=None):
        order = generator.permutation(GRID.num_tokens)
        hidden = self.counts(ratio).target
        order[:hidden].sort()
        order[hidden:].sort()
        return order[hidden:], order[:hidden]


class DoubledMSE(Objective):
    """Twice the latents as targets, and the mean of squares."""

    def targets(self, latents):
        return 2 * latents

    def forward(self, predicted, targets):
        return (predicted - targets).square().mean()


class MeanRemoved(Objective):
    """Takes out the mean over calibration clips."""

    def __init__(self, calibration_clips):
        super().__init__()
        self.calibration_clips = calibration_clips
        self.register_buffer("mean", torch.zeros(5))
        self.batch_sizes = []

    def calibrate(self, latents):
        seen = list(latents)
        self.batch_sizes = [len(batch) for batch in seen]
        self.mean.copy_(torch.cat(seen).mean((0, 1)))

    def targets(self, latents):
        return latents - self.mean

    def forward(self, predicted, targets):
        return (predicted - targets).abs().mean()


def parts(**changes) -> Parts:
    torch.manual_seed(0)
    own = {
        "seed": 3,
        "teacher": TinyTeacher(),
        "student": TinyStudent(),
        "predictor": TinyPredictor(),
        "masker": HalfMasker(),
        "objective": DoubledMSE(),
    }
    return Parts(**{**own, **changes})


def batch_of(*clip_ids: str) -> ClipBatch:
    clips = []
    for clip_id in clip_ids:
        generator = torch.Generator().manual_seed(sum(clip_id.encode()))
        clips.append(torch.randint(0, 256, (2, 8, 8, 3), generator=generator, dtype=torch.uint8))
    return ClipBatch(clip_ids=clip_ids, tensors={"clip": torch.stack(clips)})


class TestContract(MethodContract):
    plugin, section = "salt_methods", {"use": "masked_latent"}
    clip = ClipSpec(frames=2, size=8)

    def parts(self):
        return parts(objective=MeanRemoved(calibration_clips=4))


def method_of(**changes) -> Method:
    return build_masked_latent(MaskedLatentConfig(), parts=parts(**changes))


def test_the_loss_is_the_one_computed_by_hand():
    method = method_of()
    batch = method.prepare(batch_of("a", "b", "c"), epoch=0, step=0)
    visible, target = batch.tensors["visible"], batch.tensors["target"]
    latents = method.teacher.project(patches_of(batch))
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
    method.predictor.answers = 2 * method.teacher(batch).detach()
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
    for parameter in method.teacher.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_the_teacher_stays_in_evaluation_mode():
    method = method_of()
    assert not method.teacher.training  # also without a call of train()
    method.train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())
    batch = method.prepare(batch_of("a", "b"), epoch=0, step=0)
    assert method(batch).loss == method(batch).loss  # the teacher's dropout would differ
    method.eval()
    assert not method.student.training


def test_the_teacher_is_not_owned():
    method = method_of()
    assert set(method.owned_modules()) == {"student", "predictor", "objective"}
    owned = {id(parameter) for module in method.owned_modules().values() for parameter in module.parameters()}
    assert owned.isdisjoint(id(parameter) for parameter in method.teacher.parameters())
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
    method = method_of(objective=MeanRemoved(calibration_clips=5))
    assert method.calibration_clips == 5
    method.train()
    method.calibrate(iter(batches))
    assert method.objective.batch_sizes == expected
    latents = method.teacher(batch_of("a", "b", "c", "d", "e"))
    assert torch.allclose(method.objective.mean, latents.mean((0, 1)), atol=1e-6)


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


def test_missing_parts_are_named_all_at_once():
    with pytest.raises(RecipeError) as caught:
        method_of(teacher=None, masker=None)
    assert [problem.key for problem in caught.value.problems] == ["teacher", "masker"]
    assert "method masked_latent needs a [masker] section, found none" in str(caught.value)


def test_different_grids_are_refused():
    with pytest.raises(GeometryError, match="into 4 x 2 x 2 = 16 tokens, and the student into 2 x 2 x 2 = 8 tokens"):
        method_of(teacher=TinyTeacher(grid=Grid(4, 2, 2)))


def test_one_graph_serves_every_batch():
    """Compiled whole (no host sync, no break), and compiled once, whatever the clips and their masks.

    In a process of its own: the run-time type checks of these tests would be compiled as well.
    """
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "same losses"


def compile_and_compare() -> None:
    """Run as a script: the compiled method's losses, gradients and metrics equal the plain one's."""
    torch._dynamo.config.error_on_recompile = True
    method = method_of().train()
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
    sys.stdout.write("same losses\n")


if __name__ == "__main__":
    compile_and_compare()

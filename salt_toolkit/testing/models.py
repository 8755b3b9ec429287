"""What teachers, students and predictors promise."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from salt_toolkit.contracts import ClipBatch, Mask, Predictor, Student, Teacher
from salt_toolkit.data.noise import noise
from salt_toolkit.geometry import Grid, MaskCounts, TokenSpec
from salt_toolkit.streams import LATENTS
from salt_toolkit.testing.base import (
    ComponentContract,
    expect_close,
    expect_cost,
    expect_learning,
    expect_shape,
    expect_stream,
    promise,
    random_batch,
)


class TeacherContract(ComponentContract):
    """The promises of a teacher."""

    kind = "teacher"

    def build(self) -> Teacher:
        """The teacher, with the same random weights every time where it has random weights."""
        torch.manual_seed(0)
        return self.built(clip=self.clip, inputs=self.inputs)

    def batch(self, num_samples: int = 2) -> ClipBatch:
        """Noise, with no other tensors than those that the config reads."""
        return noise({name: self.inputs.tensor(name) for name in self.config.reads()}, num_samples)

    def test_streams_are_as_the_config_says(self) -> None:
        """Names, shapes and types of all outputs; and the grid, where the only output is one of latents."""
        streams, teacher = self.config.streams(self.inputs), self.build()
        found = teacher.outputs(self.batch())
        promise(
            found.keys() == streams.keys(),
            f"streams() promises {', '.join(streams)}; the teacher gives {', '.join(found)}",
        )
        for name, stream in streams.items():
            expect_stream(found[name], stream, 2, name)
        if streams.keys() == {LATENTS} and streams[LATENTS].tokens and not streams[LATENTS].prefix:
            spec, own = streams[LATENTS].tokens, getattr(teacher, "token_spec", None)
            promise(own == spec, f"token_spec is the config's answer, {spec}; found {own}")

    def test_the_same_sample_gives_the_same_streams(self) -> None:
        """In another call bit for bit, and in another batch up to rounding; caches rest on it."""
        teacher, batch = self.build(), self.batch(3)
        found, again = teacher.outputs(batch), teacher.outputs(batch)
        rows = {name: tensor[1:2] for name, tensor in batch.tensors.items()}
        alone = teacher.outputs(ClipBatch(batch.clip_ids[1:2], rows))
        for name, tensor in found.items():
            promise(torch.equal(tensor, again[name]), f"a second call gives the same {name}, bit for bit")
            sentence = f"a sample's {name} do not depend on the rest of the batch"
            expect_close(alone[name].double(), tensor[1:2].double(), sentence)

    def test_different_samples_give_different_streams(self) -> None:
        """A teacher that says the same of everything has nothing to teach."""
        found = self.build().outputs(self.batch())
        differs = any(not torch.allclose(each[0].double(), each[1].double()) for each in found.values())
        promise(differs, "different samples give different outputs")

    def test_its_weights_are_known(self) -> None:
        """They lie in files that the config names, or follow from the seed; a cache's identity rests on it."""
        first, second = self.build().state_dict(), self.build().state_dict()
        if self.config.weight_files():
            return
        other = [name for name, value in first.items() if not torch.equal(value, second[name])]
        promise(
            not other,
            "weights come from weight_files(), or are the same whenever torch's seed is; "
            f"built twice, these differ: {', '.join(other)}",
        )

    def test_the_teacher_is_frozen(self) -> None:
        """Evaluation mode, and no parameter asks for a gradient."""
        teacher = self.build()
        promise(not teacher.training, "a teacher is built in evaluation mode; call eval()")
        learnable = [name for name, value in teacher.named_parameters() if value.requires_grad]
        promise(
            not learnable, f"no parameter of a teacher requires a gradient; call requires_grad_(False): {learnable}"
        )

    def test_the_cost_is_true(self) -> None:
        """The config's cost equals the model's parameters and torch's count of FLOPs."""
        teacher = self.build()
        with FlopCounterMode(display=False) as counter:
            teacher(self.batch(1))
        expect_cost(teacher, self.config.cost(self.inputs), counter)


class StudentContract(ComponentContract):
    """The promises of a student."""

    kind = "student"

    def build(self) -> Student:
        """The student, with the same initial weights every time."""
        torch.manual_seed(0)
        return self.built(clip=self.clip, inputs=self.inputs)

    @property
    def spec(self) -> TokenSpec:
        """The config's answer."""
        return self.config.token_spec(self.video)

    def test_tokens_are_as_the_config_says(self) -> None:
        """Float32 tokens for the visible ones, and for all where none are named."""
        student, spec, batch = self.build(), self.spec, random_batch(self.video)
        promise(student.token_spec == spec, f"token_spec is the config's answer, {spec}; found {student.token_spec}")
        expect_shape(student(batch), (2, spec.grid.num_tokens, spec.dim), "tokens of a whole clip")
        visible = random_mask(spec.grid).visible
        expect_shape(student(batch, visible), (2, visible.shape[1], spec.dim), "tokens of the visible part")

    def test_none_means_all_tokens_in_grid_order(self) -> None:
        """The same as naming every token."""
        student, batch = self.build().eval(), random_batch(self.video)
        every = torch.arange(self.spec.grid.num_tokens).repeat(2, 1)
        expect_close(student(batch), student(batch, every), "visible = None means all tokens in grid order")

    def test_the_order_of_visible_is_kept(self) -> None:
        """Naming the visible tokens in another order permutes the result, and nothing else."""
        student, batch = self.build().eval(), random_batch(self.video)
        visible = random_mask(self.spec.grid).visible
        order = torch.randperm(visible.shape[1], generator=torch.Generator().manual_seed(1))
        found = student(batch, visible[:, order])
        expect_close(found, student(batch, visible)[:, order], "tokens come in the order in which visible names them")

    def test_hidden_pixels_do_not_leak(self) -> None:
        """What the student cannot see does not change what it says."""
        student, batch = self.build().eval(), random_batch(self.video)
        visible = random_mask(self.spec.grid).visible
        seen = pixels_of(visible, self.spec.grid, batch.tensors["clip"])
        other = random_batch(self.video, seed=1).tensors["clip"]
        changed = batch.with_tensors(clip=torch.where(seen, batch.tensors["clip"], other))
        expect_close(student(changed, visible), student(batch, visible), "hidden pixels do not reach the student")

    def test_every_parameter_learns(self) -> None:
        """A gradient from the visible tokens reaches all parameters."""
        student = self.build().train()
        expect_learning(student, student(random_batch(self.video), random_mask(self.spec.grid).visible))

    def test_it_can_be_rebuilt_for_trained_weights(self) -> None:
        """What `structure` describes takes the student's weights, all of them, and gives the same tokens."""
        student, batch = self.build().eval(), random_batch(self.video)
        again = self._rebuilt(student, num_layers=None)
        expect_close(again(batch), student(batch), "structure() describes the same student")

    def _rebuilt(self, student: Student, *, num_layers: int | None) -> Student:
        """What `structure` describes, with the student's weights."""
        again = self.built(self.config.structure(num_layers), clip=self.clip, inputs=self.inputs).eval()
        kept = again.state_dict().keys() if num_layers else student.state_dict().keys()
        given = {key: value for key, value in student.state_dict().items() if key in kept}
        own, found = ({key: tuple(value.shape) for key, value in each.items()} for each in (again.state_dict(), given))
        differing = sorted(key for key in own.keys() | found.keys() if own.get(key) != found.get(key))
        promise(not differing, f"structure({num_layers}) has the student's weights; these differ: {differing}")
        again.load_state_dict(given)
        return again

    def test_layers_that_it_can_teach_are_given(self) -> None:
        """The last of `teachable_layers` gives the student's own tokens; fewer blocks have some of its weights."""
        depth = self.config.teachable_layers()
        if depth == 0:
            return  # it teaches its last tokens alone
        student, batch = self.build().eval(), random_batch(self.video)
        first, last = student.tokens_after(batch, [1, depth])
        expect_close(last, student(batch), "tokens_after() the last block are what the student says")
        expect_shape(first, tuple(last.shape), "tokens after the first block")
        shallow = self._rebuilt(student, num_layers=1)
        expect_close(shallow.tokens_after(batch, [1])[0], first, "structure(1) gives the tokens after the first block")

    def test_the_cost_is_true(self) -> None:
        """The config's cost equals the model's parameters and torch's count of FLOPs."""
        student, visible = self.build(), random_mask(self.spec.grid).visible[:1]
        with FlopCounterMode(display=False) as counter:
            student(random_batch(self.video, 1), visible)
        expect_cost(student, self.config.cost(self.inputs, visible.shape[1]), counter)


class PredictorContract(ComponentContract):
    """The promises of a predictor.

    Attributes:
        student: The tokens it gets.
        teacher: The latents it has to guess.
    """

    kind = "predictor"
    student: TokenSpec = TokenSpec(Grid(2, 4, 4), 16)
    teacher: TokenSpec = TokenSpec(Grid(2, 4, 4), 24)

    def build(self) -> Predictor:
        """The predictor, with the same initial weights every time."""
        torch.manual_seed(0)
        return self.component.build(self.config, student=self.student, teacher=self.teacher)

    def circumstances(self) -> dict[str, Any]:
        """With the tokens on both sides."""
        return {**super().circumstances(), "student": asdict(self.student), "teacher": asdict(self.teacher)}

    def tokens(self, mask: Mask) -> Tensor:
        """Random tokens, as a student would give them."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(*mask.visible.shape, self.student.dim, generator=generator)

    def test_there_is_one_prediction_for_each_target(self) -> None:
        """Float32 latents of the teacher's width."""
        mask = random_mask(self.student.grid)
        shape = (2, mask.target.shape[1], self.teacher.dim)
        expect_shape(self.build()(self.tokens(mask), mask), shape, "predictions")

    def test_the_order_of_tokens_has_no_meaning(self) -> None:
        """Positions come from the mask: permuted targets permute the result, permuted input changes nothing."""
        predictor, mask = self.build().eval(), random_mask(self.student.grid)
        tokens = self.tokens(mask)
        predicted = predictor(tokens, mask)
        order = torch.randperm(mask.target.shape[1], generator=torch.Generator().manual_seed(3))
        found = predictor(tokens, Mask(mask.visible, mask.target[:, order]))
        expect_close(found, predicted[:, order], "predictions come in the order of mask.target")
        order = torch.randperm(mask.visible.shape[1], generator=torch.Generator().manual_seed(4))
        found = predictor(tokens[:, order], Mask(mask.visible[:, order], mask.target))
        expect_close(found, predicted, "a token's place is what mask.visible says, not where it stands")

    def test_every_parameter_learns(self) -> None:
        """A gradient reaches all parameters, and the student's tokens."""
        predictor, mask = self.build().train(), random_mask(self.student.grid)
        tokens = self.tokens(mask).requires_grad_()
        expect_learning(predictor, predictor(tokens, mask))
        promise(tokens.grad is not None, "the gradient passes through the predictor to the student's tokens")

    def test_the_cost_is_true(self) -> None:
        """The config's cost equals the model's parameters and torch's count of FLOPs."""
        predictor, whole = self.build(), random_mask(self.student.grid)
        mask = Mask(whole.visible[:1], whole.target[:1])
        with FlopCounterMode(display=False) as counter:
            predictor(self.tokens(mask), mask)
        counts = MaskCounts(visible=mask.visible.shape[1], target=mask.target.shape[1])
        expect_cost(predictor, self.config.cost(self.student, self.teacher, counts), counter)


def random_mask(grid: Grid, num_clips: int = 2, *, seed: int = 0) -> Mask:
    """A quarter of the tokens visible (at least one), the rest targets, ascending."""
    num_visible = max(1, grid.num_tokens // 4)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.stack([torch.randperm(grid.num_tokens, generator=generator) for _ in range(num_clips)])
    return Mask(shuffled[:, :num_visible].sort().values, shuffled[:, num_visible:].sort().values)


def pixels_of(visible: Tensor, grid: Grid, clips: Tensor) -> Tensor:
    """Which pixels of stored clips (batch, frames, height, width, channels) belong to visible tokens."""
    num_clips, frames, height, width, _ = clips.shape
    seen = torch.zeros(num_clips, grid.num_tokens, dtype=torch.bool).scatter_(1, visible, True)
    seen = seen.reshape(num_clips, grid.frames, grid.rows, grid.columns)
    for axis, factor in ((1, frames // grid.frames), (2, height // grid.rows), (3, width // grid.columns)):
        seen = seen.repeat_interleave(factor, dim=axis)
    return seen.unsqueeze(-1)

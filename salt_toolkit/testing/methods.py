"""What objectives and methods promise."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from salt_toolkit.context import MethodContext, Reads
from salt_toolkit.contracts import ClipBatch, Method, Objective, Parts, Predictor, Teacher
from salt_toolkit.data.noise import noise
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.streams import LATENTS, StreamSpec
from salt_toolkit.testing.base import ComponentContract, ContractBroken, expect_close, plain, promise


class ObjectiveContract(ComponentContract):
    """The promises of an objective.

    Attributes:
        teacher: The latents it meets.
    """

    kind = "objective"
    teacher: TokenSpec = TokenSpec(Grid(2, 4, 4), 24)

    def build(self) -> Objective:
        """The objective, with its statistics taken."""
        objective = self.component.build(self.config, teacher=self.teacher)
        num_batches = -(-objective.calibration_clips // 4)
        for index in range(num_batches):
            objective.observe(self.latents(seed=10 + index))
        if num_batches:
            objective.calibrate()
        return objective

    def circumstances(self) -> dict[str, Any]:
        """With the latents' grid and width."""
        return {**super().circumstances(), "teacher": asdict(self.teacher)}

    def latents(self, seed: int = 0) -> Tensor:
        """Latents of four clips; neither centred nor of unit variance."""
        generator = torch.Generator().manual_seed(seed)
        return 3 * torch.randn(4, self.teacher.grid.num_tokens, self.teacher.dim, generator=generator) + 1

    def test_the_loss_is_a_finite_scalar_that_teaches(self) -> None:
        """Its gradient reaches the predictions and leaves the targets alone."""
        objective = self.build()
        targets = objective.targets(self.latents())
        shapes = (tuple(targets.shape), tuple(self.latents().shape))
        promise(shapes[0] == shapes[1], f"targets have the latents' shape {shapes[1]}, found {shapes[0]}")
        promise(not targets.requires_grad, "targets carry no gradient; a frozen teacher has nothing to learn")
        predicted = self.latents(seed=1).requires_grad_()
        loss = objective(predicted, targets)
        promise(loss.shape == () and bool(torch.isfinite(loss)), f"the loss is one finite number, found {loss}")
        loss.backward()
        learns = predicted.grad is not None and bool(torch.isfinite(predicted.grad).all()) and predicted.grad.any()
        promise(bool(learns), "the loss gives the predictions a finite gradient that is not zero")

    def test_nothing_is_better_than_the_targets(self) -> None:
        """Perfect predictions cost no more than others."""
        objective = self.build()
        targets = objective.targets(self.latents())
        perfect, other = objective(targets, targets), objective(self.latents(seed=1), targets)
        promise(bool(perfect < other), f"perfect predictions cost least, found {perfect:.4g} against {other:.4g}")

    def test_the_loss_is_a_mean_over_clips(self) -> None:
        """Every clip twice is the same loss; otherwise the batch size would change the learning rate."""
        objective = self.build()
        targets, predicted = objective.targets(self.latents()), self.latents(seed=1)
        doubled = objective(predicted.repeat(2, 1, 1), targets.repeat(2, 1, 1))
        expect_close(doubled, objective(predicted, targets), "the loss is a mean over clips")

    def test_statistics_are_saved(self) -> None:
        """What calibrate took stands in the state, so that a resumed run has the same targets."""
        calibrated = self.build()
        fresh = self.component.build(self.config, teacher=self.teacher)
        fresh.load_state_dict(calibrated.state_dict())
        same = torch.equal(fresh.targets(self.latents()), calibrated.targets(self.latents()))
        promise(same, "an objective that loads another's state gives the same targets; keep statistics in buffers")


class MethodContract(ComponentContract, ABC):
    """The promises of a method. Override `parts`, and `batch` where noise does not do.

    Attributes:
        labels: One sample's label; None: there are none.
    """

    kind = "method"
    labels: StreamSpec | None = None

    @abstractmethod
    def parts(self) -> Parts:
        """New parts, as `assemble` would build them; torch is seeded before."""

    def batch(self) -> ClipBatch:
        """A batch as the loader gives it."""
        return noise(self.inputs.sample, 4, labels=self.labels)

    def circumstances(self) -> dict[str, Any]:
        """With the context of the parts, where they have one."""
        context = self.parts().context
        known = {} if context == MethodContext() else {"context": plain(context)}
        return {**super().circumstances(), **known}

    def build(self) -> Method:
        """The method, calibrated; the same every time."""
        torch.manual_seed(0)
        return self._built(self.parts(), self.batch())

    def _built(self, parts: Parts, batch: ClipBatch) -> Method:
        method = self.component.build(self.config, parts=parts)
        if method.calibration_clips:
            num_batches = -(-method.calibration_clips // len(batch.clip_ids))
            method.calibrate(batch for _ in range(num_batches))
        return method

    def prepared(self, method: Method) -> ClipBatch:
        """The batch, ready for a step."""
        return method.prepare(self.batch(), epoch=0, step=0)

    def test_a_step_gives_a_loss_and_metrics(self) -> None:
        """The loss is a finite scalar; metrics are scalars without gradient."""
        method = self.build().train()
        output = method(self.prepared(method))
        finite = output.loss.shape == () and bool(torch.isfinite(output.loss))
        promise(finite, f"the loss is one finite number, found {output.loss}")
        wrong = [name for name, value in output.metrics.items() if value.shape != () or value.requires_grad]
        promise(not wrong, f"metrics are scalars without gradient; not so: {', '.join(wrong)}")

    def test_prepare_is_pure(self) -> None:
        """It runs ahead in a thread, and a clip's share of it does not depend on the batch."""
        method, batch = self.build(), self.batch()
        backwards = ClipBatch(
            batch.clip_ids[::-1],
            {name: value.flip(0) for name, value in batch.tensors.items()},
            None if batch.labels is None else batch.labels.flip(0),
            batch.captions and batch.captions[::-1],
        )
        first = method.prepare(batch, epoch=1, step=3)
        method.prepare(batch, epoch=2, step=9)
        again = method.prepare(batch, epoch=1, step=3)
        reverse = method.prepare(backwards, epoch=1, step=3)
        for name, value in first.tensors.items():
            promise(torch.equal(value, again.tensors[name]), f"prepare gives the same {name!r} for the same step")
            promise(
                torch.equal(value, reverse.tensors[name].flip(0)), f"a clip's {name!r} depends on its clip id alone"
            )

    def test_it_reads_what_it_says(self) -> None:
        """A step works with no other tensors and streams than those of ``reads``; a cache holds no others."""
        reads = self.config.reads()
        if reads is None:
            return
        torch.manual_seed(0)
        parts, batch = self.parts(), self.batch()
        teachers = {name: _Recorded(name, teacher, batch, reads) for name, teacher in parts.teachers.items()}
        given = replace(batch, tensors={name: batch.tensors[name] for name in reads.sample})
        try:
            method = self._built(replace(parts, teachers=teachers), given).train()
            method(method.prepare(given, epoch=0, step=0))
        except KeyError as error:
            found = f"the method takes {error} from a batch or a teacher, and reads() does not name it"
            raise ContractBroken(found) from error

    def test_student_and_predictor_get_what_the_config_says(self) -> None:
        """As many tokens as ``counts`` says, as often as ``passes`` says; `salt check` counts FLOPs by them."""
        parts = self.parts()
        if parts.masker is None:
            return
        schedule, passes = parts.schedules.get("mask_ratio"), self.config.passes()
        counts = self.config.counts(parts.masker.counts(None if schedule is None else schedule(0)))
        method = self.build().train()
        shapes: dict[str, list[tuple[int, ...]]] = {"visible": [], "target": []}

        def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
            shapes["visible" if module is method.student else "target"].append(tuple(output.shape))

        for module in method.modules():
            if module is method.student or isinstance(module, Predictor):
                module.register_forward_hook(note)
        batch = self.prepared(method)
        method(batch)
        for name, found in shapes.items():
            number = getattr(counts, name)
            wrong = [shape[1] for shape in found if shape[1] != number]
            promise(not wrong, f"counts() gives a pass {number} {name} tokens, found {wrong}")
            runs = sum(shape[0] for shape in found) / len(batch.clip_ids)
            promise(
                not found or runs == passes, f"passes() says {passes} for each clip, found {runs:g} ({name} tokens)"
            )

    def test_every_owned_parameter_learns(self) -> None:
        """What a method owns it trains; the teacher stays as it was."""
        method = self.build().train()
        method(self.prepared(method)).loss.backward()
        owned = dict(method.owned_modules())
        inside = {id(part) for module in owned.values() for part in module.modules()}
        left_out = [name for name, module in method.exports().items() if id(module) not in inside]
        promise(not left_out, f"what exports() gives is among owned_modules(); not {', '.join(left_out)}")
        missed = [
            f"{name}.{path}"
            for name, module in owned.items()
            for path, value in module.named_parameters()
            if value.requires_grad and value.grad is None
        ]
        promise(not missed, f"the gradient reaches every parameter of owned_modules(); not {', '.join(missed)}")
        ours = {id(value) for module in owned.values() for value in module.parameters()}
        stray = [name for name, value in method.named_parameters() if value.grad is not None and id(value) not in ours]
        promise(not stray, f"only owned_modules() get a gradient; also did {', '.join(stray)}")

    def test_the_state_of_owned_modules_is_the_run(self) -> None:
        """A method that loads it goes on as the one that saved it."""
        method, other = self.build(), self.build()
        method, other = method.eval(), other.eval()
        with torch.no_grad():
            for module in other.owned_modules().values():
                for value in module.parameters():
                    value.add_(0.5)
        for name, module in other.owned_modules().items():
            module.load_state_dict(copy.deepcopy(method.owned_modules()[name].state_dict()))
        losses = [each(self.prepared(each)).loss for each in (method, other)]
        promise(torch.equal(*losses), f"the state of owned_modules() decides the loss, found {losses}")


class _Recorded(Teacher):
    """What a teacher said of a batch, without the streams that are not read; like a cache, by the samples' ids."""

    def __init__(self, name: str, teacher: Teacher, batch: ClipBatch, reads: Reads) -> None:
        super().__init__()
        with torch.no_grad():
            said = teacher.outputs(batch)
        self.said = {stream: tensor for stream, tensor in said.items() if reads.reads_stream(name, stream)}
        self.rows = {clip_id: row for row, clip_id in enumerate(batch.clip_ids)}
        if hasattr(teacher, "token_spec"):
            self.token_spec = teacher.token_spec

    def forward(self, batch: ClipBatch) -> Tensor | dict[str, Tensor]:
        rows = [self.rows[clip_id] for clip_id in batch.clip_ids]
        found = {stream: tensor[rows] for stream, tensor in self.said.items()}
        return found[LATENTS] if found.keys() == {LATENTS} else found

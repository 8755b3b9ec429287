"""`salt check --deep`: builds every part on the meta device, and holds the arithmetic against it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from salt_toolkit import assemble
from salt_toolkit.check.findings import Finding, findings_of
from salt_toolkit.contracts import ClipBatch, Mask
from salt_toolkit.data.noise import TORCH, blank
from salt_toolkit.errors import MissingArtifact
from salt_toolkit.geometry import Cost, MaskCounts
from salt_toolkit.masking import masks_for
from salt_toolkit.recipe import Recipe, Teaching
from salt_toolkit.streams import SampleSpec
from salt_toolkit.teaching import specs

META = torch.device("meta")


def check_built(recipe: Recipe) -> list[Finding]:
    """Compares what configs promise with what is built: shapes, parameters, counts.

    Modules are built on torch's meta device, which computes shapes and keeps no numbers. Parts that
    need a file that is not there are left out; `check_recipe` has named the file.
    """
    questions: dict[str, Callable[[Recipe], Iterator[str]]] = {
        **{teaching.key: partial(_teacher, teaching=teaching) for teaching in recipe.teachings()},
        "student": _student,
        "predictor": _predictor,
        "masker": _masker,
    }
    findings: list[Finding] = []
    for part, question in questions.items():
        selected = recipe.selected().get(part)
        try:
            if selected is None or selected.config.missing():
                continue
            findings += [Finding("error", part, message, _FIX) for message in question(recipe)]
        except MissingArtifact:
            continue  # of a part that this one is built from
        except BaseException as error:
            findings += findings_of(part, error)
    return findings


_FIX = "The plugin's config and its model disagree; report it to the plugin's authors."


def _teacher(recipe: Recipe, teaching: Teaching) -> Iterator[str]:
    config = teaching.teacher.config
    expected = specs.teacher_streams(recipe, teaching)
    with META:
        teacher = assemble.build_teacher(recipe, teaching)
        outputs = teacher.outputs(_batch(recipe, config.reads()))
    yield from _compare_streams(outputs, expected)
    yield from _compare_parameters(teacher, config.cost(recipe.inputs()))


def _student(recipe: Recipe) -> Iterator[str]:
    assert recipe.student is not None
    config, expected = recipe.student.config, specs.student_streams(recipe)
    with META:
        student = assemble.build_student(recipe)
    if recipe.masker is None:  # it sees whole samples
        with META:
            outputs = student(_batch(recipe))
        yield from _compare_streams({name: outputs for name in expected}, expected)
        grid = specs.student_grid(recipe)
        yield from _compare_parameters(student, config.cost(recipe.inputs(), grid.num_tokens if grid else 1))
        return
    counts = _used(recipe)
    with META:
        tokens = student(_batch(recipe), torch.zeros(1, counts.visible, dtype=torch.int64))
    yield from _compare_shape(tokens, (1, counts.visible, specs.student_spec(recipe).dim))
    yield from _compare_parameters(student, config.cost(recipe.inputs(), counts.visible))


def _predictor(recipe: Recipe) -> Iterator[str]:
    assert recipe.predictor is not None
    student, teacher, counts = specs.student_spec(recipe), specs.predicted_spec(recipe), _used(recipe)
    with META:
        predictor = assemble.build_predictor(recipe)
        mask = Mask(
            visible=torch.zeros(1, counts.visible, dtype=torch.int64),
            target=torch.zeros(1, counts.target, dtype=torch.int64),
        )
        latents = predictor(torch.zeros(1, counts.visible, student.dim), mask)
    yield from _compare_shape(latents, (1, counts.target, teacher.dim))
    yield from _compare_parameters(predictor, recipe.predictor.config.cost(student, teacher, counts))


def _masker(recipe: Recipe) -> Iterator[str]:
    assert recipe.masker is not None
    grid = specs.student_spec(recipe).grid
    masker = recipe.masker.build(grid=grid)
    expected, found = _drawn(recipe), masker.counts()
    if found != expected:
        yield f"the config promises {expected}, the masker {found}"
    masks_for(masker, num_tokens=grid.num_tokens, seed=0, epoch=0, clip_ids=[str(number) for number in range(8)])


def _drawn(recipe: Recipe) -> MaskCounts:
    assert recipe.masker is not None
    return recipe.masker.config.counts(specs.student_spec(recipe).grid)


def _used(recipe: Recipe) -> MaskCounts:
    """What the method gives student and predictor of a mask."""
    return recipe.method.config.counts(_drawn(recipe))


def _batch(recipe: Recipe, reads: Collection[str] | None = None) -> ClipBatch:
    """One sample, with no other tensors than those that are said to be read."""
    sample = recipe.inputs().sample
    wanted = {name: stream for name, stream in sample.items() if reads is None or name in reads}
    return blank(wanted, labels=recipe.dataset.config.label_spec())


def _compare_streams(found: Mapping[str, Tensor], expected: SampleSpec) -> Iterator[str]:
    if found.keys() != expected.keys():
        yield f"the config promises the streams {', '.join(expected)}; the model gives {', '.join(found)}"
        return
    for name, stream in expected.items():
        tensor, shape = found[name], (1, *stream.shape)
        if tuple(tensor.shape) != shape:
            yield f"the config promises {name} of the shape {shape}, the model gives {tuple(tensor.shape)}"
        elif not stream.is_float and tensor.dtype != TORCH[stream.dtype]:
            yield f"the config promises {name} in {stream.dtype}, the model gives {tensor.dtype}"


def _compare_shape(tensor: Tensor, expected: tuple[int, ...]) -> Iterator[str]:
    if tuple(tensor.shape) != expected:
        yield f"the config promises the shape {expected}, the model gives {tuple(tensor.shape)}"


def _compare_parameters(module: nn.Module, cost: Cost | None) -> Iterator[str]:
    found = sum(parameter.numel() for parameter in module.parameters())
    if cost is not None and found != cost.parameters:
        yield f"the config promises {cost.parameters} parameters, the model has {found}"

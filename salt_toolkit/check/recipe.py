"""Questions across components, answered by arithmetic: no data, no weights, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from salt_toolkit.cards import ModelCard
from salt_toolkit.check.estimates import (
    SampleBytes,
    TrainedCosts,
    cache_disk,
    checkpoint_disk,
    device_memory,
    host_memory,
)
from salt_toolkit.check.findings import Finding, findings_of
from salt_toolkit.check.report import Facts, Report, TeacherFacts
from salt_toolkit.check.settings import (
    followed_schedules,
    impossible_values,
    mask_ratios,
    settings_without_effect,
    too_much_memory,
)
from salt_toolkit.context import MethodContext
from salt_toolkit.flops import train_step_flops
from salt_toolkit.geometry import Cost, MaskCounts, TokenSpec
from salt_toolkit.recipe import Recipe, Teaching
from salt_toolkit.streams import SampleSpec
from salt_toolkit.teaching import specs
from salt_toolkit.teaching.fingerprint import identify


def check_recipe(recipe: Recipe) -> Report:
    """Proves a recipe's grids, widths and counts, and says what it will cost.

    Args:
        recipe: A recipe that has been validated section by section.
    """
    report = Report()
    report.facts.noun = recipe.noun
    for key, selected in recipe.selected().items():
        missing = _answer(report, key, selected.config.missing, Sequence) or ()
        report.findings += [Finding("missing", key, artifact.what, artifact.fix) for artifact in missing]
    if not recipe.trains:
        _check_caching(recipe, report)
        return report
    _add_length_facts(recipe, report)
    schedules, broken = followed_schedules(recipe, report.facts.steps)
    ratios = report.facts.mask_ratios = mask_ratios(schedules)
    tokens = _Tokens.of(recipe, report, ratio=ratios[1] if ratios else None)
    tokens.add_facts(report.facts)
    costs = _costs(recipe, tokens, report)
    _add_cost_facts(recipe, tokens, costs, report)
    _add_size_facts(recipe, tokens, costs, report)
    _check_method(recipe, report)
    report.findings.extend(broken)
    report.findings.extend(impossible_values(recipe, tokens.student.grid if tokens.student else None, schedules))
    report.findings.extend(too_much_memory(recipe, report.facts.host_memory_gb))
    report.findings.extend(settings_without_effect(recipe, tokens.drawn))
    return report


def _check_caching(recipe: Recipe, report: Report) -> None:
    """What can be said of a recipe of data set and teachers alone, which only fills a cache."""
    report.facts.clips = _answer(report, "dataset", recipe.dataset.config.num_clips, int)
    tokens = _Tokens.of(recipe, report, ratio=None)
    costs: dict[str, Cost | None] = {"teacher": _teachers(recipe, tokens, report)}
    _add_cost_facts(recipe, tokens, costs, report)
    _add_size_facts(recipe, tokens, costs, report)


@dataclass(frozen=True)
class _Tokens:
    """The recipe's token grids; None where the method has no such part, or it is unknown here.

    Attributes:
        student: The student's tokens.
        streams: Each teacher's streams, by the teacher's name.
        teachers: Each teacher's latents on its own grid, by the teacher's name, where they lie on one.
        teacher: All teachers' latents side by side, on the student's grid.
        drawn: Visible and target tokens of the masker's masks.
        used: Those that the method gives to student and predictor.
    """

    student: TokenSpec | None
    streams: Mapping[str, SampleSpec | None]
    teachers: Mapping[str, TokenSpec | None]
    teacher: TokenSpec | None
    drawn: MaskCounts | None
    used: MaskCounts | None

    @classmethod
    def of(cls, recipe: Recipe, report: Report, *, ratio: float | None) -> _Tokens:
        """Asks the configs; ``ratio`` is the masker's from a schedule, if there is one."""
        student = None
        if recipe.student:
            streams = _answer(report, "student", partial(specs.student_streams, recipe), Mapping) or {}
            student = next((stream.tokens for stream in streams.values() if stream.tokens), None)
        given = {t.name: _streams(recipe, t, report) for t in recipe.teachings()}
        teachers = {name: _on_grid(streams) for name, streams in given.items()}
        known = [spec for spec in teachers.values() if spec]
        teacher = None
        if known and len(known) == len(teachers):
            teacher = TokenSpec((student or known[0]).grid, sum(spec.dim for spec in known))
        drawn = None
        if student and recipe.masker:
            drawn = _answer(report, "masker", partial(recipe.masker.config.counts, student.grid, ratio), MaskCounts)
        used = _answer(report, "method", partial(recipe.method.config.counts, drawn), MaskCounts) if drawn else None
        return cls(student, given, teachers, teacher, drawn, used)

    def add_facts(self, facts: Facts) -> None:
        """Enters what is known of the tokens."""
        if self.student:
            facts.grid, facts.tokens = str(self.student.grid), self.student.grid.num_tokens
            facts.student_dim = self.student.dim
        if self.teacher:
            facts.teacher_dim = self.teacher.dim
        if self.drawn:
            facts.drawn_target_tokens = self.drawn.target
        if self.used:
            facts.visible_tokens, facts.target_tokens = self.used.visible, self.used.target


def _streams(recipe: Recipe, teaching: Teaching, report: Report) -> SampleSpec | None:
    """A teacher's streams; with an objective, one of them has to lie on a grid."""
    streams = _answer(report, teaching.key, partial(specs.teacher_streams, recipe, teaching), Mapping)
    if streams is not None and teaching.objective:
        _answer(report, teaching.key, partial(specs.grid_stream, streams, f"the teacher {teaching.name!r}"))
    return streams


def _on_grid(streams: SampleSpec | None) -> TokenSpec | None:
    gridded = [stream.tokens for stream in (streams or {}).values() if stream.tokens]
    return gridded[0] if len(gridded) == 1 else None


def _check_method(recipe: Recipe, report: Report) -> None:
    """What the method says of its own settings, once all other parts have answered."""
    if report.has("error", "missing"):
        return
    context = _answer(report, "method", partial(specs.method_context, recipe), MethodContext)
    if context is None:
        return
    wrong = _answer(report, "method", partial(recipe.method.config.check, context), Mapping) or {}
    report.findings += [Finding("error", f"method.{name}" if name else "method", what) for name, what in wrong.items()]
    cost = _answer(report, "method", partial(recipe.method.config.cost, context), Cost)
    if cost:
        report.facts.train_step_gflops_per_clip = (3 * cost.forward_flops - cost.input_flops) / 1e9


def _answer(report: Report, key: str, question: Callable[[], Any], kind: type | None = None) -> Any:
    """A config's answer; None where it cannot be had, which becomes a finding.

    Args:
        report: Gets the finding.
        key: Whose config is asked.
        question: Asks it.
        kind: What the answer must be, if it is not None.
    """
    try:
        answer = question()
        if kind is None or answer is None or isinstance(answer, kind):
            return answer
        found = [Finding("error", key, f"the plugin answered {answer!r} where it promised a {kind.__name__}")]
    except BaseException as error:
        found = findings_of(key, error)
    # Two questions may meet the same obstacle.
    report.findings += [finding for finding in found if finding not in report.findings]
    return None


def _costs(recipe: Recipe, tokens: _Tokens, report: Report) -> dict[str, Cost | None]:
    """What each part costs for one clip, all its passes together; None where its config does not say."""
    student, teacher, counts = tokens.student, tokens.teacher, tokens.used
    passes = report.facts.passes_per_clip = _answer(report, "method", recipe.method.config.passes, int) or 1
    costs: dict[str, Cost | None] = {}
    if recipe.teachings():
        costs["teacher"] = _teachers(recipe, tokens, report)
    if recipe.student:
        _note_terms(report, "student", _answer(report, "student", recipe.student.config.card, ModelCard))
    if recipe.student and counts:
        cost = _answer(report, "student", partial(recipe.student.config.cost, recipe.inputs(), counts.visible), Cost)
        costs["student"] = cost.times(passes) if cost else None
    if recipe.predictor and student and teacher and counts:
        cost = _answer(report, "predictor", partial(recipe.predictor.config.cost, student, teacher, counts), Cost)
        costs["predictor"] = cost.times(passes) if cost else None
    return costs


def _teachers(recipe: Recipe, tokens: _Tokens, report: Report) -> Cost | None:
    """Adds what is known of each teacher to the facts; returns what all of them cost, if that is known."""
    rows: list[TeacherFacts] = []
    costs: list[Cost | None] = []
    for teaching in recipe.teachings():
        use, config, key = teaching.teacher.use, teaching.teacher.config, teaching.key
        spec, streams = tokens.teachers[teaching.name], tokens.streams[teaching.name]
        cost = _answer(report, key, lambda config=config: config.cost(recipe.inputs()), Cost)
        identity = _answer(
            report, key, partial(identify, use, config, recipe.inputs(), teaching.teacher.provided.component.build)
        )
        card = _answer(report, key, config.card, ModelCard)
        resampled = spec.grid != tokens.student.grid if spec and tokens.student else None
        rows.append(
            TeacherFacts(
                name=teaching.name,
                weight=teaching.weight,
                use=use,
                grid=str(spec.grid) if spec else None,
                dim=spec.dim if spec else None,
                streams={name: str(stream) for name, stream in streams.items()} if streams else None,
                parameters=cost.parameters if cost else None,
                gflops_per_clip=cost.forward_flops / 1e9 if cost else None,
                fingerprint=identity.fingerprint if identity else None,
                licence=card.licence if card else None,
                labels=card.labels if card else None,
                resampled=resampled,
            )
        )
        costs.append(cost)
        _note_terms(report, key, card)
        if spec and teaching.objective:
            latents = TokenSpec((tokens.student or spec).grid, spec.dim)
            _answer(report, teaching.objective_key, partial(teaching.objective.config.check, latents))
    report.facts.teachers = rows
    known = [cost for cost in costs if cost]
    if len(known) < len(costs):
        return None
    return Cost(sum(cost.parameters for cost in known), sum(cost.forward_flops for cost in known))


def _note_terms(report: Report, key: str, card: ModelCard | None) -> None:
    if card and card.non_commercial:
        message = f"its weights are {card.licence}: they are for non-commercial use only"
        fix = "Whether that extends to a student made from them is for you to settle with their owners."
        report.findings.append(Finding("note", key, message, fix))


def _add_cost_facts(recipe: Recipe, tokens: _Tokens, costs: dict[str, Cost | None], report: Report) -> None:
    for part, cost in costs.items():
        if cost is not None:
            setattr(report.facts, f"{part}_parameters", cost.parameters)
            setattr(report.facts, f"{part}_gflops_per_clip", cost.forward_flops / 1e9)
    student, predictor = costs.get("student"), costs.get("predictor")
    if student is None or predictor is None:
        return
    gflops = report.facts.train_step_gflops_per_clip = train_step_flops(student, predictor) / 1e9
    if steps := report.facts.steps:
        teacher = report.facts.teacher_gflops_per_clip or 0.0
        batch_clips = recipe.train.batch_size * recipe.train.accumulate
        report.facts.run_pflops = steps * batch_clips * (gflops + teacher) / 1e6


def _add_length_facts(recipe: Recipe, report: Report) -> None:
    num_clips = _answer(report, "dataset", recipe.dataset.config.num_clips, int)
    train = recipe.train
    report.facts.clips = num_clips
    report.facts.batch_clips = train.batch_size * train.accumulate
    known = num_clips is not None or train.max_steps is not None
    steps = report.facts.steps = train.num_steps(num_clips or 0) if known else None
    report.facts.epochs = train.epochs
    if num_clips is not None and num_clips < train.batch_size:
        message = f"the data set has {num_clips} {recipe.noun}s, fewer than one batch of {train.batch_size}"
        report.findings.append(Finding("error", "train.batch_size", message, "Lower train.batch_size."))
    elif steps == 0:
        report.findings.append(Finding("error", "train", "the run would have no step", "Raise train.epochs."))
    elif num_clips and steps and train.epochs is None:
        report.facts.epochs = steps * train.accumulate / (num_clips // train.batch_size)


def _add_size_facts(recipe: Recipe, tokens: _Tokens, costs: dict[str, Cost | None], report: Report) -> None:
    """Memory and disk, as far as the parts' configs say enough."""
    facts, num_clips = report.facts, report.facts.clips
    student, predictor = costs.get("student"), costs.get("predictor")
    if student and predictor:
        trained = TrainedCosts(student, predictor, costs.get("teacher"))
        facts.device_memory_gb = device_memory(recipe, trained) / 1e9
        facts.disk_gb = checkpoint_disk(recipe, trained, facts.steps) / 1e9
    streams = [each for each in tokens.streams.values() if each]
    each = _answer(report, "dataset", partial(SampleBytes.of, recipe, streams), SampleBytes)
    if each and len(streams) == len(tokens.streams):
        facts.host_memory_gb = host_memory(recipe, each) / 1e9
        if recipe.cache and num_clips is not None:
            facts.cache_gb = cache_disk(recipe, each, num_clips) / 1e9

"""A kit that passes everything proves nothing: here it meets components that break one promise each."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import salt_toy
import torch
from pydantic import ConfigDict
from salt_methods import build_masked_latent
from salt_methods.config import MaskedLatentConfig
from salt_toy.config import (
    DecayConfig,
    DenseConfig,
    LogCoshConfig,
    MixerConfig,
    ProjectionConfig,
    RegressorConfig,
    SquaresConfig,
    WindowConfig,
)
from salt_toy.data import Squares, WindowMasker
from salt_toy.models import MixerStudent, ProjectionTeacher, Regressor
from salt_toy.training import Dense, LogCosh

from salt_toolkit import Component, Cost, MaskCounts, TokenSpec, hookimpl, testing
from salt_toolkit.contracts import Mask, Parts, Sample, StepOutput

KITS = {
    "teacher": (testing.TeacherContract, ProjectionConfig, ProjectionTeacher),
    "student": (testing.StudentContract, MixerConfig, MixerStudent),
    "predictor": (testing.PredictorContract, RegressorConfig, Regressor),
    "masker": (testing.MaskerContract, WindowConfig, WindowMasker),
    "dataset": (testing.DatasetContract, SquaresConfig, Squares),
    "objective": (testing.ObjectiveContract, LogCoshConfig, LogCosh),
}


def failures(kit) -> dict[str, str]:
    """The names of the kit's checks that fail, with what they say."""
    found = {}
    for name in dir(kit):
        if name.startswith("test_") and name != "test_the_config_answers_without_heavy_imports":
            try:
                getattr(kit, name)()
            except testing.ContractBroken as error:
                found[name] = str(error)
    return found


def kit_for(monkeypatch, kind, build, config=None, base=None, section=None):
    """The kit of a kind, for one component of a plugin made up here."""
    contract, own_config, _ = KITS.get(kind, (base, None, None))
    module = ModuleType("plugin_in_hand")

    def components():
        yield Component("mine", config or own_config, build, "Mine.")

    components.__name__ = f"salt_{kind}s"
    setattr(module, components.__name__, hookimpl(components))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kit = (base or contract)()
    kit.plugin, kit.section = module.__name__, section or {"use": "mine"}
    return kit


@pytest.mark.parametrize("kind", KITS)
def test_sound_components_pass(monkeypatch, kind):
    assert failures(kit_for(monkeypatch, kind, KITS[kind][2])) == {}


class Learning(ProjectionTeacher):
    def __init__(self, config, *, clip):
        super().__init__(config, clip=clip)
        self.train().requires_grad_(True)


class Chancy(ProjectionTeacher):
    def forward(self, batch):
        latents = super().forward(batch)
        return latents + torch.rand_like(latents)


class Centred(ProjectionTeacher):
    def forward(self, batch):
        latents = super().forward(batch)
        return latents - latents.mean(dim=0)


class Mute(ProjectionTeacher):
    def forward(self, batch):
        return torch.zeros_like(super().forward(batch))


class Narrow(ProjectionTeacher):
    def forward(self, batch):
        return super().forward(batch)[..., :-1]


class Doubled(ProjectionTeacher):
    def forward(self, batch):
        return super().forward(batch).double()


class Peeking(MixerStudent):
    def forward(self, batch, visible=None):
        return super().forward(batch, visible) + batch.tensors["clip"].float().mean()


class Sorting(MixerStudent):
    def forward(self, batch, visible=None):
        return super().forward(batch, None if visible is None else visible.sort().values)


class Idle(MixerStudent):
    def __init__(self, config, *, clip):
        super().__init__(config, clip=clip)
        self.spare = torch.nn.Parameter(torch.zeros(1))


class Blind(Regressor):
    def forward(self, tokens, mask):
        return super().forward(tokens.detach(), mask)


class Placeless(Regressor):
    def forward(self, tokens, mask):
        return super().forward(tokens[:, :1], Mask(mask.visible, mask.target.sort().values))


class Overlapping(WindowMasker):
    def draw(self, generator, ratio=None):
        visible, target = super().draw(generator, ratio)
        return np.sort(np.append(visible[1:], target[0])), target


class Fixed(WindowMasker):
    def draw(self, generator, ratio=None):
        return super().draw(np.random.default_rng(0), ratio)


class Restless(WindowMasker):
    def draw(self, generator, ratio=None):
        return super().draw(np.random.default_rng(), ratio)


class Stateful(Squares):
    num_read = 0

    def read(self, index, view):
        self.num_read += 1
        sample = super().read(index, view)
        return Sample(sample.clip_id, {"clip": sample.tensors["clip"] ^ (self.num_read % 7)}, sample.label)


class Repeating(Squares):
    def __init__(self, config, *, clip, seed):
        super().__init__(config, clip=clip, seed=seed)
        self.clip_ids[1] = self.clip_ids[0]


class Floating(Squares):
    def read(self, index, view):
        sample = super().read(index, view)
        return Sample(sample.clip_id, {"clip": sample.tensors["clip"].float() / 255}, sample.label)


class Summed(LogCosh):
    def forward(self, predicted, targets):
        return super().forward(predicted, targets) * predicted.shape[0]


class Negative(LogCosh):
    def forward(self, predicted, targets):
        return -super().forward(predicted, targets)


class Forgetful(LogCosh):
    calibration_clips = 4

    def observe(self, latents):
        self.mean = latents.mean()

    def targets(self, latents):
        return latents - getattr(self, "mean", 0)


@pytest.mark.parametrize(
    ("kind", "build", "broken"),
    [
        ("teacher", Learning, {"test_the_teacher_is_frozen"}),
        ("teacher", Chancy, {"test_the_same_sample_gives_the_same_streams"}),
        ("teacher", Centred, {"test_the_same_sample_gives_the_same_streams"}),
        ("teacher", Mute, {"test_different_samples_give_different_streams"}),
        ("teacher", Narrow, {"test_streams_are_as_the_config_says"}),
        ("teacher", Doubled, {"test_streams_are_as_the_config_says"}),
        ("student", Peeking, {"test_hidden_pixels_do_not_leak"}),
        ("student", Sorting, {"test_the_order_of_visible_is_kept"}),
        ("student", Idle, {"test_every_parameter_learns", "test_the_cost_is_true"}),
        ("predictor", Blind, {"test_every_parameter_learns"}),
        ("predictor", Placeless, {"test_the_order_of_tokens_has_no_meaning"}),
        ("masker", Overlapping, {"test_masks_are_well_formed"}),
        ("masker", Fixed, {"test_every_position_can_be_target_and_visible"}),
        ("masker", Restless, {"test_the_generator_is_the_only_source_of_chance"}),
        ("dataset", Stateful, {"test_a_view_is_a_pure_function"}),
        ("dataset", Repeating, {"test_clip_ids_are_unique_and_stable"}),
        ("dataset", Floating, {"test_samples_are_as_the_config_says"}),
        ("objective", Summed, {"test_the_loss_is_a_mean_over_clips"}),
        ("objective", Negative, {"test_nothing_is_better_than_the_targets"}),
        ("objective", Forgetful, {"test_statistics_are_saved"}),
    ],
)
def test_a_broken_promise_is_found_and_named(monkeypatch, kind, build, broken):
    assert failures(kit_for(monkeypatch, kind, build)).keys() == broken


class Layered(MixerConfig):
    def teachable_layers(self):
        return 1


class Shrinking(MixerConfig):
    def structure(self, num_layers=None):
        return self.model_copy(update={"dim": self.dim * 2})


class Vague(MixerStudent):
    def tokens_after(self, batch, layers):
        return [self(batch) + 1 for _ in layers]


class Exact(MixerStudent):
    def tokens_after(self, batch, layers):
        return [self(batch) for _ in layers]


@pytest.mark.parametrize(
    ("build", "config", "broken"),
    [
        (MixerStudent, Shrinking, {"test_it_can_be_rebuilt_for_trained_weights"}),
        (Vague, Layered, {"test_layers_that_it_can_teach_are_given"}),
        (Exact, Layered, set()),
    ],
)
def test_a_student_that_cannot_teach_as_it_says_is_found(monkeypatch, build, config, broken):
    assert failures(kit_for(monkeypatch, "student", build, config=config)).keys() == broken


class Boastful(ProjectionConfig):
    def cost(self, inputs):
        return Cost(parameters=1, forward_flops=1)


class Wide(ProjectionConfig):
    def token_spec(self, clip):
        spec = super().token_spec(clip)
        return TokenSpec(spec.grid, spec.dim + 1)


def test_a_config_whose_arithmetic_is_wrong_is_found(monkeypatch):
    found = failures(kit_for(monkeypatch, "teacher", ProjectionTeacher, config=Boastful))
    assert found.keys() == {"test_the_cost_is_true"}
    assert found["test_the_cost_is_true"].startswith("cost().parameters is 1, and the model has ")

    def build(config, *, clip):
        return ProjectionTeacher(ProjectionConfig(), clip=clip)

    assert "test_streams_are_as_the_config_says" in failures(kit_for(monkeypatch, "teacher", build, config=Wide))


class Lenient(WindowConfig):
    model_config = ConfigDict(extra="ignore")
    undescribed: int = 3


def test_a_careless_config_is_found(monkeypatch):
    found = failures(kit_for(monkeypatch, "masker", WindowMasker, config=Lenient))
    assert found.keys() == {"test_every_setting_is_described", "test_an_unknown_setting_is_refused"}
    assert "undescribed" in found["test_every_setting_is_described"]


@pytest.mark.parametrize(
    ("value", "broken"),
    [
        (lambda step: 1 / (100 - step) if step < 100 else float("inf"), {"test_values_are_finite"}),
        (iter(range(10_000)).__next__, {"test_a_value_depends_on_the_step_alone"}),
    ],
)
def test_a_careless_schedule_is_found(monkeypatch, value, broken):
    def build(config, *, total_steps):
        return value if "test_values_are_finite" in broken else lambda step: float(value())

    section = {"use": "mine", "start": 1.0, "end": 0.1}
    kit = kit_for(monkeypatch, "schedule", build, DecayConfig, testing.ScheduleContract, section)
    assert failures(kit).keys() == broken


class DenseKit(testing.MethodContract):
    def parts(self):
        teacher = salt_toy.build_projection(ProjectionConfig(), clip=self.clip)
        student = salt_toy.build_mixer(MixerConfig(), clip=self.clip)
        objective = salt_toy.build_log_cosh(LogCoshConfig(), teacher=teacher.token_spec)
        return Parts(seed=0, teachers={"one": teacher}, objectives={"one": objective}, student=student)


class Headless(Dense):
    def owned_modules(self):
        return {"student": self.student}


class Ordinal(Dense):
    def prepare(self, batch, *, epoch, step):
        return batch.with_tensors(place=torch.arange(len(batch.clip_ids)))


class Attached(Dense):
    def forward(self, batch):
        output = super().forward(batch)
        return StepOutput(output.loss, {"loss": output.loss})


@pytest.mark.parametrize(
    ("method", "broken"),
    [
        (Dense, set()),
        (Headless, {"test_every_owned_parameter_learns"}),
        (Ordinal, {"test_prepare_is_pure"}),
        (Attached, {"test_a_step_gives_a_loss_and_metrics"}),
    ],
)
def test_a_careless_method_is_found(monkeypatch, method, broken):
    kit = kit_for(monkeypatch, "method", lambda config, parts: method(parts), DenseConfig, DenseKit)
    assert failures(kit).keys() == broken


class MaskedKit(testing.MethodContract):
    def parts(self):
        teacher = salt_toy.build_projection(ProjectionConfig(), clip=self.clip)
        student = salt_toy.build_mixer(MixerConfig(), clip=self.clip)
        spec = teacher.token_spec
        return Parts(
            seed=0,
            teachers={"one": teacher},
            objectives={"one": salt_toy.build_log_cosh(LogCoshConfig(), teacher=spec)},
            student=student,
            predictor=salt_toy.build_regressor(RegressorConfig(), student=student.token_spec, teacher=spec),
            masker=salt_toy.build_window(WindowConfig(), grid=spec.grid),
        )


class Thrifty(MaskedLatentConfig):
    def counts(self, drawn):
        return MaskCounts(drawn.visible, drawn.target // 2)


class Hasty(MaskedLatentConfig):
    def passes(self):
        return 1


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (MaskedLatentConfig, None),
        (Thrifty, "counts() gives a pass 12 target tokens, found [24]"),
        (Hasty, "passes() says 1 for each clip, found 2 (visible tokens)"),
    ],
)
def test_a_method_config_that_promises_another_cost_is_found(monkeypatch, config, sentence):
    """The method itself takes the honest config of the same settings."""

    def build(config, *, parts):
        return build_masked_latent(MaskedLatentConfig(**config.model_dump()), parts=parts)

    section = {"use": "mine", "masks_per_clip": 2}
    found = failures(kit_for(monkeypatch, "method", build, config, MaskedKit, section))
    expected = {} if sentence is None else {"test_student_and_predictor_get_what_the_config_says": sentence}
    assert found == expected


def test_a_plugin_that_imports_torch_at_once_is_found(tmp_path, monkeypatch):
    (tmp_path / "hasty_plugin.py").write_text(
        "import torch\nfrom salt_toy import build_window, hookimpl, Component, WindowConfig\n"
        "@hookimpl\ndef salt_maskers():\n    yield Component('hasty', WindowConfig, build_window, 'Hasty.')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kit = testing.MaskerContract()
    kit.plugin, kit.section = "hasty_plugin", {"use": "hasty"}
    with pytest.raises(testing.ContractBroken, match="at import came torch"):
        kit.test_the_config_answers_without_heavy_imports()


@pytest.mark.parametrize(
    ("kind", "base", "question", "kit"),
    [
        ("teacher", "ProjectionConfig", "token_spec", testing.TeacherContract),
        ("teacher", "ProjectionConfig", "cost", testing.TeacherContract),
        ("teacher", "ProjectionConfig", "identity", testing.TeacherContract),
        ("teacher", "ProjectionConfig", "card", testing.TeacherContract),
        ("teacher", "ProjectionConfig", "known_checkpoints", testing.TeacherContract),
        ("student", "MixerConfig", "cost", testing.StudentContract),
        ("student", "MixerConfig", "identity", testing.StudentContract),
        ("predictor", "RegressorConfig", "cost", testing.PredictorContract),
        ("masker", "WindowConfig", "counts", testing.MaskerContract),
        ("dataset", "SquaresConfig", "num_clips", testing.DatasetContract),
        ("objective", "LogCoshConfig", "check", testing.ObjectiveContract),
        ("method", "DenseConfig", "counts", DenseKit),
        ("method", "DenseConfig", "passes", DenseKit),
        ("method", "DenseConfig", "without_effect", DenseKit),
        ("masker", "WindowConfig", "missing", testing.MaskerContract),
        ("schedule", "DecayConfig", "build", testing.ScheduleContract),
    ],
)
def test_an_answer_that_imports_a_heavy_library_is_found(tmp_path, monkeypatch, kind, base, question, kit):
    (tmp_path / "decord.py").write_text("")  # the real one takes a second
    (tmp_path / f"slow_{kind}_{question}.py").write_text(
        f"""
from salt_toy.config import {base} as Base
from salt_toolkit import Component, hookimpl

class Config(Base):
    @classmethod
    def known_checkpoints(cls):
        return ()

def build(config, **context):
    return lambda step: float(step)

def heavy(*arguments, **keywords):
    import decord
    return honest(*arguments, **keywords)

if "{question}" == "build":
    honest, build = build, heavy
else:
    honest = getattr(Config, "{question}")
    setattr(Config, "{question}", staticmethod(heavy) if "{question}" == "known_checkpoints" else heavy)

@hookimpl
def salt_{kind}s():
    print("Good morning!")
    yield Component("slow", Config, build, "Slow.")
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    slow = kit()
    slow.plugin, slow.section = f"slow_{kind}_{question}", {"use": "slow"}
    if kind == "schedule":
        slow.section |= {"start": 1.0, "end": 0.1}
    with pytest.raises(testing.ContractBroken, match=rf"for `salt check`; at {question}\(\) came decord"):
        slow.test_the_config_answers_without_heavy_imports()

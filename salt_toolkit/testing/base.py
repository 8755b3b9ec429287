"""What every component promises, whatever its kind."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import tomli_w
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from salt_toolkit.component import Component
from salt_toolkit.context import Inputs, MethodContext, video_inputs
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.data.noise import TORCH, noise
from salt_toolkit.geometry import ClipSpec, Cost
from salt_toolkit.kinds import asked_for
from salt_toolkit.registry import Registry
from salt_toolkit.streams import SampleSpec, StreamSpec

COLD = Path(__file__).with_name("cold.py")
"""Run in a fresh interpreter: asks a config what `salt check` asks, and says what that imported."""


class ContractBroken(AssertionError):
    """A component does not do what its kind promises; the message states the promise."""


def promise(held: object, sentence: str) -> None:
    """Raises `ContractBroken` with the sentence unless the promise was held."""
    if not held:
        raise ContractBroken(sentence)


def random_batch(clip: ClipSpec, num_clips: int = 2, *, seed: int = 0) -> ClipBatch:
    """Clips of noise, the same for the same seed: uint8, as datasets give them."""
    return noise(video_inputs(clip).sample, num_clips, seed=seed)


class ComponentContract:
    """The promises of every component; subclass the class of your kind instead.

    Attributes:
        kind: The component's kind; set by the class of each kind.
        plugin: The module that defines the hooks, as in the entry point.
        section: The recipe's section: ``use`` and the settings.
        clip: The clip to work on; small keeps tests quick. None: a component without video.
        sample: The tensors of a sample; None: the clip's.
    """

    kind: ClassVar[str]
    plugin: str
    section: Mapping[str, Any]
    clip: ClipSpec | None = ClipSpec(frames=4, size=32)
    sample: SampleSpec | None = None

    @property
    def component(self) -> Component:
        """The component, found through the plugin's hooks."""
        registry = Registry.from_modules({self.plugin: importlib.import_module(self.plugin)})
        return registry.get(self.kind, self.section["use"]).component

    @property
    def settings(self) -> dict[str, Any]:
        """The section without ``use``."""
        return {name: value for name, value in self.section.items() if name != "use"}

    @property
    def config(self) -> Any:
        """The settings, validated as a recipe's are."""
        return self.component.config.model_validate_json(json.dumps(self.settings))

    @property
    def inputs(self) -> Inputs:
        """What reaches the component."""
        return video_inputs(self.video) if self.sample is None else Inputs(self.sample, self.clip)

    @property
    def video(self) -> ClipSpec:
        """The clip, for kinds that see nothing but video."""
        promise(self.clip is not None, "this test needs a clip, or a sample where there is no video; set one of them")
        assert self.clip is not None
        return self.clip

    def built(self, config: Any = None, **context: Any) -> Any:
        """What the build function makes of the config, given what its signature names of the context."""
        names = asked_for(self.component.build, context)
        return self.component.build(config or self.config, **{name: context[name] for name in names})

    def test_the_summary_is_one_line(self) -> None:
        """`salt plugins` prints it."""
        summary = self.component.summary
        promise("\n" not in summary.strip(), f"a component's summary is one line, found {summary!r}")

    def test_every_setting_is_described(self) -> None:
        """A recipe's author reads the descriptions in errors, in the docs and in the editor."""
        fields = self.component.config.model_fields
        silent = [name for name, field in fields.items() if not (field.description or "").strip()]
        promise(not silent, f"every setting has a description that states its unit; none on: {', '.join(silent)}")

    def test_an_unknown_setting_is_refused(self) -> None:
        """A misspelt key in a recipe must never be ignored."""
        settings = {**self.settings, "a_setting_that_nobody_defines": 1}
        try:
            self.component.config.model_validate_json(json.dumps(settings))
        except ValidationError:
            return
        raise ContractBroken('a config refuses unknown keys; keep extra="forbid" of salt_toolkit.Config')

    def test_the_config_survives_toml(self) -> None:
        """Runs and checkpoints keep their recipe as TOML."""
        written = tomli_w.dumps(self.config.model_dump(mode="json", exclude_none=True))
        read = self.component.config.model_validate_json(json.dumps(tomllib.loads(written)))
        promise(read == self.config, f"a config written to TOML and read again is the same, found {read!r}")

    def circumstances(self) -> dict[str, Any]:
        """What the config is asked about, in plain values, by the names of its methods' arguments.

        A kind adds what its own questions need.
        """
        counts = {"visible": 4, "target": 12}
        return {
            "plugin": self.plugin,
            "kind": self.kind,
            "section": dict(self.section),
            "clip": self.clip.model_dump(mode="json") if self.clip else None,
            "inputs": plain(self.inputs),
            "context": plain(MethodContext(self.inputs)),
            "visible": counts["visible"],
            "counts": counts,
            "drawn": counts,
        }

    def test_the_config_answers_without_heavy_imports(self) -> None:
        """`salt check` is quick because plugins import torch inside their build functions only."""
        done = subprocess.run(
            # -P: what lies beside the script is no module to import.
            [sys.executable, "-P", str(COLD), json.dumps(self.circumstances())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            check=False,
        )
        promise(done.returncode == 0, f"the config does not answer in a fresh interpreter:\n{done.stderr}")
        came = json.loads(done.stdout.splitlines()[-1])
        listed = "; ".join(f"at {question} came {', '.join(heavy)}" for question, heavy in came.items())
        promise(not came, f"a plugin imports heavy libraries inside build only, and never for `salt check`; {listed}")


def plain(value: Any) -> Any:
    """A light dataclass in plain values, as another interpreter can read it."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def expect_shape(tensor: Tensor, shape: tuple[int, ...], what: str) -> None:
    """The tensor has this shape, is float32, and is finite."""
    promise(tuple(tensor.shape) == shape, f"{what} have the shape {shape}, found {tuple(tensor.shape)}")
    promise(tensor.dtype == torch.float32, f"{what} are float32, found {tensor.dtype}")
    promise(bool(torch.isfinite(tensor).all()), f"{what} are finite")


def expect_stream(tensor: Tensor, stream: StreamSpec, num_samples: int, name: str) -> None:
    """A batch of one stream has the declared shape and type, and is finite."""
    shape, dtype = (num_samples, *stream.shape), TORCH[stream.dtype]
    promise(tuple(tensor.shape) == shape, f"{name} has the shape {shape}, found {tuple(tensor.shape)}")
    promise(tensor.dtype == dtype, f"{name} is {dtype}, found {tensor.dtype}")
    promise(bool(torch.isfinite(tensor.float()).all()), f"{name} is finite")


def expect_close(found: Tensor, expected: Tensor, sentence: str) -> None:
    """Equal up to float32's rounding, which differs with the shape of a product."""
    difference = (found - expected).abs().max().item()
    promise(torch.allclose(found, expected, rtol=1e-3, atol=1e-4), f"{sentence}; they differ by up to {difference:.2g}")


def expect_learning(module: nn.Module, output: Tensor) -> None:
    """A gradient from the output reaches every parameter that asks for one."""
    (output * torch.randn_like(output)).sum().backward()
    missed = [name for name, value in module.named_parameters() if value.requires_grad and value.grad is None]
    promise(
        not missed,
        f"the gradient reaches every learnable parameter, and does not reach {', '.join(missed)}; "
        "use them, or take requires_grad away",
    )


def expect_cost(module: nn.Module, cost: Cost | None, counter: FlopCounterMode) -> None:
    """The config's arithmetic equals what was built and what torch counted for one clip."""
    if cost is None:
        return
    parameters = sum(parameter.numel() for parameter in module.parameters())
    promise(cost.parameters == parameters, f"cost().parameters is {cost.parameters}, and the model has {parameters}")
    flops = counter.get_total_flops()
    promise(cost.forward_flops == flops, f"cost().forward_flops is {cost.forward_flops}, and torch counts {flops}")

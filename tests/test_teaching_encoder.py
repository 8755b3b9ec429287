"""Which latents of an encoder are taken, and who a teacher is: the arithmetic, and the tensors that follow it."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import Field, ValidationError
from torch import nn

from salt_toolkit import ClipSpec, GeometryError, MissingArtifact
from salt_toolkit.context import video_inputs
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.errors import PluginError
from salt_toolkit.geometry import Cost, Grid, TokenSpec
from salt_toolkit.teaching.alignment import fit_clip
from salt_toolkit.teaching.config import EncoderConfig, EncoderSpec
from salt_toolkit.teaching.encoder import FrozenEncoder, untrained
from salt_toolkit.teaching.fingerprint import TeacherIdentity, identify
from salt_toolkit.testing import random_batch

DEPTH, DIM = 4, 6
CLIP = ClipSpec(frames=4, size=8)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LadderConfig(EncoderConfig):
    """A family whose block n adds n times 0, 1, 2, ... to every token; its own norm stretches the last numbers most."""

    file: str = Field("", description="The weights.")
    own: bool = Field(True, description="Whether there is an own norm.")
    own_is_default: bool = Field(True, description="Whether auto takes it.")
    beside: int = Field(0, description="Tokens beside each token.")
    size: int = Field(8, description="Pixels.")
    frames: int = Field(4, description="Frames.")
    mean: tuple[float, ...] = Field(IMAGENET[0], description="Of colours.")
    patch: int = Field(4, description="Pixels.")

    def encoder_spec(self, clip: ClipSpec) -> EncoderSpec:
        return EncoderSpec(
            architecture={"dim": DIM, "depth": DEPTH, "patch": self.patch},
            frames=self.frames,
            size=self.size,
            grid=Grid(self.frames, self.size // self.patch, self.size // self.patch),
            dim=DIM,
            depth=DEPTH,
            own_norm=self.own,
            own_norm_is_default=self.own_is_default,
            around=Cost(100, 1000, 500),
            block=Cost(7, 70),
            mean=self.mean,
            beside=self.beside,
        )

    def weight_files(self) -> tuple[Path, ...]:
        return (Path(self.file),) if self.file and self.weights != "random" else ()

    def missing(self) -> tuple[MissingArtifact, ...]:
        lost = [file for file in self.weight_files() if not file.is_file()]
        return tuple(MissingArtifact(f"the file {file} does not exist", "Find it.") for file in lost)


class Ladder(FrozenEncoder):
    def __init__(self, config: LadderConfig, clip: ClipSpec) -> None:
        super().__init__(config, clip)
        with untrained():
            self.start = nn.Linear(1, DIM * (1 + self.spec.beside))
        self.dropout = nn.Dropout(0.5)
        self.freeze()

    def hidden(self, pixels, layers):
        patch = self.spec.size // self.spec.grid.rows
        means = nn.functional.avg_pool3d(pixels.mean(1, keepdim=True), (1, patch, patch)).flatten(1)
        tokens, outputs = self.dropout(self.start(means.unsqueeze(-1))), {}
        for number in range(1, DEPTH + 1):
            tokens = tokens + number * torch.arange(tokens.shape[-1])
            outputs[number] = tokens
        return [outputs[number] for number in layers]

    def own_norm(self, tokens):
        assert tokens.shape[-1] == DIM  # single tokens
        return tokens * (1 + torch.arange(DIM)) + 1


def latents_of(batch=None, clip=CLIP, **settings) -> np.ndarray:
    return Ladder(LadderConfig(**settings), clip)(batch or random_batch(clip)).numpy()


def normalised(tokens: np.ndarray) -> np.ndarray:
    single = tokens.astype(np.float64)
    return (single - single.mean(-1, keepdims=True)) / np.sqrt(single.var(-1, keepdims=True) + 1e-6)


LAYERS = {"last": (4,), -1: (4,), 4: (4,), 1: (1,), -4: (1,), (2,): (2,), (1, -1): (1, 4), (4, 2, 3): (4, 2, 3)}
"""What a recipe says, and the blocks that it means."""


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers_are_numbered_from_one_and_from_the_end(layer):
    config, numbers = LadderConfig(layer=layer), LAYERS[layer]
    assert config.layers(DEPTH) == numbers
    assert config.token_spec(CLIP) == TokenSpec(Grid(4, 2, 2), DIM * len(numbers))
    assert config.cost(video_inputs(CLIP)) == Cost(100 + 7 * max(numbers), 1000 + 70 * max(numbers), 500)
    first = latents_of(layer=1, norm="none")
    several = np.split(latents_of(layer=layer, norm="none"), len(numbers), axis=-1)
    for number, part in zip(numbers, several, strict=True):
        risen = sum(range(2, number + 1))  # block n adds n times 0, 1, 2, ...
        np.testing.assert_allclose(part, first + risen * np.arange(DIM), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 5, -5, (1, 5), (0, 1), (2, 99)])
def test_a_layer_out_of_range_is_refused(layer):
    config = LadderConfig(layer=layer)
    for question in (
        config.token_spec,
        lambda clip: config.cost(video_inputs(clip)),
        lambda clip: config.identity(video_inputs(clip)),
        lambda clip: Ladder(config, clip),
    ):
        with pytest.raises(GeometryError, match=r"names no block of this encoder; it has 4: choose 1 to 4, or -4 to"):
            question(CLIP)


@pytest.mark.parametrize("layer", [(1, 1), (4, -1), (2, 3, -3)])
def test_a_layer_named_twice_is_refused(layer):
    with pytest.raises(GeometryError, match="names a block twice; name each once"):
        LadderConfig(layer=layer).token_spec(CLIP)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": ()}, r"layer = \[\] names no layer"),
        ({"layer": 2, "join": "mean"}, 'join = "mean" has no effect with one layer'),
        ({"join": "mean"}, 'join = "mean" has no effect with one layer'),
        ({"layer": "first"}, "layer"),
        ({"layer": 1.0}, "layer"),
        ({"norm": "batch"}, "norm"),
        ({"weights": "none"}, "weights"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        LadderConfig(**settings)


@pytest.mark.parametrize("norm", ["none", "layer", "own", "own_layer"])
@pytest.mark.parametrize("beside", [0, 2])
def test_each_layer_is_normalised_on_its_own_and_so_is_each_token_beside(norm, beside):
    plain = latents_of(layer=(1, 3), norm="none", beside=beside)
    parts = np.stack(np.split(plain, 2, axis=-1))
    if norm.startswith("own"):
        single = np.stack(np.split(parts, 1 + beside, axis=-1)) * (1 + np.arange(DIM)) + 1
        parts = np.concatenate(list(single), axis=-1)
    if norm.endswith("layer"):
        parts = np.concatenate([normalised(part) for part in np.split(parts, 1 + beside, axis=-1)], axis=-1)
    found = latents_of(layer=(1, 3), norm=norm, beside=beside)
    assert found.shape == (2, 16, DIM * 2 * (1 + beside))
    np.testing.assert_allclose(found, np.concatenate(list(parts), axis=-1), rtol=1e-4, atol=1e-4)
    mean = latents_of(layer=(1, 3), norm=norm, beside=beside, join="mean")
    np.testing.assert_allclose(mean, np.stack(np.split(found, 2, axis=-1)).mean(0), rtol=1e-5, atol=1e-5)
    spec = LadderConfig(layer=(1, 3), join="mean", beside=beside).token_spec(CLIP)
    assert spec == TokenSpec(Grid(4, 2, 2), DIM * (1 + beside))


@pytest.mark.parametrize(
    ("own", "is_default", "means"), [(True, True, "own_layer"), (True, False, "layer"), (False, True, "layer")]
)
def test_auto_takes_the_own_norm_where_it_is_one_for_tokens(own, is_default, means):
    config = LadderConfig(own=own, own_is_default=is_default)
    assert config.norm_of(config.encoder_spec(CLIP)) == means
    found = latents_of(own=own, own_is_default=is_default)
    np.testing.assert_array_equal(found, latents_of(own=own, own_is_default=is_default, norm=means))


@pytest.mark.parametrize("norm", ["own", "own_layer"])
def test_an_own_norm_that_is_not_there_is_refused(norm):
    config = LadderConfig(own=False, norm=norm)
    for question in (lambda clip: config.identity(video_inputs(clip)), lambda clip: Ladder(config, clip)):
        with pytest.raises(GeometryError, match=f'norm = "{norm}", and the checkpoint has no last norm; choose "none"'):
            question(CLIP)


def test_pixels_are_fitted_and_normalised():
    """Against torchvision-like arithmetic in float64, seen by an encoder that hands its pixels on."""
    seen = []

    class Watching(Ladder):
        def hidden(self, pixels, layers):
            seen.append(pixels)
            return super().hidden(pixels, layers)

    clip = ClipSpec(frames=6, size=12)
    batch = random_batch(clip)
    Watching(LadderConfig(), clip)(batch)
    mean, std = (np.array(values).reshape(3, 1, 1, 1) for values in IMAGENET)
    expected = (fit_clip(batch.clip, frames=4, size=8).numpy() / 255.0 - mean) / std
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_encoder_stays_frozen():
    """Whatever the module around it does; dropout would make it another teacher for every call."""
    encoder, batch = Ladder(LadderConfig(), CLIP), random_batch(CLIP)
    around = nn.Sequential(encoder).train()
    assert around.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(encoder(batch), encoder(batch))
    assert not encoder(batch).requires_grad
    assert list(encoder.state_dict()) == ["start.weight", "start.bias"]  # no constants in checkpoints


def test_latents_are_float32_under_autocast():
    encoder, batch = Ladder(LadderConfig(), CLIP), random_batch(CLIP)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(batch).dtype == torch.float32


def test_untrained_weights_are_always_the_same_and_disturb_no_other():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = Ladder(LadderConfig(), CLIP).start.weight
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Ladder(LadderConfig(), CLIP).start.weight, first)


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"some weights")
    return file


def fingerprint(file: Path, clip: ClipSpec = CLIP, **settings) -> str:
    return identify("ladder", LadderConfig(file=str(file), **settings), video_inputs(clip)).fingerprint


def test_equal_meanings_have_equal_identities(weights, tmp_path):
    copy = tmp_path / "elsewhere" / "other name.bin"
    copy.parent.mkdir()
    copy.write_bytes(weights.read_bytes())
    same = fingerprint(weights)
    assert same == fingerprint(copy)
    for said in ({"layer": -1}, {"layer": DEPTH}, {"layer": (-1,)}, {"norm": "own_layer"}, {"norm": "auto"}):
        assert fingerprint(weights, **said) == same, said
    assert fingerprint(weights, ClipSpec(frames=9, size=77)) == same  # it sees clips in its own size
    assert fingerprint(weights, layer=(1, -1)) == fingerprint(weights, layer=(-4, 4))
    assert fingerprint(weights, layer=(2,), join="mean") == fingerprint(weights, layer=2)  # a mean of one


def test_every_difference_is_another_identity(weights, tmp_path):
    said = (
        {},
        {"layer": 3},
        {"layer": (3, 4)},
        {"layer": (4, 3)},
        {"layer": (3, 4), "join": "mean"},
        {"norm": "none"},
        {"norm": "own"},
        {"norm": "layer"},
        {"size": 16},
        {"frames": 8},
        {"patch": 2},
        {"mean": (0.5, 0.5, 0.5)},
        {"beside": 1},
        {"weights": "random"},
    )
    found = {fingerprint(weights, **settings) for settings in said}
    weights.write_bytes(b"some weightz")
    found.add(fingerprint(weights))
    found.add(identify("snake", LadderConfig(file=str(weights)), video_inputs(CLIP)).fingerprint)
    found |= {
        identify("ladder", LadderConfig(weights=weights), video_inputs(CLIP)).fingerprint
        for weights in ("checkpoint", "random")
    }
    assert len(found) == len(said) + 4 - 1  # random weights read no file
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in found)


def test_an_identity_is_plain_values_with_the_digests_of_the_weights(weights):
    identity = identify("ladder", LadderConfig(file=str(weights), layer=(1, -1)), video_inputs(CLIP))
    assert identity.fields["teacher"] == "ladder"
    assert identity.fields["config"]["layers"] == [1, 4]
    assert identity.fields["config"]["norm"] == "own_layer"
    assert identity.fields["weights"] == [f"sha256:{hashlib.sha256(b'some weights').hexdigest()}"]
    assert identity.fields["config"]["preprocessing"] == {
        "frames": 4, "size": 8, "mean": list(IMAGENET[0]), "std": list(IMAGENET[1])
    }  # fmt: skip
    assert str(weights) not in str(identity.fields)
    assert identify("ladder", LadderConfig(weights="random"), video_inputs(CLIP)).fields["weights"] == "none"
    # The order in which fields were written does not matter, and the number is the same on every machine.
    assert TeacherIdentity(dict(reversed(identity.fields.items()))).fingerprint == identity.fingerprint
    expected = hashlib.sha256(b'{"a":[1,2],"b":"\xc3\xa9"}').hexdigest()[:16]
    assert TeacherIdentity({"b": "é", "a": [1, 2]}).fingerprint == expected


def test_who_a_missing_teacher_is_cannot_be_said(tmp_path):
    with pytest.raises(MissingArtifact, match="does not exist"):
        fingerprint(tmp_path / "nothing")


def test_a_family_that_does_not_answer_is_a_plugin_error():
    with pytest.raises(PluginError, match=r"does not answer encoder_spec\(\)"):
        EncoderConfig().token_spec(CLIP)


def test_the_arithmetic_needs_no_torch():
    code = (
        "import sys\n"
        "from salt_toolkit.teaching import config, fingerprint\n"
        "from salt_toolkit.weights import headers, locate\n"
        "assert not {'torch', 'timm', 'transformers', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_spec_says_imagenet_unless_told_otherwise():
    spec = LadderConfig().encoder_spec(CLIP)
    assert (spec.mean, spec.std) == IMAGENET
    assert dataclasses.replace(spec, std=(1.0, 1.0, 1.0)).std == (1.0, 1.0, 1.0)
    assert isinstance(spec.architecture, Mapping)


def test_batches_of_any_number_of_clips():
    assert latents_of(ClipBatch((), {"clip": torch.zeros(0, 4, 8, 8, 3, dtype=torch.uint8)})).shape == (0, 16, DIM)

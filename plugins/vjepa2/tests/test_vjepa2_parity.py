"""The teacher's tokens are those of transformers and of the equations; the comparison notices every known mistake."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import save_file
from salt_vjepa2 import build_vjepa2
from salt_vjepa2.config import VJEPA2Config
from transformers import VJEPA2Model
from vjepa2_files import change, save, stored
from vjepa2_reference import MISTAKES, Reference, layer_norm, token_error

from salt_toolkit import ClipSpec
from salt_toolkit.context import video_inputs
from salt_toolkit.teaching.alignment import fit_clip
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=8, size=32)
LIMIT = 1e-5


def teacher_of(folder, clip=CLIP, **settings):
    return build_vjepa2(VJEPA2Config(checkpoint=str(folder), **settings), clip=clip)


def transformers_tokens(folder, clip, **settings):
    """Of transformers' own loading and forward, after the last norm."""
    model, loading = VJEPA2Model.from_pretrained(folder, output_loading_info=True, **settings)
    assert not loading["missing_keys"]
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = ((clip / 255 - mean) / std).transpose(1, 2)
    with torch.no_grad():
        return model.eval()(pixels, skip_predictor=True).last_hidden_state.double()


ROUTES = {
    "pre-trained": {},
    "pre-trained, shards": {"max_shard_size": "100KB"},
    "fine-tuned": {"classes": 48},
    "fine-tuned, shards": {"classes": 174, "max_shard_size": "100KB"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("vjepa2") / "checkpoint")


@pytest.fixture(scope="module")
def batch():
    return random_batch(CLIP)


@pytest.fixture(scope="module")
def reference(folder):
    return Reference(folder)


@pytest.fixture(scope="module")
def hidden(reference, batch):
    """After each block, by the equations."""
    return reference.hidden(batch.clip)


@pytest.fixture(scope="module")
def tokens(folder, batch):
    """Of the last block, before any norm."""
    return teacher_of(folder, norm="none")(batch)


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_tokens_of_transformers_and_of_the_equations(tmp_path, batch, route):
    path = save(tmp_path / "checkpoint", **ROUTES[route])
    assert len(list(path.glob("*.safetensors"))) == 1 or "shards" in route
    expected = Reference(path)
    hidden = expected.hidden(batch.clip)[-1]
    assert token_error(teacher_of(path, norm="none")(batch), hidden) <= LIMIT
    own = teacher_of(path, norm="own")(batch)
    assert token_error(own, expected.norm(hidden)) <= LIMIT
    assert token_error(own, transformers_tokens(path, batch.clip)) <= LIMIT


def test_an_encoder_without_biases_of_queries_keys_and_values(tmp_path, batch):
    path = save(tmp_path / "checkpoint")
    kept = {key: value for key, value in stored(path).items() if not re.search(r"(query|key|value)\.bias$", key)}
    change(path, kept, qkv_bias=False)
    teacher = teacher_of(path, norm="own")
    assert token_error(teacher(batch), transformers_tokens(path, batch.clip)) <= LIMIT
    parameters = VJEPA2Config(checkpoint=str(path)).cost(video_inputs(CLIP)).parameters
    assert parameters == sum(parameter.numel() for parameter in teacher.parameters())


def test_a_pickle_gives_the_same(tmp_path, folder, batch, tokens):
    path = save(tmp_path / "checkpoint")
    torch.save(stored(path), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    assert torch.equal(teacher_of(path, norm="none")(batch), tokens)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_the_comparison_notices(folder, batch, tokens, mistake):
    assert token_error(tokens, mistake(folder).hidden(batch.clip)[-1]) > 300 * LIMIT


def test_the_comparison_notices_another_layer(hidden, tokens):
    assert token_error(tokens, hidden[-1]) <= LIMIT
    assert token_error(tokens, hidden[-2]) > 1000 * LIMIT


def drop_biases(teacher):
    for block in teacher.encoder.layer:
        for part in (block.attention.query, block.attention.key, block.attention.value):
            part.bias.data.zero_()


def swap_rows_and_columns(teacher):
    for block in teacher.encoder.layer:
        places = block.attention.get_position_ids
        block.attention.get_position_ids = lambda x, masks=None, places=places: tuple(
            places(x, masks)[axis] for axis in (0, 2, 1)
        )


def normalise_by_halves(teacher):
    teacher.scale.fill_(1 / 127.5)
    teacher.shift.fill_(-1)


def stop_a_layer_early(teacher):
    teacher.layers = (teacher.layers[0] - 1,)


@pytest.mark.parametrize("spoil", [drop_biases, swap_rows_and_columns, normalise_by_halves, stop_a_layer_early])
@pytest.mark.parametrize("norm", ["none", "own_layer"])
def test_a_spoilt_teacher_fails_the_comparison(folder, batch, reference, hidden, spoil, norm):
    """The classic ways to be wrong, done to the teacher itself."""
    expected = hidden[-1] if norm == "none" else layer_norm(reference.norm(hidden[-1]))
    teacher = teacher_of(folder, norm=norm)
    assert token_error(teacher(batch), expected) <= LIMIT
    spoil(teacher)
    assert token_error(teacher(batch), expected) > 300 * LIMIT


LAYERS = {"last": (3,), -1: (3,), 1: (1,), -2: (2,), (3, 1): (3, 1), (1, 2): (1, 2)}
"""What a recipe writes, and the blocks that it means."""


@pytest.mark.parametrize("norm", ["auto", "none", "layer", "own", "own_layer"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers_and_norms_are_the_equations(folder, batch, reference, hidden, layer, norm):
    expected = []
    for number in LAYERS[layer]:
        kept = hidden[number - 1]
        if norm in ("auto", "own", "own_layer"):
            kept = reference.norm(kept)
        expected.append(kept if norm in ("none", "own") else layer_norm(kept))
    teacher = teacher_of(folder, layer=layer, norm=norm)
    assert len(teacher.encoder.layer) == max(LAYERS[layer])  # later blocks are dropped
    for part, latents in zip(teacher(batch).split(52, dim=-1), expected, strict=True):
        assert token_error(part, latents) <= LIMIT
    if isinstance(layer, tuple):
        mean = teacher_of(folder, layer=layer, norm=norm, join="mean")(batch)
        assert token_error(mean, torch.stack(expected).mean(dim=0)) <= LIMIT


@pytest.mark.parametrize(("frames", "size"), [(2, 32), (8, 16), (12, 48), (4, 64), (8, 8)])
def test_a_clip_of_another_size_is_that_of_a_model_made_for_it(folder, reference, frames, size):
    """``crop_size`` decides places, and nothing else; ``frames_per_clip`` decides nothing."""
    clip = ClipSpec(frames=frames, size=size)
    batch, teacher = random_batch(clip), teacher_of(folder, clip, norm="own")
    grid = teacher.token_spec.grid
    assert (grid.frames, grid.rows, grid.columns) == (frames // 2, size // 8, size // 8)
    assert token_error(teacher(batch), transformers_tokens(folder, batch.clip, crop_size=size)) <= LIMIT
    if size not in (32, 8):  # one row and column have the same places in any size
        assert token_error(teacher(batch), transformers_tokens(folder, batch.clip)) > 100 * LIMIT
    assert token_error(teacher(batch), reference.norm(reference.hidden(batch.clip)[-1])) <= LIMIT


def test_a_size_of_its_own_resizes_the_clip(folder):
    """The teacher sees 32 pixels of the recipe's 48, and says so in its grid."""
    clip = ClipSpec(frames=8, size=48)
    batch, teacher = random_batch(clip), teacher_of(folder, clip, norm="own", size=32)
    grid = teacher.token_spec.grid
    assert (grid.frames, grid.rows, grid.columns) == (4, 4, 4)
    resized = fit_clip(batch.clip, frames=8, size=32)
    assert token_error(teacher(batch), transformers_tokens(folder, resized)) <= LIMIT


def test_weights_stored_in_half_precision_are_computed_in_single(tmp_path, batch):
    path = save(tmp_path / "checkpoint")
    save_file({key: value.half() for key, value in stored(path).items()}, path / "model.safetensors")
    latents = teacher_of(change(path, dtype="float16"), norm="none")(batch)
    assert latents.dtype == torch.float32
    assert token_error(latents, Reference(path).hidden(batch.clip)[-1]) <= LIMIT


def test_bfloat16_costs_a_few_hundredths_at_most(tmp_path):
    """Products in bfloat16, and angles too, as in V-JEPA's own training; everything between blocks in float32."""
    clip = ClipSpec(frames=64, size=32)
    teacher, batch = teacher_of(save(tmp_path / "checkpoint", depth=4), clip, norm="own"), random_batch(clip, 1)
    exact = teacher(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = teacher(batch)
    assert rough.dtype == torch.float32
    assert 1e-4 < token_error(rough, exact.double()) < 3e-2


def test_attention_is_fused(folder):
    """Never the matrix of all pairs of tokens: 18432 tokens of the giant would need 30 GB for it."""
    assert teacher_of(folder).encoder.config._attn_implementation == "sdpa"


def test_the_stored_files_are_read_and_not_changed(tmp_path, capfd):
    path = save(tmp_path / "checkpoint")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    capfd.readouterr()
    teacher_of(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert capfd.readouterr() == ("", "")  # nothing is said of a predictor that nobody needs

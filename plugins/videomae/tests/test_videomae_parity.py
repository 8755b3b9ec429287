"""Every published layout gives the tokens that the equations give; and the comparison notices every known mistake."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from videomae_files import (
    SHORT,
    TINY,
    classifier,
    encoder_weights,
    pretraining,
    save_pth,
    save_transformers,
    save_videomae2,
    transformers_keys,
    transformers_settings,
)
from videomae_reference import MISTAKES, Reference, layer_norm, stored_tensors, token_error

from salt_toolkit import ClipSpec
from salt_toolkit.testing import random_batch

CLIP = ClipSpec()
FINE_TUNED = TINY.but(own_norm="fc_norm")
LIMIT = 1e-5


def pretrained_file(path, **how):
    return save_pth(path / "checkpoint.pth", pretraining(encoder_weights(TINY)), **how)


def fine_tuned_file(path, classes, **how):
    return save_pth(path / "checkpoint.pth", encoder_weights(FINE_TUNED) | classifier(TINY.dim, classes), **how)


def directory(path, *, fine_tuned=False, old=True, prefix="videomae.", kind="safetensors"):
    shape = FINE_TUNED if fine_tuned else TINY
    state = transformers_keys(encoder_weights(shape), prefix=prefix, old=old)
    if fine_tuned:
        state |= {
            f"classifier.{key}": value for key, value in (("weight", torch.ones(400, 24)), ("bias", torch.ones(400)))
        }
    return save_transformers(path / "checkpoint", state, shape, kind=kind)


def written_by_transformers(path, kind, **saving):
    """What transformers' own classes write for these weights."""
    import transformers

    fine_tuned = kind == "VideoMAEForVideoClassification"
    shape = FINE_TUNED if fine_tuned else TINY
    model = getattr(transformers, kind)(transformers.VideoMAEConfig(**transformers_settings(shape))).eval()
    prefix = "" if kind == "VideoMAEModel" else "videomae."
    state = transformers_keys(encoder_weights(shape), prefix=prefix, old=False)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [key for key in missing if not key.startswith(("decoder", "encoder_to_decoder", "mask", "classifier"))]
    model.save_pretrained(path / "checkpoint", **saving)
    return path / "checkpoint"


V1_ROUTES = {
    "pretraining": lambda path: pretrained_file(path, wrapper="model"),
    "pretraining, bare": pretrained_file,
    "pretraining, in 'module'": lambda path: pretrained_file(path, wrapper="module"),
    "pretraining, by DataParallel": lambda path: pretrained_file(path, wrapper="model", prefix="module."),
    "pretraining, compiled": lambda path: pretrained_file(path, wrapper="model", prefix="module._orig_mod."),
    "pretraining, with arguments": lambda path: pretrained_file(path, wrapper="model", arguments=True),
    "pretraining, of an old torch": lambda path: pretrained_file(path, wrapper="model", arguments=True, legacy=True),
    "fine-tuned, Kinetics-400": lambda path: fine_tuned_file(path, 400, wrapper="module"),
    "fine-tuned, SSv2": lambda path: fine_tuned_file(path, 174, wrapper="model"),
    "hub, old keys": directory,
    "hub, new keys": lambda path: directory(path, old=False),
    "hub, without prefix": lambda path: directory(path, prefix=""),
    "hub, fine-tuned": lambda path: directory(path, fine_tuned=True),
    "hub, shards": lambda path: directory(path, kind="shards"),
    "hub, a pickle": lambda path: directory(path, kind="bin"),
    "transformers, pretraining": lambda path: written_by_transformers(path, "VideoMAEForPreTraining"),
    "transformers, classification": lambda path: written_by_transformers(path, "VideoMAEForVideoClassification"),
    "transformers, plain": lambda path: written_by_transformers(path, "VideoMAEModel"),
    "transformers, shards": lambda path: written_by_transformers(path, "VideoMAEModel", max_shard_size="200KB"),
}
V2_ROUTES = {
    "pretraining": lambda path: pretrained_file(path, wrapper="model"),
    "pretraining, of deepspeed": lambda path: pretrained_file(path, wrapper="module", arguments=True),
    "distilled": lambda path: fine_tuned_file(path, 710, wrapper="module"),
    "distilled, bare": lambda path: fine_tuned_file(path, 710),
    "fine-tuned, SSv2": lambda path: fine_tuned_file(path, 174, wrapper="module", legacy=True),
    "hub": lambda path: save_videomae2(path / "checkpoint", encoder_weights(FINE_TUNED), FINE_TUNED),
}
ROUTES = [(VideoMAEConfig, name, write) for name, write in V1_ROUTES.items()]
ROUTES += [(VideoMAE2Config, name, write) for name, write in V2_ROUTES.items()]


def config_of(kind, path, **settings):
    """With the number of heads where nothing else tells it."""
    heads = {} if path.is_dir() else {"heads": TINY.heads}
    return kind(checkpoint=str(path), **heads, **settings)


@pytest.fixture(scope="module")
def batch():
    return random_batch(CLIP, 1)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, batch):
    """Of the same weights in one file; all other routes must give them bit for bit."""
    path = pretrained_file(tmp_path_factory.mktemp("first"))
    return build_videomae(config_of(VideoMAEConfig, path, norm="none"), clip=CLIP)(batch)


@pytest.mark.parametrize(("kind", "write"), [route[::2] for route in ROUTES], ids=[route[1] for route in ROUTES])
def test_every_route_gives_the_tokens_of_the_equations(tmp_path, batch, tokens, kind, write):
    path = write(tmp_path)
    teacher = build_videomae(config_of(kind, path, norm="none"), clip=CLIP)
    found = teacher(batch)
    assert token_error(found, Reference(path, TINY.heads).hidden(batch.clip)[-1]) <= LIMIT
    assert torch.equal(found, tokens)


@pytest.mark.parametrize("fine_tuned", [False, True])
@pytest.mark.parametrize("old", [True, False])
def test_transformers_gives_the_same(tmp_path, batch, fine_tuned, old):
    """Behind the last norm of pre-trained files, and before that of fine-tuned ones; right from 5.18 on."""
    import transformers

    path = directory(tmp_path, fine_tuned=fine_tuned, old=old)
    model, loading = transformers.VideoMAEModel.from_pretrained(path, output_loading_info=True)
    assert not loading["missing_keys"]
    teacher = build_videomae(config_of(VideoMAEConfig, path, norm="none" if fine_tuned else "own"), clip=CLIP)
    with torch.no_grad():
        pixels = Reference(path, TINY.heads).pixels(batch.clip).float()
        expected = model.eval()(pixels.transpose(1, 2)).last_hidden_state
    assert token_error(teacher(batch), expected.double()) <= LIMIT


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_the_comparison_notices(tmp_path, batch, tokens, mistake):
    path = pretrained_file(tmp_path)
    assert token_error(tokens, mistake(path, TINY.heads).hidden(batch.clip)[-1]) > 1000 * LIMIT


def test_the_comparison_notices_another_layer(tmp_path, batch, tokens):
    hidden = Reference(pretrained_file(tmp_path), TINY.heads).hidden(batch.clip)
    assert token_error(tokens, hidden[-1]) <= LIMIT
    assert token_error(tokens, hidden[-2]) > 1000 * LIMIT


def drop_biases(teacher):
    for block in teacher.encoder.blocks:
        block.attn.q_bias.data.zero_()
        block.attn.v_bias.data.zero_()


def transpose_positions(teacher):
    grid = teacher.token_spec.grid
    table = teacher.positions.unflatten(0, (grid.frames, grid.rows, grid.columns))
    teacher.positions = table.transpose(1, 2).flatten(0, 2).contiguous()


def normalise_by_halves(teacher):
    teacher.scale.fill_(1 / 127.5)
    teacher.shift.fill_(-1)


def stop_a_layer_early(teacher):
    teacher.layers = (teacher.layers[0] - 1,)


@pytest.mark.parametrize("spoil", [drop_biases, transpose_positions, normalise_by_halves, stop_a_layer_early])
@pytest.mark.parametrize("norm", ["none", "own_layer"])
def test_a_spoilt_teacher_fails_the_comparison(tmp_path, batch, spoil, norm):
    """The four classic ways to be wrong, done to the teacher itself."""
    path = pretrained_file(tmp_path)
    reference = Reference(path, TINY.heads)
    expected = reference.hidden(batch.clip)[-1]
    expected = expected if norm == "none" else layer_norm(reference.norm(expected, "norm"))
    teacher = build_videomae(config_of(VideoMAEConfig, path, norm=norm), clip=CLIP)
    assert token_error(teacher(batch), expected) <= LIMIT
    spoil(teacher)
    assert token_error(teacher(batch), expected) > 1000 * LIMIT


def test_weights_stored_in_half_precision_are_computed_in_single(tmp_path, batch):
    path = directory(tmp_path)
    save_file({key: value.half() for key, value in stored_tensors(path).items()}, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    latents = build_videomae(config_of(VideoMAEConfig, path, norm="none"), clip=CLIP)(batch)
    assert latents.dtype == torch.float32
    assert token_error(latents, Reference(path, TINY.heads).hidden(batch.clip)[-1]) <= LIMIT


def test_a_directory_tells_frames_and_pixels(tmp_path):
    clip = ClipSpec(frames=4, size=32)
    for kind, save, keys in (
        (VideoMAEConfig, save_transformers, transformers_keys),
        (VideoMAE2Config, save_videomae2, dict),
    ):
        path = save(tmp_path / kind.__name__, keys(encoder_weights(SHORT)), SHORT)
        config = config_of(kind, path, norm="none")
        assert config.token_spec(clip).grid.num_tokens == 2 * 2 * 2
        batch = random_batch(clip)
        expected = Reference(path, SHORT.heads).hidden(batch.clip)[-1]
        assert token_error(build_videomae(config, clip=clip)(batch), expected) <= LIMIT


def test_loading_says_nothing_of_a_decoder_that_nobody_needs(tmp_path, capfd):
    path = pretrained_file(tmp_path)
    build_videomae(config_of(VideoMAEConfig, path), clip=CLIP)
    assert capfd.readouterr() == ("", "")


def test_the_stored_file_is_read_and_not_changed(tmp_path):
    path = directory(tmp_path)
    before = load_file(path / "model.safetensors")
    build_videomae(config_of(VideoMAEConfig, path), clip=CLIP)
    after = load_file(path / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)

"""Smaller numbers: what encodings lose, on latents with massive channels as ViTs have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_toolkit.cache.codec import SAFETENSORS, TORCH, StreamCodec, codecs_of, error_of
from salt_toolkit.cache.convert import convert, import_folder
from salt_toolkit.cache.encodings import Coding
from salt_toolkit.cache.identity import Wanted
from salt_toolkit.cache.rows import CachedRows, CachedStream
from salt_toolkit.errors import CacheError
from salt_toolkit.store.base import Base
from salt_toolkit.store.cache import Cache
from salt_toolkit.streams import LATENTS

SCALED = ("int8", "fp8")


def latents_with_outliers(clips=24, tokens=196, dim=768, seed=0):
    """Log-normal channel scales, offsets, four channels a hundred times larger, and two loud tokens.

    Channels are the teacher's, and the same for every seed; clips are not.
    """
    channels, numbers = torch.Generator().manual_seed(dim), torch.Generator().manual_seed(seed)
    scale = torch.exp(0.7 * torch.randn(dim, generator=channels))
    scale[:4] *= 100
    offset = torch.randn(dim, generator=channels) * scale
    latents = torch.randn(clips, tokens, dim, generator=numbers)
    latents[:, :2] *= 2
    return latents * scale + offset


def coding_of(encoding, latents, dtype="F32"):
    return Coding.of("x", dtype, tuple(latents.shape[1:]), encoding)


def decoded(codec, latents):
    return codec.decode(*codec.encode(latents))


@pytest.mark.parametrize(
    ("encoding", "relative", "standardised"),
    [("fp32", 1e-7, 1e-7), ("bf16", 3e-3, 3e-3), ("fp16", 4e-4, 4e-4), ("int8", 0.010, 0.015), ("fp8", 0.04, 0.04)],
)
def test_outlier_channels_cost_the_others_nothing(encoding, relative, standardised):
    """Of other clips than those that the constants were taken from; plain scales for each token would lose 15 %."""
    latents = latents_with_outliers()
    codec = StreamCodec.calibrated(coding_of(encoding, latents), [latents])
    held_out = latents_with_outliers(clips=8, seed=1)
    error = codec.error(held_out)
    assert error["relative_l2"] <= relative
    assert error["relative_l2_standardised"] <= standardised
    assert error["explained_variance_lost"] <= standardised**2


def test_int8_of_something_something_fits_204_gb():
    def num_bytes(encoding):
        return 168_913 * sum(stream.row_bytes for stream in Coding("x", "F32", (1568, 768), encoding).streams)

    assert num_bytes("int8") < 204e9
    assert num_bytes("bf16") == pytest.approx(406.8e9, rel=1e-3)


@settings(deadline=None, max_examples=60)
@given(
    encoding=st.sampled_from(SCALED),
    scale=st.floats(1e-6, 1e6),
    offset=st.floats(-1e3, 1e3),
    constant=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_scale_survives(encoding, scale, offset, constant, seed):
    """Tiny and huge latents, constant channels, and tokens that are exactly the mean."""
    latents = scale * (torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(seed)) + offset)
    if constant:
        latents[..., 3] = scale * offset
    again = decoded(StreamCodec.calibrated(coding_of(encoding, latents), [latents]), latents)
    assert again.isfinite().all()
    largest = {"int8": 0.01, "fp8": 0.08}[encoding]
    tolerance = largest * 4 * latents.double().std(dim=(0, 1)).max() + 2e-6 * latents.abs().max() + 1e-30
    assert (again.double() - latents.double()).abs().max() <= tolerance


def test_constants_do_not_depend_on_batches():
    """The last batch of a few clips is seldom as long as the others."""
    latents = latents_with_outliers(7, 4, 16)
    coding = coding_of("int8", latents)
    whole = StreamCodec.calibrated(coding, [latents]).constants()
    for batch_size in range(1, 8):
        assert StreamCodec.calibrated(coding, latents.split(batch_size)).constants() == whole


def test_constants_survive_json():
    latents = latents_with_outliers(2, 9, 32)
    codec = StreamCodec.calibrated(coding_of("int8", latents), [latents])
    again = StreamCodec.of(codec.coding, codec.constants())
    assert torch.equal(again.mean, codec.mean) and torch.equal(again.std, codec.std)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("encoding", ["bf16", "int8", "fp8"])
def test_whole_numbers_are_never_encoded(encoding, dtype):
    """In bfloat16 494 of a thousand codes would be others."""
    codes = torch.arange(1000).to(dtype).reshape(10, 100)
    codec = StreamCodec.calibrated(coding_of(encoding, codes, SAFETENSORS[dtype]), [codes])
    stored = codec.encode(codes)
    assert [tensor.dtype for tensor in stored] == [dtype] == [TORCH[s.dtype] for s in codec.coding.streams]
    assert torch.equal(codec.decode(*stored), codes)


@pytest.mark.parametrize("encoding", ["bf16", "fp16", "int8", "fp8"])
def test_an_output_of_a_single_number_is_never_encoded(encoding):
    scores = torch.tensor([0.1, -7e5, 3.0])
    codec = StreamCodec.calibrated(Coding.of("score", "F32", (), encoding), [scores])
    assert torch.equal(codec.decode(*codec.encode(scores)), scores)


@pytest.mark.parametrize("shape", [(6,), (1,), (4, 3, 2, 6)])
@pytest.mark.parametrize("encoding", ["fp32", "int8"])
def test_streams_of_any_number_of_axes_are_encoded(encoding, shape):
    """A class token has one, a VAE's latents have four."""
    latents = torch.randn(32, *shape, generator=torch.Generator().manual_seed(0))
    codec = StreamCodec.calibrated(coding_of(encoding, latents), [latents])
    stored = codec.encode(latents)
    assert [tuple(tensor.shape[1:]) for tensor in stored] == [stream.shape for stream in codec.coding.streams]
    assert error_of(latents, codec.decode(*stored))["relative_l2"] < 0.02


# Conversion, and the folders that scripts have left.


TEACHER = Wanted("teachers/teacher", {"teacher": {"fingerprint": "?"}, "precision": "fp32", "streams": {}})
LAYER = TEACHER.name


def import_all(folder, target, dtype):
    return import_folder(folder, target, base=Base({"dataset": "?"}), wanted=TEACHER, dtype=dtype, shard_mb=1)


def read(directory, clip_id, layer=LAYER, stream=LATENTS):
    cache = Cache.open(directory)
    manifest = cache.layers[layer].manifest
    rows = CachedRows(cache, {s.name: CachedStream(layer, s.name) for s in manifest.streams})
    number, place = cache.layers[layer].row(clip_id, 0)
    row = cache.layers[layer].shards[number].header.rows[place]
    return rows.decoded(codecs_of(manifest)[stream], row), row


def test_a_folder_of_pt_files_becomes_a_cache_and_another_type(tmp_path):
    folder = tmp_path / "pt"
    folder.mkdir()
    latents = latents_with_outliers(11, 6, 32)
    for number, clip in enumerate(latents):
        torch.save(clip.clone(), folder / f"video {number}.pt")
    assert import_all(folder, tmp_path / "cache", "fp32") == 11
    assert import_all(folder, tmp_path / "cache", "fp32") == 0
    assert Cache.open(tmp_path / "cache").complete
    assert torch.equal(read(tmp_path / "cache", "video 7")[0], latents[7])
    assert convert(tmp_path / "cache", tmp_path / "small", dtype="int8") == 11
    assert error_of(latents[7], read(tmp_path / "small", "video 7")[0])["relative_l2"] < 0.01
    assert Cache.open(tmp_path / "small").layers[LAYER].manifest.measured[LATENTS]["relative_l2_standardised"] < 0.015
    back = convert(tmp_path / "small", tmp_path / "back", dtype="bf16")
    assert back == 11 and Cache.open(tmp_path / "back").complete


def test_dicts_of_features_latents_and_captions_are_imported(tmp_path):
    folder = tmp_path / "pt"
    folder.mkdir()
    for number in range(3):
        torch.save(
            {
                "dino_features": torch.full((2, 5, 4), float(number)),
                "latents": torch.full((2, 4, 3, 3), number, dtype=torch.float16),
                "caption": f"Bild {number}",
            },
            folder / f"{number}.pt",
        )
    import_all(folder, tmp_path / "cache", "bf16")
    features, row = read(tmp_path / "cache", "2")
    assert features.shape == (10, 4) and (features == 2).all()
    others, _ = read(tmp_path / "cache", "2", "samples/other_latents", "other_latents")
    assert others.shape == (2, 4, 3, 3) and others.dtype == torch.float16 and (others == 2).all()
    convert(tmp_path / "cache", tmp_path / "small", dtype="int8")  # what is kept as it is stays so
    assert torch.equal(read(tmp_path / "small", "2", "samples/other_latents", "other_latents")[0], others)
    assert row.caption == "Bild 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no .pt files"),
        (b"torn", "cannot be read"),
        ({"caption": "x"}, "expected a tensor"),
        (np.zeros(3), "cannot be read"),
    ],
)
def test_folders_that_are_no_latents_are_refused(tmp_path, content, message):
    folder = tmp_path / "pt"
    folder.mkdir()
    if isinstance(content, bytes):
        (folder / "a.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, folder / "a.pt")
    with pytest.raises(CacheError, match=message):
        import_all(folder, tmp_path / "cache", "fp32")

"""Smaller numbers: what encodings lose, on latents with massive channels as ViTs have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_toolkit.cache.codec import LatentCodec, error_of
from salt_toolkit.cache.convert import convert, import_folder
from salt_toolkit.cache.rows import CachedRows
from salt_toolkit.errors import CacheError
from salt_toolkit.store.index import CacheIndex

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


def encoded(codec, latents):
    return dict(zip((s.name for s in codec.streams(*latents.shape[-2:])), codec.encode(latents), strict=True))


@pytest.mark.parametrize(
    ("encoding", "relative", "standardised"),
    [("fp32", 1e-7, 1e-7), ("bf16", 3e-3, 3e-3), ("fp16", 4e-4, 4e-4), ("int8", 0.010, 0.015), ("fp8", 0.04, 0.04)],
)
def test_outlier_channels_cost_the_others_nothing(encoding, relative, standardised):
    """Of other clips than those that the constants were taken from; plain scales for each token would lose 15 %."""
    codec = LatentCodec.calibrated("x", encoding, [latents_with_outliers()])
    held_out = latents_with_outliers(clips=8, seed=1)
    error = error_of(held_out, codec.decode(encoded(codec, held_out)))
    assert error["relative_l2"] <= relative
    assert error["relative_l2_standardised"] <= standardised
    assert error["explained_variance_lost"] <= standardised**2


def test_int8_of_something_something_fits_204_gb():
    codec = LatentCodec("x", "int8", torch.zeros(768), torch.ones(768))
    row = sum(stream.row_bytes for stream in codec.streams(1568, 768))
    assert 168_913 * row < 204e9
    assert 168_913 * LatentCodec("x", "bf16").streams(1568, 768)[0].row_bytes == pytest.approx(406.8e9, rel=1e-3)


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
    codec = LatentCodec.calibrated("x", encoding, [latents])
    decoded = codec.decode(encoded(codec, latents))
    assert decoded.isfinite().all()
    largest = {"int8": 0.01, "fp8": 0.08}[encoding]
    tolerance = largest * 4 * latents.double().std(dim=(0, 1)).max() + 2e-6 * latents.abs().max() + 1e-30
    assert (decoded.double() - latents.double()).abs().max() <= tolerance


def test_constants_do_not_depend_on_batches():
    """The last batch of a few clips is seldom as long as the others."""
    latents = latents_with_outliers(7, 4, 16)
    whole = LatentCodec.calibrated("x", "int8", [latents]).constants()
    for batch_size in range(1, 8):
        assert LatentCodec.calibrated("x", "int8", latents.split(batch_size)).constants() == whole


def test_constants_survive_json():
    codec = LatentCodec.calibrated("x", "int8", [latents_with_outliers(2, 9, 32)])
    again = LatentCodec.of("x", "int8", codec.constants())
    assert torch.equal(again.mean, codec.mean) and torch.equal(again.std, codec.std)


# Conversion, and the folders that scripts have left.


def identity_of(dtype):
    return {"teachers": {"teacher": {"fingerprint": "?"}}, "clip": {"views": 1}, "dtype": dtype}


def read(directory, clip_id):
    index = CacheIndex.open(directory)
    rows = CachedRows(index)
    tensors = {name: torch.empty_like(like, device="cpu") for name, like in rows.like.items()}
    row = rows.read_into(clip_id, 0, tensors)
    manifest = index.manifest
    codec = LatentCodec.of("latents.teacher", manifest.identity["dtype"], manifest.constants["teacher"])
    return codec.decode(tensors), tensors, row


def test_a_folder_of_pt_files_becomes_a_cache_and_another_type(tmp_path):
    folder = tmp_path / "pt"
    folder.mkdir()
    latents = latents_with_outliers(11, 6, 32)
    for number, clip in enumerate(latents):
        torch.save(clip.clone(), folder / f"video {number}.pt")
    arguments = dict(identity=identity_of("fp32"), dtype="fp32", shard_mb=1)
    assert import_folder(folder, tmp_path / "cache", **arguments) == 11
    assert import_folder(folder, tmp_path / "cache", **arguments) == 0
    assert CacheIndex.open(tmp_path / "cache").complete
    assert torch.equal(read(tmp_path / "cache", "video 7")[0], latents[7])
    assert convert(tmp_path / "cache", tmp_path / "small", dtype="int8") == 11
    assert error_of(latents[7], read(tmp_path / "small", "video 7")[0])["relative_l2"] < 0.01
    assert CacheIndex.open(tmp_path / "small").manifest.measured["teacher"]["relative_l2_standardised"] < 0.015
    back = convert(tmp_path / "small", tmp_path / "back", dtype="bf16")
    assert back == 11 and CacheIndex.open(tmp_path / "back").complete


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
    import_folder(folder, tmp_path / "cache", identity=identity_of("bf16"), dtype="bf16", shard_mb=1)
    features, tensors, row = read(tmp_path / "cache", "2")
    assert features.shape == (10, 4) and (features == 2).all()
    assert tensors["latents"].shape == (2, 4, 3, 3) and (tensors["latents"] == 2).all()
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
        import_folder(folder, tmp_path / "cache", identity=identity_of("fp32"), dtype="fp32", shard_mb=1)

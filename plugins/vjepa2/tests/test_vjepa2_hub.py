"""Hub ids are used from the cache, directories are named by paths, and neither is part of the identity."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from salt_vjepa2 import build_vjepa2
from salt_vjepa2.config import VJEPA2Config
from vjepa2_files import save, stored
from vjepa2_reference import Reference, layer_norm, token_error

from salt_toolkit import ClipSpec, MissingArtifact
from salt_toolkit.context import video_inputs
from salt_toolkit.teaching.fingerprint import identify
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=4, size=32)
LARGE = "facebook/vjepa2-vitl-fpc64-256"


def snapshot_of(hub_cache, hub_id):
    """Where the hub's client keeps a repository."""
    folder = hub_cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    return folder / "snapshots" / "0"


def fingerprint(path, clip=CLIP, **settings):
    return identify("vjepa2", VJEPA2Config(checkpoint=str(path), **settings), video_inputs(clip)).fingerprint


def test_what_the_cache_holds_is_used(hub_cache):
    config, batch = VJEPA2Config(checkpoint="somebody/theirs"), random_batch(CLIP)
    with pytest.raises(MissingArtifact):
        config.token_spec(CLIP)
    folder = save(snapshot_of(hub_cache, config.checkpoint))
    assert list(config.missing()) == []
    reference = Reference(folder)
    expected = layer_norm(reference.norm(reference.hidden(batch.clip)[-1]))
    assert token_error(build_vjepa2(config, clip=CLIP)(batch), expected) <= 1e-5


def test_a_published_id_is_what_its_cached_file_says(hub_cache):
    config = VJEPA2Config(checkpoint=LARGE)
    (missing,) = config.missing()
    assert missing.what == f"the checkpoint {LARGE} is not on this machine"
    assert missing.fix.startswith(f"Download it once with `hf download {LARGE}`")
    assert config.token_spec(CLIP).dim == 1024
    with pytest.raises(MissingArtifact, match="cannot be downloaded"):
        build_vjepa2(config, clip=CLIP)
    with pytest.raises(MissingArtifact):
        identify("vjepa2", config, video_inputs(CLIP))
    save(snapshot_of(hub_cache, LARGE))
    assert list(config.missing()) == []
    assert config.token_spec(CLIP).dim == 52


def test_the_identity_is_the_bytes_and_no_path(tmp_path):
    path = save(tmp_path / "checkpoint")
    other = shutil.copytree(path, tmp_path / "a copy")
    fields = identify("vjepa2", VJEPA2Config(checkpoint=str(path)), video_inputs(CLIP)).fields
    assert fields["weights"] == [f"sha256:{hashlib.sha256((path / 'model.safetensors').read_bytes()).hexdigest()}"]
    assert fields["config"]["architecture"] == {
        "dim": 52, "depth": 3, "heads": 2, "mlp_dim": 226, "patch": 8, "tubelet": 2, "qkv_bias": True, "eps": 1e-6
    }  # fmt: skip
    assert str(tmp_path) not in str(fields)
    assert fingerprint(path) == fingerprint(other)
    # What has no effect on latents is not in it, however it is written.
    for same in ({"layer": -1}, {"layer": 3}, {"layer": (3,)}, {"norm": "own_layer"}, {"size": 32}):
        assert fingerprint(path, **same) == fingerprint(path), same


def test_the_identity_tells_everything_else_apart(tmp_path):
    path = save(tmp_path / "checkpoint")
    found = {
        fingerprint(path),
        fingerprint(path, layer=2),
        fingerprint(path, layer=(1, 3)),
        fingerprint(path, layer=(3, 1)),
        fingerprint(path, layer=(1, 3), join="mean"),
        fingerprint(path, norm="none"),
        fingerprint(path, norm="layer"),
        fingerprint(path, norm="own"),
        fingerprint(path, size=48),
        fingerprint(path, weights="random"),
        fingerprint(path, ClipSpec(frames=8, size=32)),
        fingerprint(path, ClipSpec(frames=4, size=40)),
    }
    stored_before = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(stored_before[:-1] + bytes([stored_before[-1] ^ 1]))
    assert len(found | {fingerprint(path)}) == 13
    assert stored(path)  # one bit of a weight, and still a checkpoint

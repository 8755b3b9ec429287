"""Hub ids: what is in the cache is used without a connection, and what is not is told in one sentence."""

from __future__ import annotations

import json
import socket
import time

import pytest
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from videomae_files import SHORT, encoder_weights, save_transformers, save_videomae2, transformers_keys
from videomae_reference import Reference, layer_norm, token_error

from salt_toolkit import CheckpointError, ClipSpec, MissingArtifact
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=4, size=32)
HUGE = "MCG-NJU/videomae-huge"
"""The reference project's recipe names it, and the hub has no such repository."""


def snapshot_of(hub_cache, hub_id):
    """Where the hub's client keeps a repository."""
    folder = hub_cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    return folder / "snapshots" / "0"


@pytest.fixture
def asked(monkeypatch):
    """Every name of a machine that was looked up; none is found."""
    names = []

    def no_such_host(*arguments, **_):
        names.append(arguments)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    return names


@pytest.fixture
def online(monkeypatch):
    """The client may connect."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def save(kind, folder):
    if kind is VideoMAEConfig:
        return save_transformers(folder, transformers_keys(encoder_weights(SHORT)), SHORT)
    shape = SHORT.but(own_norm="fc_norm")
    return save_videomae2(folder, encoder_weights(shape), shape)


@pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
def test_what_the_cache_holds_is_used_without_a_connection(hub_cache, asked, online, kind):
    config = kind(checkpoint="somebody/their-model", norm="layer")
    with pytest.raises(MissingArtifact):
        config.token_spec(CLIP)
    folder = save(kind, snapshot_of(hub_cache, config.checkpoint))
    assert list(config.missing()) == []
    batch = random_batch(CLIP)
    expected = layer_norm(Reference(folder, SHORT.heads).hidden(batch.clip)[-1])
    assert token_error(build_videomae(config, clip=CLIP)(batch), expected) <= 1e-5
    assert asked == []


@pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
def test_a_published_id_is_known_before_it_is_here(kind, asked):
    hub_id = kind.published[0].name
    config = kind(checkpoint=hub_id)
    assert config.token_spec(CLIP).dim == 768
    (missing,) = config.missing()
    assert missing.what == f"the checkpoint {hub_id} is not on this machine"
    assert missing.fix.startswith(f"Download it once with `hf download {hub_id}`")
    assert asked == []


@pytest.mark.parametrize("question", ["missing", "token_spec", "build"])
def test_the_huge_that_the_hub_lacks_names_what_exists(asked, question):
    """The ids, and the authors' file; offline nobody is asked."""
    config, begin = VideoMAEConfig(checkpoint=HUGE), time.monotonic()
    if question == "missing":
        (missing,) = config.missing()
    else:
        with pytest.raises(MissingArtifact) as caught:
            config.token_spec(CLIP) if question == "token_spec" else build_videomae(config, clip=CLIP)
        missing = caught.value
    assert missing.what.startswith(f"the checkpoint {HUGE} is not on this machine")
    for name in ("MCG-NJU/videomae-large", "MCG-NJU/videomae-huge-finetuned-kinetics"):
        assert name in missing.fix
    assert "The pre-trained Huge is not on the hub: get the authors' checkpoint (MODEL_ZOO.md" in missing.fix
    assert 'checkpoint = "/path/to/checkpoint.pth"' in missing.fix
    assert "\n" not in str(missing)
    assert asked == []
    assert time.monotonic() - begin < 5


def test_the_huge_can_be_counted_by_its_size():
    config = VideoMAEConfig(checkpoint=HUGE, model="huge")
    assert config.token_spec(CLIP).dim == 1280
    assert len(config.missing()) == 1


@pytest.mark.parametrize("name", ["MCG-NJU/videomae-base", HUGE])
def test_offline_no_connection_is_tried(asked, name):
    with pytest.raises(
        MissingArtifact, match=f"{name} is not on this machine, and cannot be downloaded: .*offline"
    ) as told:
        build_videomae(VideoMAEConfig(checkpoint=name), clip=CLIP)
    assert asked == []
    assert "\n" not in str(told.value)
    assert ".." not in str(told.value)


def test_without_a_connection_the_hub_is_asked_once(asked, online):
    """Not for the client's half minute of retries."""
    begin = time.monotonic()
    with pytest.raises(MissingArtifact, match=r"cannot be downloaded: .*not known"):
        build_videomae(VideoMAEConfig(checkpoint="MCG-NJU/videomae-base"), clip=CLIP)
    assert len(asked) == 1
    assert time.monotonic() - begin < 5


def test_the_other_generation_is_refused_before_a_download(asked, online):
    for config in (
        VideoMAEConfig(checkpoint="OpenGVLab/VideoMAEv2-Base"),
        VideoMAE2Config(checkpoint="MCG-NJU/videomae-base"),
    ):
        with pytest.raises(CheckpointError, match="as its name says so"):
            build_videomae(config, clip=CLIP)
    assert asked == []


def test_an_interrupted_download_is_to_be_fetched(hub_cache):
    """It leaves config.json alone; a directory that somebody names is wrong instead."""
    snapshot = snapshot_of(hub_cache, "MCG-NJU/videomae-base")
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    config = VideoMAEConfig(checkpoint="MCG-NJU/videomae-base")
    (missing,) = config.missing()
    assert "hf download MCG-NJU/videomae-base" in missing.fix
    with pytest.raises(CheckpointError, match="has no weights"):
        VideoMAEConfig(checkpoint=str(snapshot)).token_spec(CLIP)

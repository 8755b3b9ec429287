"""VideoMAE against its own equations, from files in every layout that people have."""

from __future__ import annotations

import json
import math
import socket
import time

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from salt_videomae import build_videomae
from salt_videomae.config import HUB_IDS, VideoMAEConfig
from salt_videomae.teacher import load_encoder
from torch.nn import functional
from transformers import VideoMAEConfig as Architecture
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from salt_toolkit import ClipSpec, GeometryError, MissingArtifact, SaltError
from salt_toolkit.testing import random_batch

CLIP = ClipSpec(frames=4, stride=1, size=32)
DIM, DEPTH, HEADS = 24, 2, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory, monkeypatch):
    """No network, and a hub's cache of the test's own."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def write_checkpoint(folder, kind, old_keys=False):
    """A tiny checkpoint as transformers writes it, or with the keys of the published files."""
    architecture = Architecture(
        image_size=32,
        num_frames=4,
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=2 * DIM,
        decoder_hidden_size=12,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=24,
        use_mean_pooling=kind is VideoMAEForVideoClassification,
    )
    torch.manual_seed(0)
    model = kind(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if old_keys:
        file = folder / "model.safetensors"
        renamed = {
            name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
            for name, value in load_file(file).items()
            if not name.endswith("key.bias")
        }
        save_file(renamed, file, metadata={"format": "pt"})
    return folder


def reference(folder, batch, post_norm, mean=MEAN):
    """VideoMAE's encoder in float64, from its paper's and authors' equations; reads the stored file."""
    stored = {
        name.removeprefix("videomae."): value.double()
        for name, value in load_file(folder / "model.safetensors").items()
    }

    def bias(layer, name):
        old = f"{layer}.attention.attention.{name[0]}_bias"
        return stored[old] if old in stored else stored[f"{layer}.attention.attention.{name}.bias"]

    pixels = batch.clip.double() / 255
    pixels = (pixels - torch.tensor(mean).double().view(3, 1, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1, 1)
    prefix = "embeddings.patch_embeddings.projection"
    tokens = functional.conv3d(pixels, stored[f"{prefix}.weight"], stored[f"{prefix}.bias"], stride=(2, 16, 16))
    tokens = tokens.flatten(2).transpose(1, 2)
    index = torch.arange(DIM)
    angles = torch.arange(tokens.shape[1]).unsqueeze(1).double() / 10000 ** (2 * (index // 2).double() / DIM)
    tokens = tokens + torch.where(index % 2 == 0, angles.sin(), angles.cos())
    for number in range(DEPTH):
        layer = f"encoder.layer.{number}"
        norm = functional.layer_norm(
            tokens, (DIM,), stored[f"{layer}.layernorm_before.weight"], stored[f"{layer}.layernorm_before.bias"], 1e-12
        )
        weights = [stored[f"{layer}.attention.attention.{name}.weight"] for name in ("query", "key", "value")]
        query, key, value = (
            (norm @ weight.T + offset).reshape(*norm.shape[:2], HEADS, -1).transpose(1, 2)
            for weight, offset in zip(weights, (bias(layer, "query"), 0.0, bias(layer, "value")), strict=True)
        )
        attention = (query @ key.transpose(2, 3) / math.sqrt(DIM // HEADS)).softmax(-1) @ value
        attention = attention.transpose(1, 2).flatten(2)
        output = f"{layer}.attention.output.dense"
        tokens = tokens + attention @ stored[f"{output}.weight"].T + stored[f"{output}.bias"]
        norm = functional.layer_norm(
            tokens, (DIM,), stored[f"{layer}.layernorm_after.weight"], stored[f"{layer}.layernorm_after.bias"], 1e-12
        )
        hidden = functional.gelu(
            norm @ stored[f"{layer}.intermediate.dense.weight"].T + stored[f"{layer}.intermediate.dense.bias"]
        )
        tokens = tokens + hidden @ stored[f"{layer}.output.dense.weight"].T + stored[f"{layer}.output.dense.bias"]
    if post_norm:
        tokens = functional.layer_norm(tokens, (DIM,), stored["layernorm.weight"], stored["layernorm.bias"], 1e-12)
    return tokens


def relative_error(found, expected):
    return ((found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@pytest.mark.parametrize("old_keys", [False, True])
@pytest.mark.parametrize("kind", [VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel])
def test_latents_equal_the_equations(tmp_path, kind, old_keys):
    folder = write_checkpoint(tmp_path, kind, old_keys)
    pretrained = kind is not VideoMAEForVideoClassification
    batch = random_batch(CLIP)
    teacher = build_videomae(VideoMAEConfig(checkpoint=str(folder), norm="none"), clip=CLIP)
    expected = reference(folder, batch, post_norm=pretrained)
    assert relative_error(teacher(batch), expected) < 1e-5
    # The oracle itself must notice wrong pixels' normalisation.
    assert relative_error(teacher(batch), reference(folder, batch, pretrained, mean=(0.5, 0.5, 0.5))) > 1e-3
    normed = build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)(batch)
    assert relative_error(normed, functional.layer_norm(expected, (DIM,), eps=1e-6)) < 1e-5


def test_the_configs_arithmetic_is_the_models(tmp_path):
    for kind in (VideoMAEForPreTraining, VideoMAEForVideoClassification):
        folder = write_checkpoint(tmp_path / kind.__name__, kind)
        config = VideoMAEConfig(checkpoint=str(folder))
        teacher = build_videomae(config, clip=CLIP)
        assert config.token_spec(CLIP) == teacher.token_spec
        assert teacher(random_batch(CLIP)).shape == (2, teacher.token_spec.grid.num_tokens, DIM)
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        spare = sum(p.numel() for name, p in teacher.encoder.named_parameters() if name.endswith("key.bias"))
        assert config.cost(CLIP).parameters == sum(p.numel() for p in teacher.encoder.parameters()) - spare


@pytest.mark.parametrize("key", ["q_bias", "v_bias", "intermediate.dense.weight", "projection.bias"])
def test_a_weight_that_is_not_in_the_file_is_an_error(tmp_path, key):
    folder = write_checkpoint(tmp_path, VideoMAEForPreTraining, old_keys=True)
    file = folder / "model.safetensors"
    stored = load_file(file)
    name = next(name for name in stored if name.startswith("videomae.") and name.endswith(key))
    del stored[name]
    save_file(stored, file, metadata={"format": "pt"})
    with pytest.raises(SaltError, match="is not a whole VideoMAE encoder: it lacks 1 weights"):
        build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)


def test_a_weight_that_nobody_knows_is_an_error(tmp_path):
    folder = write_checkpoint(tmp_path, VideoMAEForPreTraining, old_keys=True)
    file = folder / "model.safetensors"
    stored = load_file(file)
    save_file({**stored, "videomae.encoder.layer.0.gamma_1": torch.ones(DIM)}, file, metadata={"format": "pt"})
    with pytest.raises(SaltError, match=r"it has unknown 1 weights .*gamma_1"):
        build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)


def test_files_that_are_no_checkpoints_are_one_sentence(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MissingArtifact, match=r"has no config\.json"):
        VideoMAEConfig(checkpoint=str(empty)).token_spec(CLIP)
    (empty / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(GeometryError, match="a model of type 'vit', not a 'videomae'"):
        VideoMAEConfig(checkpoint=str(empty)).token_spec(CLIP)
    (empty / "config.json").write_text("{")
    with pytest.raises(GeometryError, match="cannot be read"):
        VideoMAEConfig(checkpoint=str(empty)).token_spec(CLIP)
    folder = write_checkpoint(tmp_path / "short", VideoMAEForPreTraining)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1000])
    with pytest.raises(SaltError, match="cannot be loaded"):
        build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)
    with pytest.raises(GeometryError, match="takes clips of 4 frames of 32 pixels"):
        VideoMAEConfig(checkpoint=str(folder)).token_spec(ClipSpec())


def test_the_huge_that_does_not_exist_names_those_that_do():
    config = VideoMAEConfig(checkpoint="MCG-NJU/videomae-huge")
    (missing,) = config.missing()
    assert "MCG-NJU/videomae-huge is not on this machine" in missing.what
    assert "MCG-NJU/videomae-huge-finetuned-kinetics" in missing.fix
    with pytest.raises(MissingArtifact):
        build_videomae(config, clip=ClipSpec())


def test_published_ids_are_known_by_heart():
    for name, dim in (("base", 768), ("large", 1024), ("huge-finetuned-kinetics", 1280), ("small-finetuned-ssv2", 384)):
        config = VideoMAEConfig(checkpoint=f"MCG-NJU/videomae-{name}")
        assert config.token_spec(ClipSpec()).dim == dim
    assert len(HUB_IDS) == 13
    assert VideoMAEConfig(checkpoint=HUB_IDS[0]).cost(ClipSpec()).forward_flops / 1e9 == pytest.approx(360.7, abs=0.05)
    with pytest.raises(ValidationError):
        VideoMAEConfig(checkpoint="x", norm="batch")


@pytest.mark.parametrize("checkpoint", ["./checkpoints", "/checkpoints", "../a", "a b/c", "checkpoints", "a/b..c"])
def test_a_path_that_is_not_there_is_one_sentence(checkpoint):
    config = VideoMAEConfig(checkpoint=checkpoint)
    assert len(config.missing()) == 1
    with pytest.raises(MissingArtifact, match="is not on this machine"):
        config.token_spec(ClipSpec())


def snapshot_of(hub_cache, hub_id):
    """Where the hub's client keeps a repository."""
    folder = hub_cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    return folder / "snapshots" / "0"


def test_what_the_hubs_cache_holds_is_used_without_a_connection(hub_cache):
    config = VideoMAEConfig(checkpoint="somebody/their-videomae", norm="none")
    with pytest.raises(MissingArtifact):
        config.token_spec(CLIP)
    folder = write_checkpoint(snapshot_of(hub_cache, config.checkpoint), VideoMAEForPreTraining, old_keys=True)
    assert list(config.missing()) == []
    batch = random_batch(CLIP)
    assert relative_error(build_videomae(config, clip=CLIP)(batch), reference(folder, batch, post_norm=True)) < 1e-5


def test_a_config_without_weights_is_no_checkpoint(hub_cache, tmp_path):
    write_checkpoint(tmp_path, VideoMAEForPreTraining)
    (tmp_path / "model.safetensors").unlink()
    (missing,) = VideoMAEConfig(checkpoint=str(tmp_path)).missing()
    assert "has no weights (model.safetensors)" in missing.what
    hub_id = HUB_IDS[0]
    snapshot = snapshot_of(hub_cache, hub_id)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((tmp_path / "config.json").read_text())
    config = VideoMAEConfig(checkpoint=hub_id)
    assert config.token_spec(CLIP).dim == DIM
    (missing,) = config.missing()
    assert f"hf download {hub_id}" in missing.fix
    for checkpoint in (str(tmp_path), hub_id):
        with pytest.raises(MissingArtifact):
            build_videomae(VideoMAEConfig(checkpoint=checkpoint), clip=CLIP)


def test_weights_stored_in_half_precision_are_computed_in_single(tmp_path):
    folder = write_checkpoint(tmp_path, VideoMAEForPreTraining)
    stored = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    batch = random_batch(CLIP)
    latents = build_videomae(VideoMAEConfig(checkpoint=str(folder), norm="none"), clip=CLIP)(batch)
    assert latents.dtype == torch.float32
    assert relative_error(latents, reference(folder, batch, post_norm=True)) < 1e-5


def test_keys_that_a_config_leaves_out_mean_what_transformers_takes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae", "hidden_size": 384}))
    ours, theirs = VideoMAEConfig(checkpoint=str(tmp_path)).architecture(), Architecture(hidden_size=384)
    assert (ours.dim, ours.depth, ours.mlp_dim) == (384, theirs.num_hidden_layers, theirs.intermediate_size)
    assert (ours.frames, ours.size, ours.patch) == (theirs.num_frames, theirs.image_size, theirs.patch_size)
    assert (ours.tubelet, ours.final_norm) == (theirs.tubelet_size, not theirs.use_mean_pooling)


def test_loading_says_nothing_of_a_decoder_that_nobody_needs(tmp_path, capfd):
    folder = write_checkpoint(tmp_path, VideoMAEForPreTraining)
    capfd.readouterr()
    build_videomae(VideoMAEConfig(checkpoint=str(folder)), clip=CLIP)
    assert capfd.readouterr() == ("", "")


def test_without_a_connection_nobody_waits(hub_cache, monkeypatch):
    """A cached checkpoint asks nobody; another is asked for once, without the client's half minute of retries."""
    asked = []

    def no_such_host(*arguments, **_):
        asked.append(arguments)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    config = VideoMAEConfig(checkpoint="somebody/their-videomae")
    write_checkpoint(snapshot_of(hub_cache, config.checkpoint), VideoMAEForPreTraining)
    build_videomae(config, clip=CLIP)
    assert asked == []
    with pytest.raises(MissingArtifact, match=r"cannot be downloaded: .*not known"):
        build_videomae(VideoMAEConfig(checkpoint=HUB_IDS[0]), clip=ClipSpec())
    assert len(asked) == 1


@pytest.mark.parametrize("key", ["qkv_bias", "qv_bias"])
def test_an_encoder_without_biases_is_counted_without_them(tmp_path, key):
    architecture = Architecture(
        image_size=[32, 32],  # as height and width, which transformers allows
        num_frames=4,
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=2 * DIM,
        qkv_bias=False,
    )
    VideoMAEModel(architecture).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    kept = {name: value for name, value in stored.items() if name not in ("qkv_bias", "qv_bias")}
    (tmp_path / "config.json").write_text(json.dumps({**kept, key: False}))
    config = VideoMAEConfig(checkpoint=str(tmp_path))
    teacher = build_videomae(config, clip=CLIP)
    assert config.cost(CLIP).parameters == sum(parameter.numel() for parameter in teacher.parameters())


def test_pictures_that_are_not_square_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae", "image_size": [32, 48]}))
    with pytest.raises(GeometryError, match=r"of \[32, 48\] pixels are not square"):
        VideoMAEConfig(checkpoint=str(tmp_path)).token_spec(CLIP)


@pytest.mark.parametrize("checkpoint", ["MCG-NJU/videomae-base", "MCG-NJU/videomae-huge"])
def test_offline_no_connection_is_tried_and_one_sentence_says_why(monkeypatch, checkpoint):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    begin = time.monotonic()
    message = f"{checkpoint} is not on this machine, and cannot be downloaded: .*offline"
    with pytest.raises(MissingArtifact, match=message) as error:
        load_encoder(VideoMAEConfig(checkpoint=checkpoint))
    assert time.monotonic() - begin < 5
    assert asked == []
    assert "\n" not in str(error.value)
    assert ".." not in str(error.value)

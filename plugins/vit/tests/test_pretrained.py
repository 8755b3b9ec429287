"""Students from image weights: found, loaded whole, inflated; from a hub's cache that the test writes."""

from __future__ import annotations

import socket

import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from salt_vit import build_timm_vit
from salt_vit.config import TimmViTConfig, model_table

from salt_toolkit import ClipSpec, MissingArtifact, SaltError
from salt_toolkit.contracts import ClipBatch

CLIP = ClipSpec(frames=4, stride=1, size=160)
# One register token in front, LayerScale in the blocks, and the last norm behind the pooling.
SMALL_MODEL = "test_vit2"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_into_cache(hub_cache, name, without=()):
    """Writes random weights of a model to where the hub's client keeps downloads; returns the model."""
    torch.manual_seed(0)
    image_model = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in image_model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    _, repository = TimmViTConfig(model=name, pretrained=True).weights
    folder = hub_cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    weights = {key: value for key, value in image_model.state_dict().items() if key not in without}
    save_file(weights, snapshot / "model.safetensors")
    return image_model


def still_clip(size):
    picture = torch.randint(
        0, 256, (2, 1, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return ClipBatch(("a", "b"), {"clip": picture.expand(2, 4, -1, -1, -1)})


def normalised_image(image_model, batch):
    mean, std = (torch.tensor(image_model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (batch.clip[:, :, 0] / 255 - mean) / std


def test_a_still_clips_tokens_are_the_image_models(hub_cache):
    image_model = put_into_cache(hub_cache, SMALL_MODEL)
    config = TimmViTConfig(model=SMALL_MODEL, pretrained=True)
    assert list(config.missing()) == []
    student = build_timm_vit(config, clip=CLIP).eval()
    batch = still_clip(CLIP.size)
    with torch.no_grad():
        tokens = student(batch).reshape(2, 2, 100, -1)
        # Attention over the same tokens twice is attention over them once, so the image model says the same.
        image_tokens = image_model.patch_embed(normalised_image(image_model, batch)).flatten(1, 2)
        expected = image_model.fc_norm(image_model.blocks(image_tokens + image_model.pos_embed[:, 1:]))
    for frame in range(2):
        torch.testing.assert_close(tokens[:, frame], expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_an_embedding_bias_gets_none(hub_cache):
    name = "vit_xsmall_patch16_clip_224"
    image_model = put_into_cache(hub_cache, name)
    assert image_model.patch_embed.proj.bias is None
    clip = ClipSpec(frames=4, stride=1, size=224)
    student = build_timm_vit(TimmViTConfig(model=name, pretrained=True), clip=clip)
    batch = still_clip(224)
    expected = image_model.patch_embed(normalised_image(image_model, batch)).repeat(1, 2, 1)
    torch.testing.assert_close(student.embed(batch.clip), expected, rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_not_in_the_file_is_an_error(hub_cache):
    put_into_cache(hub_cache, SMALL_MODEL, without=("blocks.1.attn.proj.bias",))
    with pytest.raises(
        SaltError, match=r"does not hold the weights of test_vit2\.r160_in1k.*blocks\.1\.attn\.proj\.bias"
    ):
        build_timm_vit(TimmViTConfig(model=SMALL_MODEL, pretrained=True), clip=CLIP)


def test_truncated_weights_are_one_sentence(hub_cache):
    put_into_cache(hub_cache, SMALL_MODEL)
    config = TimmViTConfig(model=SMALL_MODEL, pretrained=True)
    file = config.cached_weights()
    assert file is not None
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SaltError, match="does not hold the weights"):
        build_timm_vit(config, clip=CLIP)


def test_weights_that_are_not_here_are_missing_with_the_command_that_gets_them():
    config = TimmViTConfig(model="vit_base_patch16_224.mae", pretrained=True)
    (missing,) = config.missing()
    assert "vit_base_patch16_224.mae are not on this machine" in missing.what
    assert "hf download timm/vit_base_patch16_224.mae model.safetensors" in missing.fix
    with pytest.raises(MissingArtifact, match="cannot be downloaded"):
        build_timm_vit(config, clip=ClipSpec())


def test_without_a_connection_nobody_waits(hub_cache, monkeypatch):
    """Cached weights ask nobody; others are asked for once, without the client's half minute of retries."""
    asked = []

    def no_such_host(*arguments, **_):
        asked.append(arguments)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    put_into_cache(hub_cache, SMALL_MODEL)
    build_timm_vit(TimmViTConfig(model=SMALL_MODEL, pretrained=True), clip=CLIP)
    assert asked == []
    with pytest.raises(MissingArtifact, match=r"cannot be downloaded: .*not known"):
        build_timm_vit(TimmViTConfig(model="vit_tiny_patch16_224", pretrained=True), clip=CLIP)
    assert len(asked) == 1


def test_the_tag_decides_the_weights_and_the_normalisation(hub_cache):
    name = "vit_base_patch16_224"
    assert TimmViTConfig(model=name, pretrained=True).weights[0] == f"{name}.{timm.get_pretrained_cfg(name).tag}"
    assert TimmViTConfig(model=f"{name}.mae", pretrained=True).weights == (f"{name}.mae", f"timm/{name}.mae")
    assert TimmViTConfig(model=f"{name}.mae", pretrained=True).token_spec(ClipSpec()).dim == 768


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vit_base_patch16_224.nae", "pretrained": True}, "found weights 'nae' of vit_base_patch16_224, and"),
        ({"model": "vit_base_patch16_224.mae"}, 'set pretrained = true, or model = "vit_base_patch16_224"'),
        ({"model": "vit_base_patch16_gap_224", "pretrained": True}, "the hub holds no weights of vit_base_patch16_gap"),
    ],
)
def test_weights_that_cannot_be_are_refused_in_a_sentence(settings, message):
    with pytest.raises(ValidationError, match=message):
        TimmViTConfig(**settings)


def test_every_repository_of_the_table_is_a_name_that_the_hub_allows():
    from huggingface_hub.utils import validate_repo_id

    repositories = {name for row in model_table().values() for name in row["weights"].values()}
    assert len(repositories) > 200
    for repository in repositories:
        validate_repo_id(repository)

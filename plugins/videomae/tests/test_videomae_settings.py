"""Directories whose config.json is wrong, odd, or says little."""

from __future__ import annotations

import json

import pytest
from salt_videomae import build_videomae
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from videomae_files import (
    SHORT,
    Shape,
    encoder_shapes,
    encoder_weights,
    save_pth,
    save_transformers,
    save_videomae2,
    sized_tensors,
    transformers_keys,
)

from salt_toolkit import CheckpointError, ClipSpec
from salt_toolkit.context import video_inputs

CLIP = ClipSpec()
GIANT = Shape(1408, 40, 16, 6144, 14, own_norm="fc_norm")


def first(folder, **settings):
    path = save_transformers(folder / "first", transformers_keys(encoder_weights(SHORT)), SHORT, **settings)
    return VideoMAEConfig(checkpoint=str(path))


def second(folder, **settings):
    return VideoMAE2Config(checkpoint=str(save_videomae2(folder / "second", encoder_weights(SHORT), SHORT, **settings)))


def refusal(config):
    assert list(config.missing()) == []
    with pytest.raises(CheckpointError) as caught:
        config.token_spec(CLIP)
    message = str(caught.value)
    assert "\n" not in message
    assert config.checkpoint in message
    return message


@pytest.mark.parametrize("kind", [VideoMAEConfig, VideoMAE2Config])
def test_a_directory_must_have_settings_and_weights(tmp_path, kind):
    config = kind(checkpoint=str(tmp_path))
    assert "has no config.json, so it is no checkpoint in Hugging Face layout" in refusal(config)
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in refusal(config)
    (tmp_path / "config.json").write_text("[]")
    assert "config.json holds no table of settings" in refusal(config)
    (tmp_path / "config.json").write_text("{}")
    assert "has no weights (model.safetensors)" in refusal(config)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names files that are not there: model-00001-of-00002.safetensors" in refusal(config)


@pytest.mark.parametrize("own_norm", ["norm", "fc_norm"])
def test_a_giant_has_patches_of_14_pixels(tmp_path, own_norm):
    weights = sized_tensors(encoder_shapes(GIANT.but(patch=16, own_norm=own_norm)))
    path = save_pth(tmp_path / "giant.pth", weights, wrapper="module")
    message = refusal(VideoMAE2Config(checkpoint=str(path)))
    assert "has the giant's width of 1408 and patches of 16 pixels; the giant's are 14" in message
    assert 'set use = "videomae2"' in refusal(VideoMAEConfig(checkpoint=str(path)))
    shape = GIANT.but(patch=16, own_norm=own_norm)
    folder = save_videomae2(tmp_path / "giant", sized_tensors(encoder_shapes(shape.but(depth=1))), shape.but(depth=1))
    assert "patches of 16 pixels" in refusal(VideoMAE2Config(checkpoint=str(folder)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hidden_size", 48),
        ("num_hidden_layers", 12),
        ("intermediate_size", 3072),
        ("patch_size", 8),
        ("tubelet_size", 1),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(tmp_path, setting, value):
    assert "contradicts itself: config.json says" in refusal(first(tmp_path, **{setting: value}))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("embed_dim", 48), ("depth", 12), ("mlp_ratio", 4), ("patch_size", 8), ("tubelet_size", 1)],
)
def test_settings_of_the_second_generation_that_contradict_its_weights_are_refused(tmp_path, setting, value):
    assert "contradicts itself: config.json says" in refusal(second(tmp_path, **{setting: value}))


@pytest.mark.parametrize("setting", ["cos_attn", "use_learnable_pos_emb", "init_values"])
def test_variants_that_were_never_published_are_refused(tmp_path, setting):
    assert f"was made with {setting} = 1" in refusal(second(tmp_path, **{setting: 1}))


def test_another_activation_is_refused(tmp_path):
    assert "hidden_act = 'relu', and VideoMAE has 'gelu'" in refusal(first(tmp_path, hidden_act="relu"))


@pytest.mark.parametrize("value", [0, -1, "24", None, 24.0, [24], True])
@pytest.mark.parametrize(
    ("write", "setting"),
    [(first, "hidden_size"), (first, "num_attention_heads"), (second, "embed_dim"), (second, "num_heads")],
)
def test_settings_that_count_nothing_are_refused(tmp_path, write, setting, value):
    assert f"says {setting} = {value!r} in its config.json" in refusal(write(tmp_path, **{setting: value}))


@pytest.mark.parametrize("value", [0, -4, "4", None, float("inf"), float("nan")])
def test_an_mlp_ratio_that_is_no_positive_number_is_refused(tmp_path, value):
    assert f"says mlp_ratio = {value!r} in its config.json" in refusal(second(tmp_path, mlp_ratio=value))


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    assert "5 attention heads, which do not divide its width of 24" in refusal(first(tmp_path, num_attention_heads=5))
    assert "5 attention heads, which do not divide its width of 24" in refusal(second(tmp_path, num_heads=5))


@pytest.mark.parametrize("size", [[32, 48], [], "32", {}, [32, 32.0]])
def test_pictures_that_are_not_square_are_refused(tmp_path, size):
    assert "not square" in refusal(first(tmp_path, image_size=size))
    assert "not square" in refusal(second(tmp_path, img_size=size))


def test_height_and_width_may_stand_for_the_side(tmp_path):
    config = first(tmp_path, image_size=[32, 32], patch_size=[16, 16])
    assert config.token_spec(CLIP) == first(tmp_path).token_spec(CLIP)


@pytest.mark.parametrize("settings", [{"image_size": 40}, {"num_frames": 5}])
def test_tokens_must_tile_the_clip(tmp_path, settings):
    assert "do not tile" in refusal(first(tmp_path, **settings))


def test_a_config_without_model_config_is_no_videomae2(tmp_path):
    config = second(tmp_path)
    (tmp_path / "second" / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base"}))
    assert "has no model_config with embed_dim in its config.json" in refusal(config)


def test_keys_that_a_config_leaves_out_mean_what_transformers_takes(tmp_path):
    import transformers

    theirs = transformers.VideoMAEConfig()
    shape = Shape(theirs.hidden_size, theirs.num_hidden_layers, 12, theirs.intermediate_size, theirs.patch_size)
    config = VideoMAEConfig(
        checkpoint=str(
            save_transformers(tmp_path / "a", transformers_keys(sized_tensors(encoder_shapes(shape))), shape)
        )
    )
    (tmp_path / "a" / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    ours = config.architecture()
    assert ours.heads == theirs.num_attention_heads
    assert (ours.frames, ours.size, ours.tubelet) == (theirs.num_frames, theirs.image_size, theirs.tubelet_size)
    assert ours.qv_bias is theirs.qv_bias is True


@pytest.mark.parametrize("setting", ["qkv_bias", "qv_bias"])
def test_an_encoder_made_without_biases_is_counted_without_them(tmp_path, setting):
    """transformers renamed the setting; only a config.json may say so, a file never leaves them out by chance."""
    weights = {key: value for key, value in encoder_weights(SHORT).items() if not key.endswith(("q_bias", "v_bias"))}
    path = save_transformers(tmp_path / "a", transformers_keys(weights), SHORT)
    stored = json.loads((path / "config.json").read_text())
    del stored["qkv_bias"]
    (path / "config.json").write_text(json.dumps({**stored, setting: False}))
    config = VideoMAEConfig(checkpoint=str(path))
    teacher = build_videomae(config, clip=CLIP)
    assert config.cost(video_inputs(CLIP)).parameters == sum(parameter.numel() for parameter in teacher.parameters())

"""Weights into modules: whole, or not at all."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from salt_toolkit import CheckpointError
from salt_toolkit.weights.loading import load_whole, read_weights
from salt_toolkit.weights.locate import CheckpointFiles
from salt_toolkit.weights.whole import looks_like


def module() -> nn.Module:
    """Parameters, buffers, a shared weight, and names that begin alike."""
    made = nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "head": nn.Linear(4, 2)})
    made["twin"] = made["head"]
    made.register_buffer("constant", torch.zeros(3), persistent=False)
    return made


def weights(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = module().state_dict()
    found = {key: torch.randn(value.shape, generator=generator).to(value.dtype) for key, value in own.items()}
    return found | {f"twin.{kind}": found[f"head.{kind}"] for kind in ("weight", "bias")}


KEYS = sorted(weights())


def load(given_weights, into=None, **settings):
    made = into or module()
    load_whole(made, given_weights, what="a small thing", name="the/checkpoint", **settings)
    return made


def refusal(given_weights, **settings) -> str:
    """What is said; and nothing was loaded."""
    made = module()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load(given_weights, made, **settings)
    after = made.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("the/checkpoint does not match a small thing: it ")
    assert "Partial loading would leave random weights" in message
    return message


def test_whole_weights_are_loaded_to_the_last_number():
    loaded = load(weights()).state_dict()
    assert loaded.keys() == weights().keys()
    assert all(torch.equal(loaded[key], value) for key, value in weights().items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_become_the_modules_kind(kind):
    given_weights = {key: value.to(kind) if value.is_floating_point() else value for key, value in weights().items()}
    loaded = load(given_weights).state_dict()
    for key, value in module().state_dict().items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], given_weights[key].to(value.dtype))


def test_a_module_without_memory_gets_the_files():
    with torch.device("meta"):
        made = module()
    load(weights(), made)
    assert not any(value.is_meta for value in made.state_dict().values())
    assert all(torch.equal(made.state_dict()[key], value) for key, value in weights().items())
    assert made["head"].weight.requires_grad


def test_shapes_alone_are_compared_on_the_meta_device():
    """So that a test can hold the published sizes against each other at no cost."""
    with torch.device("meta"):
        made = load(weights())
        assert all(value.is_meta for value in made.state_dict().values())
        with pytest.raises(CheckpointError, match="lacks"):
            load({})


@pytest.mark.parametrize("key", KEYS)
def test_any_missing_weight_is_named(key):
    given_weights = weights()
    del given_weights[key]
    assert f"it lacks 1 weight ({key})." in refusal(given_weights)


@pytest.mark.parametrize("key", ["body.2.weight", "bodyguard", "constant", "body.0.weights", ""])
def test_any_unknown_weight_is_named(key):
    assert f"it has unknown 1 weight ({key})." in refusal(weights() | {key: torch.ones(1)})


@pytest.mark.parametrize("key", [key for key in KEYS if "num_batches" not in key])
def test_any_weight_of_another_shape_is_named_with_both(key):
    wanted = tuple(weights()[key].shape)
    message = refusal(weights() | {key: torch.ones(7, 1)})
    assert f"it has another shape for 1 weight ({key} (7, 1) for {wanted})." in message


def test_no_weight_is_bent_to_fit():
    """Neither transposed nor flattened, nor with an axis more, nor spread over several."""
    key = "head.weight"
    for wrong in (weights()[key].T, weights()[key].flatten(), weights()[key][None], weights()[key][:1]):
        assert "another shape" in refusal(weights() | {key: wrong})


def test_all_that_is_wrong_is_said_at_once():
    given_weights = weights() | {"head.weight": torch.ones(3, 3), "more.weight": torch.ones(2)}
    del given_weights["body.0.bias"], given_weights["body.0.weight"]
    message = refusal(given_weights)
    assert "it lacks 2 weights (body.0.bias, body.0.weight)" in message
    assert "it has unknown 1 weight (more.weight)" in message
    assert "it has another shape for 1 weight (head.weight (3, 3) for (2, 4))" in message
    assert "The file holds 10 weights (0.0 M numbers) under body, head, more, twin" in message


def test_a_long_list_is_cut_and_counted():
    message = refusal(weights() | {f"more.{number:02d}": torch.ones(1) for number in range(20)})
    assert "has unknown 20 weights (more.00, more.01, more.02, more.03, more.04, more.05 and 14 more)" in message
    assert f"it lacks {len(KEYS)} weights" in refusal({})


@given(st.sets(st.sampled_from(KEYS)), st.sets(st.sampled_from(["x", "body.9", "twins"])))
@settings(max_examples=40, deadline=None)
def test_only_the_whole_passes(missing, unknown):
    given_weights = {key: value for key, value in weights().items() if key not in missing}
    given_weights |= {key: torch.ones(1) for key in unknown}
    if not missing and not unknown:
        load(given_weights)
        return
    message = refusal(given_weights)
    assert (f"lacks {len(missing)}" in message) == bool(missing)
    assert (f"unknown {len(unknown)}" in message) == bool(unknown)


def test_what_lies_beside_a_module_is_left_out_by_its_beginning():
    beside = {"decoder.0.weight": torch.ones(2), "mask_token": torch.ones(1), "decoder.norm": torch.ones(3)}
    load(weights() | beside, beside=(r"decoder\.", "mask_token$"))
    message = refusal(weights() | beside, beside=(r"decoder\.",))
    assert "has unknown 1 weight (mask_token)" in message
    # Only at a key's start: these are not beside.
    assert "has unknown 1 weight (body.decoder.x)" in refusal(
        weights() | {"body.decoder.x": torch.ones(1)}, beside=(r"decoder\.",)
    )
    # And never at the cost of a weight of the module's own.
    assert "lacks 2 weights (head.bias, head.weight)" in refusal(weights(), beside=("head",))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_that_is_not_finite_is_refused(bad, dtype):
    given_weights = weights()
    given_weights["head.weight"] = given_weights["head.weight"].to(dtype)
    load(given_weights)
    given_weights["head.weight"][1, 2] = bad
    with pytest.raises(CheckpointError, match=r"^the/checkpoint holds numbers that are not finite, in head\.weight"):
        load(given_weights)


def test_weights_that_were_quantized_are_refused():
    given_weights = weights() | {"head.weight": torch.ones(2, 4, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"^the/checkpoint holds \S+ as int8: a quantized checkpoint"):
        load(given_weights)


def test_what_a_file_looks_like_is_told_by_its_keys():
    assert looks_like({"a.b": (1000, 1000), "a.c": (1,), "d": (500, 1000)}) == (
        "The file holds 3 weights (1.5 M numbers) under a, d"
    )
    many = looks_like({f"{letter}.x": (1,) for letter in "abcdefghij"})
    assert many.endswith("under a, b, c, d, e, f")


def test_weights_are_read_from_every_format_and_wrapper_bit_for_bit(tmp_path):
    expected = {key: value for key, value in weights().items() if not key.startswith("twin")}
    wrapped = {"epoch": 3, "model": {f"module.{key}": value for key, value in expected.items()}}
    save_file(expected, tmp_path / "a")
    torch.save(wrapped, tmp_path / "b")
    torch.save(wrapped, tmp_path / "c", _use_new_zipfile_serialization=False)
    for name in "abc":
        found = read_weights(CheckpointFiles("x", (tmp_path / name,)))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert all(value.device.type == "cpu" for value in found.values())


def test_a_torn_shard_fails_the_whole(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    shards = CheckpointFiles("x", (tmp_path / "1.safetensors", tmp_path / "2.safetensors"))
    assert read_weights(shards).keys() == {"a", "b"}
    whole = shards.weights[1].read_bytes()
    shards.weights[1].write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"2\.safetensors is truncated or not a checkpoint"):
        read_weights(shards)
    shards.weights[1].unlink()
    with pytest.raises(CheckpointError, match=r"2\.safetensors is truncated or not a checkpoint \(.*No such file"):
        read_weights(shards)

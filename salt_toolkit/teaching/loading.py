"""Weights from files into modules: whole, or not at all."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from salt_toolkit.errors import CheckpointError
from salt_toolkit.teaching.files import CheckpointFiles
from salt_toolkit.teaching.headers import first_line, is_safetensors, tensor_shapes, unwrap

SHOWN = 6
"""How many keys an error lists before it says how many more there are."""


def read_weights(checkpoint: CheckpointFiles) -> dict[str, Tensor]:
    """Reads every tensor of a checkpoint, on the CPU, with wrappers and their prefixes taken off.

    Pickles are read with ``weights_only=True``.

    Raises:
        CheckpointError: A file is torn, holds no weights, or would run code when loaded.
    """
    tensors: dict[str, Tensor] = {}
    for file in checkpoint.weights:
        tensor_shapes(file)  # a torn file fails here, in a sentence
        try:
            if is_safetensors(file):
                state = load_file(file)
            else:
                # Opened, since torch.load by name takes every name that ends in .safetensors for one.
                with file.open("rb") as opened, torch.serialization.safe_globals([argparse.Namespace]):
                    state = torch.load(opened, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's own words advise to load it all the same
            raise CheckpointError(
                f"{file} is torn, or holds more than weights, which salt never loads; get it anew, or save the "
                "model's state_dict alone (torch.save(model.state_dict(), ...), or safetensors)"
            ) from error
        except Exception as error:  # safetensors and torch raise whatever they like
            raise CheckpointError(f"{file} cannot be loaded ({first_line(error)}); get it anew") from error
        tensors |= {key: value for key, value in unwrap(state).items() if isinstance(value, Tensor)}
    return tensors


def load_whole(
    module: nn.Module, weights: Mapping[str, Tensor], *, what: str, name: str, beside: Sequence[str] = ()
) -> None:
    """Loads weights into a module; any that is missing, unknown or of another shape is an error.

    Args:
        module: On the CPU, or on torch's meta device, which saves the time for random numbers.
        weights: By the module's own keys.
        what: What the module is, for the error, such as "a VideoMAE encoder of width 768".
        name: The checkpoint, as the recipe names it.
        beside: Regular expressions (matched at a key's start) of weights that published files hold
            besides the module, such as decoders.

    Raises:
        CheckpointError: With the keys, and what the file looks like instead.
    """
    ignored = re.compile("|".join(beside)) if beside else None
    given = {key: value for key, value in weights.items() if not (ignored and ignored.match(key))}
    own = module.state_dict()
    shapes = {key: f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}" for key in own.keys() & given.keys()}
    wrong = {
        "lacks": sorted(own.keys() - given.keys()),
        "has unknown": sorted(given.keys() - own.keys()),
        "has another shape for": sorted(shapes[key] for key in shapes if own[key].shape != given[key].shape),
    }
    found = [f"{verb} {_listed(keys)}" for verb, keys in wrong.items() if keys]
    if found:
        raise CheckpointError(
            f"{name} is not the whole of {what}: it {'; it '.join(found)}. Nothing is left at random: "
            f"name another checkpoint. {looks_like(weights)}"
        )
    if torch.get_default_device().type == "meta":
        return  # the caller wants shapes alone
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in given.items()}, assign=True)


def looks_like(weights: Mapping[str, Tensor]) -> str:
    """What a file holds, in a sentence, for errors."""
    tops = sorted({key.partition(".")[0] for key in weights})
    numbers = sum(value.numel() for value in weights.values())
    return f"The file holds {len(weights)} weights ({numbers / 1e6:.1f} M numbers) under {', '.join(tops[:SHOWN])}"


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {'weight' if len(keys) == 1 else 'weights'} ({', '.join(keys[:SHOWN])}{more})"

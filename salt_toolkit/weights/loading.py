"""Strict loading of weights from files into modules."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from salt_toolkit.errors import CheckpointError
from salt_toolkit.weights.headers import first_line, is_safetensors, unwrap
from salt_toolkit.weights.locate import CheckpointFiles
from salt_toolkit.weights.whole import require_whole


def read_weights(checkpoint: CheckpointFiles) -> dict[str, Tensor]:
    """Reads every tensor of a checkpoint, on the CPU, with wrappers and key prefixes removed.

    Pickles are read with ``weights_only=True``.

    Raises:
        CheckpointError: A file is truncated, contains no weights, or would run code when loaded.
    """
    checkpoint.shapes()  # gives a readable error for a truncated file
    tensors: dict[str, Tensor] = {}
    for file in checkpoint.weights:
        try:
            if is_safetensors(file):
                state = load_file(file)
            else:
                # Opened here, because torch.load trusts a file name that ends in .safetensors.
                with file.open("rb") as opened, torch.serialization.safe_globals([argparse.Namespace]):
                    state = torch.load(opened, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's own message suggests loading it unsafely
            raise CheckpointError(
                f"{file} is truncated, or contains more than weights, which salt never loads; download it again, "
                "or save only the model's state_dict (torch.save(model.state_dict(), ...), or safetensors)"
            ) from error
        except Exception as error:  # safetensors and torch document no exceptions
            raise CheckpointError(f"{file} cannot be loaded ({first_line(error)}); download it again") from error
        tensors |= {key: value for key, value in unwrap(state).items() if isinstance(value, Tensor)}
    return tensors


def load_whole(
    module: nn.Module, weights: Mapping[str, Tensor], *, what: str, name: str, beside: Sequence[str] = ()
) -> None:
    """Loads weights into a module; missing, unexpected or differently shaped weights are errors.

    Args:
        module: On the CPU, or on torch's meta device, which saves the time for random numbers.
        weights: By the module's own keys.
        what: What the module is, for the error, such as "a VideoMAE encoder of width 768".
        name: The checkpoint, as the recipe names it.
        beside: Regular expressions (matched at a key's start) of weights that published files hold
            besides the module, such as decoders.

    Raises:
        CheckpointError: With the keys, and what the file looks like instead; or numbers that are not finite.
    """
    own = module.state_dict()
    wanted = {key: tuple(tensor.shape) for key, tensor in own.items()}
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    require_whole(found, wanted, what=what, name=name, beside=beside)
    if torch.get_default_device().type == "meta":
        return  # the caller wants shapes alone
    loaded = {key: weights[key].to(own[key].dtype) for key in own}
    _require_numbers(weights, loaded, name)
    module.load_state_dict(loaded, assign=True)


def _require_numbers(given: Mapping[str, Tensor], loaded: Mapping[str, Tensor], name: str) -> None:
    """Refuses values that would silently make every latent meaningless."""
    for key, tensor in loaded.items():
        if tensor.is_floating_point() and not given[key].is_floating_point():
            raise CheckpointError(
                f"{name} holds {key} as {str(given[key].dtype).removeprefix('torch.')}: a quantized checkpoint, whose "
                "numbers mean nothing by themselves; name the one in float32, float16 or bfloat16"
            )
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds numbers that are not finite, in {key}; download the checkpoint again")

"""timm's weights on the hub: one file in each repository; no torch."""

from __future__ import annotations

from pathlib import Path

from salt_toolkit import MissingArtifact
from salt_toolkit.weights.headers import first_line

WEIGHTS_FILE = "model.safetensors"
"""What timm's repositories on the hub call their weights."""


def cached_weights(repository: str) -> Path | None:
    """The file of a repository in the hub's cache on this machine; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, WEIGHTS_FILE)
    return Path(cached) if isinstance(cached, str) else None


def fetch_weights(name: str, repository: str, otherwise: str) -> Path:
    """The file of a repository, downloaded if it is not on this machine.

    Args:
        name: Of the weights, for the error.
        repository: On the hub.
        otherwise: What else the user could do, as the end of a sentence.

    Raises:
        MissingArtifact: It is neither here nor to be had.
    """
    cached = cached_weights(repository)
    if cached is not None:
        return cached
    from huggingface_hub import HfApi, hf_hub_download

    try:
        # One question first: a download without a connection tries again for half a minute.
        HfApi().model_info(repository, timeout=10)
        return Path(hf_hub_download(repository, WEIGHTS_FILE))
    except Exception as error:  # whatever the hub's client raises; it changes its HTTP library now and then
        raise missing_weights(name, repository, otherwise, first_line(error)) from error


def missing_weights(name: str, repository: str, otherwise: str, reason: str = "") -> MissingArtifact:
    """The error that says that weights are not on this machine, and how to get them."""
    cannot = f", and cannot be downloaded: {reason.rstrip('.')}" if reason else ""
    return MissingArtifact(
        f"the pre-trained weights {name} are not on this machine{cannot}",
        f"Get them with `hf download {repository} {WEIGHTS_FILE}`, or {otherwise}.",
    )

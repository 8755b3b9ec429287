"""How pictures are prepared for a file of one's own: what its config.json says of it, and what nobody says; no torch.

A model's published weights may want other means and deviations, or another activation, than each other. Every
choice loads, and only one gives the right latents, so none is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salt_toolkit import CheckpointError
from salt_toolkit.weights.locate import CheckpointFiles
from salt_vit.image_models import CHANNELS, Pixels, published_weights


@dataclass(frozen=True)
class Stated:
    """What the config.json beside weights says of them, in timm's words; a lone file says nothing.

    Attributes:
        pixels: Mean and deviation; None where it does not say.
        tag: The published weights that they are or come from, without the model's name; None where it does not say.
    """

    pixels: Pixels | None = None
    tag: str | None = None


def stated_by(files: CheckpointFiles | None, model: str) -> Stated:
    """Reads what a directory states of its weights.

    Args:
        files: On this machine; None where they are not.
        model: Its name in timm, without a tag; the tag of another model is no news.

    Raises:
        CheckpointError: Its mean and deviation are none.
    """
    if files is None or files.config is None:
        return Stated()
    file = Path(files.name) / "config.json"
    settings = files.config.get("pretrained_cfg", files.config)
    if not isinstance(settings, Mapping):
        raise CheckpointError(
            f"{file} says pretrained_cfg = {_shown(settings)}, and a table with mean and std belongs there; "
            "fix it, or leave pretrained_cfg out"
        )
    tag = settings.get("tag") if files.config.get("architecture") == model else None
    pixels = None
    if settings.get("mean") is not None or settings.get("std") is not None:
        pixels = _colours(file, settings, "mean"), _colours(file, settings, "std")
    return Stated(pixels, tag if isinstance(tag, str) else None)


def _colours(file: Path, settings: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    """One number for each colour; a deviation is a divisor, so it is not 0."""
    values = settings.get(key)
    numbers = [float(value) for value in values if _is_share(value)] if isinstance(values, list) else []
    if len(numbers) != CHANNELS or values != numbers or (key == "std" and 0 in numbers):
        bounds = "from 0 to 1" if key == "mean" else "above 0 and up to 1"
        raise CheckpointError(
            f"{file} says {key} = {_shown(values)}, and {CHANNELS} numbers {bounds} belong there, one for each colour "
            "of pixels of 0 to 1; fix it, or leave out both mean and std"
        )
    return numbers[0], numbers[1], numbers[2]


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def left_open(model: str, checkpoint: str, tags: Sequence[str], stated: Stated) -> str | None:
    """Asks for a tag, where a model without one does not tell how pictures are prepared for a file.

    Args:
        model: Its name in timm, without a tag.
        checkpoint: The file or directory, as the recipe names it.
        tags: Of the published weights that the recipe may name.
        stated: What the directory says itself.

    Returns:
        What is open and what there is to choose from, in a sentence; None where all published weights agree.
    """
    weights = {tag: published_weights(model)[tag] for tag in tags}
    plain = {tag: entry for tag, entry in weights.items() if not entry.instead}
    other = {tag: entry.instead.partition(".")[0] for tag, entry in weights.items() if entry.instead}
    if stated.tag in plain:
        other = {}
    compared = (*plain.values(), *(weights[tag] for tag in other))
    mixed = stated.pixels is None and len({entry.pixels for entry in compared}) > 1
    if not mixed and not other:
        return None
    wanted = " and ".join(["mean and std"] * mixed + ["activation"] * bool(other))
    choices: dict[str, list[str]] = {}
    for tag, entry in plain.items():
        words = [_described(entry.pixels)] * mixed + ["GELU"] * bool(other)
        choices.setdefault(", ".join(words), []).append(tag)
    for tag, name in other.items():
        choices.setdefault(f'QuickGELU, which takes model = "{name}"', []).append(tag)
    listed = "; ".join(f"{choice}: {', '.join(fitting)}" for choice, fitting in choices.items())
    return (
        f'model = "{model}" leaves open which {wanted} {checkpoint} was trained with, and the weights published for '
        f'it differ there; add the tag that fits, as model = "{model}.TAG", also for a file that you trained yourself '
        f"({listed})"
    )


def _described(pixels: Pixels) -> str:
    mean, std = (" ".join(f"{value:.3g}" for value in dict.fromkeys(values)) for values in pixels)
    return f"mean {mean} and std {std}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

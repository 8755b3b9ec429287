"""Files of image models: whether their shapes are those of the model that a recipe names; no torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import isqrt
from pathlib import Path

from salt_toolkit import CheckpointError
from salt_toolkit.weights.locate import CheckpointFiles
from salt_toolkit.weights.whole import require_whole
from salt_vit.image_models import CHANNELS, ImageArchitecture, Looks, architectures

Shapes = Mapping[str, tuple[int, ...]]

PROJECTION = "patch_embed.proj.weight"
POSITIONS = "pos_embed"
REGISTERS = ("reg_token", "register_tokens", "storage_tokens")
"""timm's key, DINOv2's and DINOv3's."""


def refuse_strangers(files: CheckpointFiles, made: ImageArchitecture, offered: Iterable[str]) -> None:
    """Refuses files that show another model than the one named.

    Files whose layout is neither timm's nor DINO's show nothing here; loading them whole decides.

    Args:
        files: On this machine.
        made: What the recipe names.
        offered: Models that the recipe could name instead.

    Raises:
        CheckpointError: They are of another model, or torn, or a block lacks what the others have.
    """
    shapes = _shapes(files.name, tuple((file, file.stat().st_mtime_ns) for file in files.weights))
    projection = shapes.get(PROJECTION)
    if projection is None:
        return
    if len(projection) != 4 or projection[1] != CHANNELS or projection[2] != projection[3]:
        raise CheckpointError(
            f"{files.name} embeds patches by weights of shape {projection}, which is not that of square patches of "
            f"coloured pictures (such as {made.dim, CHANNELS, made.patch, made.patch}): it is no image model for "
            f"{made.name}; name another file"
        )
    found = _looks(files.name, shapes, projection)
    if found == made.looks:
        _require_equal_blocks(files.name, made, shapes)
        return
    alike = [name for name in offered if architectures()[name].looks == found]
    hint = f"set model to {' or '.join(alike[:3])}, or name another file" if alike else "name another file"
    raise CheckpointError(f"{files.name} is not {made.name}: it holds {found}, and not {made.looks}; {hint}")


def _require_equal_blocks(name: str, made: ImageArchitecture, shapes: Shapes) -> None:
    """All blocks of a model hold the same weights, in every layout; so most of them tell what one should hold.

    What only a few hold is left to the loading, where timm's filter may drop it.
    """
    held: defaultdict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for key, shape in shapes.items():
        inner = re.match(r"blocks\.\d+\.(.+)", key)
        if inner:
            held[inner[1]][shape] += 1
    usual = {inner: found.most_common(1)[0][0] for inner, found in held.items() if 2 * found.total() >= made.depth}
    wanted = {f"blocks.{number}.{inner}": shape for number in range(made.depth) for inner, shape in usual.items()}
    others = [f"{re.escape(key)}$" for key in shapes.keys() - wanted.keys()]
    require_whole(shapes, wanted, what=f"timm's {made.name}", name=name, beside=others)


def _looks(name: str, shapes: Shapes, projection: tuple[int, ...]) -> Looks:
    for key in (*REGISTERS, POSITIONS):
        if len(shapes.get(key, (1, 1, 1))) != 3:
            raise CheckpointError(
                f"{name} holds {key} of shape {shapes[key]}, and tokens of an image model have three axes, such as "
                f"(1, number of tokens, {projection[0]}); name another file"
            )
    registers = sum(shapes[key][1] for key in REGISTERS if key in shapes)
    others = registers + ("dist_token" in shapes)
    class_token = "cls_token" in shapes
    num_positions = shapes[POSITIONS][1] if POSITIONS in shapes else 0
    return Looks(
        depth=len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
        dim=projection[0],
        patch=projection[2],
        class_token=class_token,
        others=others,
        side=_side(num_positions, class_token + others),
    )


def _side(num_positions: int, prefix: int) -> int:
    """The side of the square of patches, where tokens before them may have positions or not."""
    sides = (isqrt(max(0, num_positions - extra)) for extra in range(prefix + 1))
    return next((side for extra, side in enumerate(sides) if side**2 == num_positions - extra), isqrt(num_positions))


@lru_cache(maxsize=8)
def _shapes(name: str, files: tuple[tuple[Path, int], ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's weights, read once for each state of its files."""
    return CheckpointFiles(name, tuple(file for file, _ in files)).shapes()

"""The commands ``salt demo`` and ``salt demo-data``; light, since ``salt --help`` imports them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    directory: Annotated[Path, typer.Argument(help="Where data, runs and results go.")] = Path("runs/demo"),
    recipes: Annotated[
        Path | None, typer.Option(help="A folder with your own demo_teacher.toml and demo_student.toml.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both runs.")] = 0,
) -> None:
    """Trains and judges a teacher and a student, on small videos."""
    from salt_demo.story import bundled_recipes, run_demo

    run_demo(directory, recipes or bundled_recipes(), seed=seed)


def demo_data(
    directory: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")],
    train: Annotated[int, typer.Option(min=1, help="Clips in the training split.")] = 1500,
    validation: Annotated[int, typer.Option(min=1, help="Clips in the validation split.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Decides every clip.")] = 0,
) -> None:
    """Writes a small labelled set of videos whose labels are motion."""
    from salt_demo.videos import write_demo_data

    written = write_demo_data(directory, num_train=train, num_validation=validation, seed=seed)
    total = train + validation
    new = "" if written == total else f", {written} of them new" if written else ", all there already"
    typer.echo(f"{total} videos in {directory}{new}")

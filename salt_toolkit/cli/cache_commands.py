"""The commands ``salt cache ...``. Thin: each imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from salt_toolkit.cli.options import JsonOption, SetOption
from salt_toolkit.cli.output import CoreCommand, write, write_json
from salt_toolkit.errors import SaltError

if TYPE_CHECKING:
    from salt_toolkit.cache.sources import SourceVerdict

COMPARED = ("dataset", "teacher")
"""The sections of a recipe that latents depend on; no command here needs the sections for training."""

FILL = "fill"
"""The command that is meant when the first word is none: ``salt cache RECIPE``."""


class _FillByDefault(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = [FILL, *args]
        return super().resolve_command(ctx, args)


cache_app = typer.Typer(
    cls=_FillByDefault,
    help="Computes teachers' latents once: salt cache RECIPE; and looks after them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DirectoryArgument = Annotated[Path, typer.Argument(help="A cache: the folder with cache.json.")]


@cache_app.command(name=FILL, cls=CoreCommand)
def fill(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML, with a [cache] section.")],
    overrides: SetOption = None,
    split: Annotated[str | None, typer.Option(help="Which part of the data set; the recipe's by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first clips.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that read, instead of the recipe's.")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; the first GPU by default.")] = None,
    max_hours: Annotated[float | None, typer.Option(min=0.0, help="Stop then; the next call goes on.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Every N-th shard, beginning with I (from 0).")] = "0/1",
) -> None:
    """Fills the cache of a recipe; goes on where an earlier call stopped."""
    from salt_toolkit.recipe.load import CACHING, load_recipe
    from salt_toolkit.registry import discover

    loaded = load_recipe(recipe, discover(), overrides or (), needs=CACHING)
    part = _part(shard)
    from salt_toolkit.cache.fill import fill_cache
    from salt_toolkit.cache.plan import CacheOptions
    from salt_toolkit.system.signals import OUT_OF_TIME

    options = CacheOptions(split, limit, batch_size, workers, device, max_hours, part)
    outcome = fill_cache(loaded, options)
    counts = outcome.counts
    bad = f", {counts.bad} bad" if counts.bad else ""
    write(f"{counts.done} clips{bad} in {counts.elapsed:.0f} s; {outcome.directory}")
    if not outcome.missing:
        return
    if outcome.stopped_by is not None:
        typer.echo(f"stopped by {outcome.stopped_by.name}; {outcome.missing} clips are missing: call again", err=True)
        raise typer.Exit(128 + outcome.stopped_by)
    why = "others are writing them" if counts.busy else "the time was up"
    typer.echo(f"{outcome.missing} clips are missing ({why}): call again", err=True)
    raise typer.Exit(OUT_OF_TIME)


@cache_app.command(cls=CoreCommand)
def info(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """Says whose latents a cache holds, how many, how large, and what is missing."""
    from salt_toolkit.cache.text import cache_facts, render_cache
    from salt_toolkit.store.cache import Cache

    facts = cache_facts(Cache.open(directory, forgive_damage=True))
    if as_json:
        write_json(facts)
    else:
        write(render_cache(facts))


@cache_app.command(cls=CoreCommand)
def verify(
    directory: DirectoryArgument,
    recipe: Annotated[Path | None, typer.Option(help="Recompute some clips with this recipe, and compare.")] = None,
    overrides: SetOption = None,
    spot: Annotated[
        int | None, typer.Option(min=1, help="How many clips to recompute; by default 20, and none with --sources.")
    ] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Compare the files of the recipe's data set with what rows remember.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Reads every byte of a cache: checksums, counts, numbers; with a recipe also compares with teacher or files."""
    from salt_toolkit.cache.text import render_verdict, verdict_facts
    from salt_toolkit.store.maintain import verify as read_all

    found = _compare_sources(directory, recipe, overrides or ()) if sources else None
    verdict = read_all(directory)
    facts = verdict_facts(verdict)
    if found is not None:
        facts["sources"] = found.facts()
    if recipe is not None and verdict.sound and not (sources and spot is None):
        facts["spot_checks"] = _spot_checks(directory, recipe, overrides or (), 20 if spot is None else spot)
    if as_json:
        write_json(facts)
    else:
        write(render_verdict(facts))
    failed = not verdict.sound or any(not check["ok"] for check in facts.get("spot_checks", ()))
    raise typer.Exit(1 if failed or (found is not None and found.mismatches) else 0)


def _compare_sources(directory: Path, recipe: Path | None, overrides: Any) -> SourceVerdict:
    if recipe is None:
        raise SaltError("--sources needs to know where the files lie: name the recipe of the cache with --recipe")
    from salt_toolkit.cache.sources import compare_sources
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover

    return compare_sources(directory, load_recipe(recipe, discover(), overrides, needs=("dataset",)))


def _spot_checks(directory: Path, recipe: Path, overrides: Any, spot: int) -> list[dict[str, Any]]:
    from salt_toolkit.cache.spot import spot_check
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover

    return spot_check(directory, load_recipe(recipe, discover(), overrides, needs=COMPARED), count=spot)


@cache_app.command(cls=CoreCommand)
def repair(
    directory: DirectoryArgument,
    sources: Annotated[
        bool, typer.Option("--sources", help="Also drop the rows of clips whose files have changed.")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="For --sources: the cache's recipe, which says where the files lie.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Drops what is torn; the command that made the cache fills it again."""
    from salt_toolkit.store.maintain import repair as drop_torn

    compared = _compare_sources(directory, recipe, overrides or ()) if sources else None
    found = drop_torn(directory, None if compared is None else compared.changed)
    if compared is not None:
        kept = f"; the rows of {len(compared.missing)} missing files stay" if compared.missing else ""
        write(f"dropped the rows of {len(compared.changed)} clips whose files have changed{kept}")
    write(
        f"dropped {len(found.damaged_shards)} damaged shards and {len(found.damaged_rows)} damaged rows; "
        "`salt cache RECIPE` fills what is missing"
    )


@cache_app.command(cls=CoreCommand)
def merge(
    target: Annotated[Path, typer.Argument(help="A cache, or a new directory.")],
    sources: Annotated[list[Path], typer.Argument(help="Caches of the same identity, made elsewhere.")],
) -> None:
    """Joins caches that several machines have made."""
    from salt_toolkit.store.maintain import merge as join

    taken = join(target, sources)
    write(f"{taken} shards taken into {target}")


@cache_app.command(cls=CoreCommand)
def convert(
    source: Annotated[Path, typer.Argument(help="A cache, or a folder with one <clip id>.pt for each clip.")],
    target: Annotated[Path, typer.Argument(help="A new directory.")],
    dtype: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8 or fp8.")],
    recipe: Annotated[
        Path | None, typer.Option(help="For a folder of .pt: the recipe that the latents belong to.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Rewrites latents in another type; also imports folders of .pt files."""
    from typing import cast, get_args

    from salt_toolkit.cache.convert import convert as rewrite
    from salt_toolkit.cache.encodings import Encoding
    from salt_toolkit.store.manifest import BASE

    if dtype not in get_args(Encoding):
        raise SaltError(f"--dtype {dtype}: expected one of {', '.join(get_args(Encoding))}")
    encoding = cast(Encoding, dtype)
    if (source / BASE).is_file():
        written = rewrite(source, target, dtype=encoding)
    else:
        written = _import(source, target, encoding, recipe, overrides or ())
    write(f"{written} rows written to {target}")


def _import(source: Path, target: Path, dtype: Any, recipe: Path | None, overrides: Any) -> int:
    from salt_toolkit.store.local import caches_in, no_cache

    inside = caches_in(source)
    if inside:
        raise no_cache(str(source), inside)
    if recipe is None:
        raise SaltError(
            f"{source} is no cache; to import a folder of .pt files, name the recipe whose latents they are with "
            "--recipe, so that training can tell whether they are its own"
        )
    from salt_toolkit.cache.convert import claimed_base, claimed_layer, import_folder
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover

    claimed = load_recipe(recipe, discover(), overrides, needs=COMPARED)
    base, wanted = claimed_base(claimed), claimed_layer(claimed)
    return import_folder(source, target, base=base, wanted=wanted, dtype=dtype, shard_mb=512)


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise SaltError(f"--shard {text}: expected I/N with 0 <= I < N, such as 3/16")
    return int(number), int(count)

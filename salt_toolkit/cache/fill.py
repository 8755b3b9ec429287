"""`salt cache`: says what a cache will cost, then fills it, or adds what it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import torch

from salt_toolkit.cache.plan import CacheOptions, CachePlan
from salt_toolkit.cache.prepare import Prepared, lacking_layers, prepare
from salt_toolkit.cache.rates import Rates, bytes_missing, costs, details, losses, require_room, waits
from salt_toolkit.cache.shards import Unit, missing_units
from salt_toolkit.cache.work import CacheWork
from salt_toolkit.cache.writing import Counts
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.machine import Machine
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.maintain import drop_leftovers
from salt_toolkit.system.launch import Launch
from salt_toolkit.system.progress import Progress
from salt_toolkit.system.signals import StopRequests


@dataclass(frozen=True)
class CacheOutcome:
    """How a call ended.

    Attributes:
        directory: Of the cache.
        counts: What this call has done.
        missing: Clips of this call's share that some layer still lacks.
        stopped_by: The signal that asked to stop, if one did.
    """

    directory: Path
    counts: Counts
    missing: int
    stopped_by: Signals | None


def fill_cache(recipe: Recipe, options: CacheOptions) -> CacheOutcome:
    """Computes what is missing of a recipe's cache.

    A cache that is there grows by the recipe's teachers, views and clips that it lacks; what it has stays.

    Raises:
        CacheError: It does not fit the disk, belongs to something else, or cannot be written.
        MissingArtifact: Weights or data are not on this machine.
        DataError: Too many clips are bad.
    """
    plan = CachePlan.of(recipe, options)
    lacking = lacking_layers(plan)  # before teachers are loaded, and perhaps downloaded
    drop_leftovers(plan.directory)
    if not lacking:
        return CacheOutcome(plan.directory, Counts(), 0, None)
    with (
        Progress(f"cache {plan.split}", unit="clip", silent=not Launch.here().is_first) as progress,
        StopRequests(options.max_hours) as requests,
    ):
        machine = _machine(recipe, options.device)
        progress.say(f"{plan.directory} on {machine.describe()}")
        prepared = prepare(plan, machine, lacking)
        work = CacheWork(
            prepared.cache,
            prepared.layers,
            plan.dataset,
            prepared.encoder,
            Quarantine(None, num_clips=len(plan.dataset.clip_ids), max_fraction=recipe.loader.max_bad_fraction),
            batch_size=plan.batch_size,
            workers=plan.workers,
            part=plan.part,
            end=plan.end,
            views=plan.views,
            stop=lambda: requests.pending,
        )
        missing = _announce(plan, prepared, work.missing(), progress)
        work.log = lambda counts: progress.show(counts.done + counts.bad, missing, details(counts))
        counts = work.run()
        progress.say(waits(counts))
        return CacheOutcome(plan.directory, counts, _num_missing(plan, prepared.layers), requests.received)


def _announce(plan: CachePlan, prepared: Prepared, units: list[Unit], progress: Progress) -> int:
    """Says what is missing and what it will take; returns how many clips.

    Raises:
        CacheError: It does not fit the disk.
    """
    missing = sum(unit.num_clips for unit in units)
    require_room(plan.directory, bytes_missing(units))  # before a batch is written to measure the disk
    if missing:
        layers = {shard.layer for unit in units for shard in unit.shards}
        rates = Rates.measured(
            prepared.reading,
            lambda: prepared.encoder.encode(prepared.batch, layers)[0],
            plan.directory,
            missing,
        )
        total = plan.views * len(prepared.cache.base.ids)
        for line in (*costs(units, rates, total), *losses(units)):
            progress.say(line)
    return missing


def _num_missing(plan: CachePlan, layers: tuple[str, ...]) -> int:
    """Clips of this share that some layer still lacks."""
    cache = Cache.open(plan.directory)
    there = {name: cache.layers[name] for name in layers}
    return sum(unit.num_clips for unit in missing_units(there, plan.places(cache.base), plan.views, plan.part))


def _machine(recipe: Recipe, device: str | None) -> Machine:
    """Training's machine, or another device."""
    here = Machine.here(recipe)
    return here if device is None else here.on(torch.device(device))

"""What decides a cache's contents, as a recipe says it: its samples, and each of its layers; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salt_toolkit.cache.encodings import Coding
from salt_toolkit.context import Inputs, Reads
from salt_toolkit.errors import CacheError, MissingArtifact
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.recipe import CacheSection, Recipe, Teaching
from salt_toolkit.seeding import seed_for
from salt_toolkit.store.cache import SAMPLES, TEACHERS, Cache
from salt_toolkit.store.manifest import differences
from salt_toolkit.streams import CLIP, Encoding, StreamSpec
from salt_toolkit.teaching.fingerprint import identify


@dataclass(frozen=True)
class Wanted:
    """A layer that a recipe asks for.

    Attributes:
        name: What it is called in a new cache, such as ``teachers/motion``.
        identity: What decides its values, in plain values; None for a teacher whose weights are not here.
        codings: Its streams.
        free: Parts of the identity that any layer may have as it likes: ``precision`` for a teacher that declares
            none, ``encoding`` where the recipe says nothing of it.
    """

    name: str
    identity: Mapping[str, Any] | None
    codings: tuple[Coding, ...] = ()
    free: frozenset[str] = frozenset()

    @property
    def is_teacher(self) -> bool:
        """Whether it is what a teacher says, and no tensor of the samples."""
        return self.name.startswith(f"{TEACHERS}/")

    @property
    def key(self) -> str:
        """What the recipe calls the teacher or the tensor."""
        return self.name.partition("/")[2]

    def layer_of(self, cache: Cache) -> str | None:
        """The layer of a cache that holds this, whatever it is called there; None where there is none.

        Raises:
            CacheError: The layer of this name holds something else; with the fields that differ.
        """
        named = cache.layers.get(self.name)
        if named is not None and not self._differs(named.manifest.identity):
            return self.name
        if self.identity is not None:
            folder = self.name.partition("/")[0] + "/"
            for name, index in cache.layers.items():
                if name.startswith(folder) and not self._differs(index.manifest.identity):
                    return name
        if named is None:
            return None
        different = "; ".join(self._differs(named.manifest.identity))
        raise CacheError(
            f"the cache in {cache.directory} belongs to something else: in {self.name}, {different}",
            "Name another cache.dir, give this teacher another name ([teachers.<name>]), or make the recipe agree.",
        )

    def _differs(self, found: Mapping[str, Any]) -> Sequence[str]:
        return differences(self._compared(found), self._compared(self.identity or found))

    def _compared(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        compared = {key: value for key, value in identity.items() if key not in self.free}
        if "encoding" in self.free:
            streams = identity["streams"].items()
            compared["streams"] = {name: {**values, "encoding": ""} for name, values in streams}
        return compared


def cache_directory(section: CacheSection, split: str) -> str:
    """Where the cache of one split lies: a path, or a URL."""
    if "://" in section.dir:
        return f"{section.dir.rstrip('/')}/{split}"
    return str(Path(section.dir).expanduser() / split)


def clip_of(recipe: Recipe, split: str) -> ClipSpec | None:
    """How clips are cut: as the recipe says, and for other splits than its own as for evaluation, without chance."""
    if recipe.clip is None or split == recipe.dataset.config.split:
        return recipe.clip
    return recipe.clip.for_evaluation()


def num_views(clip: ClipSpec | None) -> int:
    """Views of each sample; one where no video is cut."""
    return clip.views if clip else 1


def base_identity(recipe: Recipe, *, split: str, clip: ClipSpec | None) -> dict[str, Any]:
    """All that decides the samples of a recipe's cache, in plain values; not which there are, nor how many views.

    Args:
        recipe: A valid recipe.
        split: Which part of the data set.
        clip: How its videos become clips.
    """
    dataset = recipe.dataset
    about = dataset.config.identity(recipe.inputs(clip))
    return json.loads(json.dumps({"dataset": {"use": dataset.use, "split": split, **about}}))


def teacher_layer(recipe: Recipe, section: CacheSection | None, teaching: Teaching, clip: ClipSpec | None) -> Wanted:
    """The layer of one of a recipe's teachers.

    Args:
        recipe: A valid recipe.
        section: How streams are stored; None where that does not matter.
        teaching: The teacher.
        clip: The clips that it sees.

    Raises:
        MissingArtifact: Its weights are not on this machine.
    """
    selected, inputs = teaching.teacher, recipe.inputs(clip)
    identity = identify(selected.use, selected.config, inputs, selected.provided.component.build)
    specs = selected.config.streams(inputs)
    codings = tuple(_coding(section, teaching.name, name, spec) for name, spec in specs.items())
    precision = selected.config.precision()
    free = {*(() if precision else ("precision",)), *(() if section else ("encoding",))}
    fields = {
        "teacher": {**identity.fields, "fingerprint": identity.fingerprint},
        **_initial_weights(recipe, teaching, inputs),
        "precision": precision,
        "streams": {c.name: {**c.as_dict(), **_grid(specs[c.name])} for c in codings},
    }
    return Wanted(f"{TEACHERS}/{teaching.name}", json.loads(json.dumps(fields)), codings, frozenset(free))


def _coding(section: CacheSection | None, teacher: str, name: str, spec: StreamSpec) -> Coding:
    """As the recipe says of the stream, of the teacher, as the teacher says, or as the recipe says of all."""
    if section is None:
        return Coding.of(name, spec.dtype, spec.shape, spec.encoding)
    dtypes: Mapping[str, Encoding] = section.dtypes
    encoding = dtypes.get(f"{teacher}.{name}") or dtypes.get(teacher) or spec.encoding or section.dtype
    return Coding.of(name, spec.dtype, spec.shape, encoding)


def _grid(spec: StreamSpec) -> dict[str, Any]:
    if spec.grid is None:
        return {}
    return {"grid": [spec.grid.frames, spec.grid.rows, spec.grid.columns], "prefix": spec.prefix}


def _initial_weights(recipe: Recipe, teaching: Teaching, inputs: Inputs) -> dict[str, int]:
    """The seed of a teacher whose weights are in no file, unless it is known to have none."""
    if teaching.teacher.config.weight_files():
        return {}
    cost = teaching.teacher.config.cost(inputs)
    if cost is not None and not cost.parameters:
        return {}
    return {"seed": seed_for(recipe.run.seed, "weights", teaching.key)}


def forgiving_layer(recipe: Recipe, section: CacheSection | None, teaching: Teaching, clip: ClipSpec | None) -> Wanted:
    """The same; a teacher whose weights are not here is compared with nothing: a cache that was copied can be used."""
    try:
        return teacher_layer(recipe, section, teaching, clip)
    except MissingArtifact:
        return Wanted(f"{TEACHERS}/{teaching.name}", None)


def sample_layer(name: str, spec: StreamSpec) -> Wanted:
    """The layer of one of the samples' tensors, kept as it is."""
    coding = Coding(name, spec.dtype, spec.shape)
    return Wanted(f"{SAMPLES}/{name}", {"streams": {name: coding.as_dict()}}, (coding,))


def kept_tensors(recipe: Recipe, clip: ClipSpec | None) -> tuple[str, ...]:
    """Names of the samples' tensors that a recipe's cache keeps as they are.

    Without ``cache.keep``: what the method reads, but no clips, which are large.

    Args:
        recipe: A valid recipe with a cache.
        clip: How videos become clips.

    Raises:
        CacheError: The data set gives no such tensor.
    """
    given = recipe.inputs(clip).sample
    if recipe.cache is None or recipe.cache.keep is None:
        return tuple(name for name in reads_of(recipe) if name != CLIP)
    for name in recipe.cache.keep:
        if name not in given:
            raise CacheError(
                f"cache.keep names {name!r}, and samples of this data set have: {', '.join(given)}",
                "Name some of these, or leave cache.keep out.",
            )
    return recipe.cache.keep


def reads_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the samples' tensors that a recipe's method reads; all of them where it does not say."""
    reads = recipe.method.config.reads() if "method" in recipe.components else Reads()
    return tuple(recipe.inputs().sample) if reads is None else reads.sample

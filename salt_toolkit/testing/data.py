"""What datasets, maskers and schedules promise."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from salt_toolkit.context import Inputs
from salt_toolkit.contracts import Dataset, Masker, Sample, Schedule, TableDataset
from salt_toolkit.data.samples import as_tensor, collate, plain_label
from salt_toolkit.geometry import Grid, MaskCounts
from salt_toolkit.testing.base import ComponentContract, expect_stream, promise


class DatasetContract(ComponentContract):
    """The promises of a data set.

    Attributes:
        reads: How many samples to read.
    """

    kind = "dataset"
    reads: int = 8

    @property
    def inputs(self) -> Inputs:
        """Its own samples."""
        return Inputs(self.config.sample_spec(self.clip), self.clip)

    def build(self) -> Dataset:
        """The dataset, newly opened."""
        return self.built(clip=self.clip, seed=0)

    def samples(self, dataset: Dataset, view: int = 0) -> list[Sample]:
        """The first few samples, one after another."""
        return [dataset.read(index, view) for index in range(min(self.reads, len(dataset.clip_ids)))]

    def test_nothing_is_missing(self) -> None:
        """The files that this test reads are there, and the config agrees."""
        missing = [str(artifact) for artifact in self.config.missing()]
        promise(not missing, f"the data of this test is there, but missing() says: {'; '.join(missing)}")

    def test_clip_ids_are_unique_and_stable(self) -> None:
        """Masks, views and caches are keyed by them."""
        clip_ids = list(self.build().clip_ids)
        promise(len(clip_ids) > 0, "the test needs a dataset with at least one sample")
        promise(len(set(clip_ids)) == len(clip_ids), "clip ids are unique within a dataset")
        promise(clip_ids == list(self.build().clip_ids), "clip ids come in the same order every time")
        counted = self.config.num_clips()
        promise(
            counted in (None, len(clip_ids)), f"num_clips() is {counted}, and the dataset has {len(clip_ids)} samples"
        )

    def test_samples_are_as_the_config_says(self) -> None:
        """Names, shapes and types of the tensors, the label and the caption."""
        dataset, expected = self.build(), self.config.sample_spec(self.clip)
        for index, sample in enumerate(self.samples(dataset)):
            promise(sample.clip_id == dataset.clip_ids[index], "a sample carries the clip id of its index")
            found = ", ".join(sample.tensors) or "none"
            promise(
                sample.tensors.keys() == expected.keys(),
                f"sample_spec() promises the tensors {', '.join(expected)}; found {found}",
            )
            for name, stream in expected.items():
                expect_stream(sample.tensors[name].unsqueeze(0), stream, 1, f"a sample's {name!r}")
            self._expect_label(sample, dataset)
            said = sample.caption
            promise(said is None or isinstance(said, str), f"a caption is a string, or None; found {said!r}")

    def _expect_label(self, sample: Sample, dataset: Dataset) -> None:
        label, spec, num_classes = sample.label, self.config.label_spec(), len(dataset.class_names)
        if spec is not None:
            promise(label is not None, f"label_spec() promises a label, and {sample.clip_id!r} has none")
            assert label is not None
            expect_stream(as_tensor(label).unsqueeze(0), spec, 1, "a sample's label")
        if isinstance(label, int):
            promise(0 <= label < num_classes, f"label {label} is the number of one of {num_classes} class_names")

    def test_many_samples_at_once_are_the_same(self) -> None:
        """Where there is a `read_many`, it gives what `read` gives, in the order of the indices."""
        dataset = self.build()
        if not isinstance(dataset, TableDataset):
            return
        order = list(range(min(self.reads, len(dataset.clip_ids))))[::-1]
        found, expected = dataset.read_many(order, 0), collate([dataset.read(index, 0) for index in order])
        for part in ("clip_ids", "captions"):
            one, other = getattr(found, part), getattr(expected, part)
            promise(one == other, f"read_many() gives the {part} that read() gives, {other}; found {one}")
        promise(found.tensors.keys() == expected.tensors.keys(), "read_many() gives the tensors that read() gives")
        tensors = {name: (found.tensors[name], tensor) for name, tensor in expected.tensors.items()}
        for name, (one, other) in {**tensors, "labels": (found.labels, expected.labels)}.items():
            same = (
                one is other if one is None or other is None else one.dtype == other.dtype and torch.equal(one, other)
            )
            promise(same, f"read_many() gives the {name} that read() gives")

    def test_a_view_is_a_pure_function(self) -> None:
        """Of seed, view and clip id: not of the process, the thread, or what was read before."""
        dataset = self.build()
        for view in range(min(2, self.clip.views if self.clip else 1)):
            expected = self.samples(dataset, view)
            backwards = list(reversed(range(len(expected))))
            with ThreadPoolExecutor(4) as pool:
                read = list(pool.map(dataset.read, backwards, [view] * len(backwards)))
            again = self.samples(self.build(), view)
            for first, threaded, second in zip(expected, reversed(read), again, strict=True):
                same = all(_equal(first, other) for other in (threaded, second))
                promise(same, f"{first.clip_id!r}, view {view}, is the same bytes from any thread and in any order")


class MaskerContract(ComponentContract):
    """The promises of a masker.

    Attributes:
        grid: The tokens to choose from.
        draws: How often to draw before every position must have been a target, and visible.
        ratio: A share of hidden tokens, as a schedule would give it.
    """

    kind = "masker"
    grid: Grid = Grid(4, 6, 6)
    draws: int = 500
    ratio: float = 0.5

    def build(self) -> Masker:
        """The masker."""
        return self.component.build(self.config, grid=self.grid)

    def circumstances(self) -> dict[str, Any]:
        """With the grid, and a scheduled ratio."""
        return {**super().circumstances(), "grid": asdict(self.grid), "ratio": self.ratio}

    def test_masks_are_well_formed(self) -> None:
        """Disjoint, ascending, in range, int64, and as many as `counts` says; for scheduled ratios too."""
        masker = self.build()
        for ratio in (None, self.ratio):
            counts = self.config.counts(self.grid, ratio)
            promise(masker.counts(ratio) == counts, f"counts({ratio}) is the config's answer, {counts}")
            for seed in range(20):
                visible, target = masker.draw(np.random.default_rng(seed), ratio)
                drawn = MaskCounts(len(visible), len(target))
                promise(drawn == counts, f"every draw gives {counts}, found {drawn}")
                for name, indices in (("visible", visible), ("target", target)):
                    promise(indices.dtype == np.int64, f"{name} is int64, found {indices.dtype}")
                    promise(bool((np.diff(indices) > 0).all()), f"{name} ascends, and names no token twice")
                    in_range = len(indices) > 0 and indices[0] >= 0 and indices[-1] < self.grid.num_tokens
                    promise(in_range, f"{name} names at least one of {self.grid.num_tokens} tokens, and no other")
                promise(not np.intersect1d(visible, target).size, "no token is both visible and a target")

    def test_the_generator_is_the_only_source_of_chance(self) -> None:
        """The same generator gives the same mask, whatever was drawn before; another gives another."""
        masker = self.build()
        masks = [masker.draw(np.random.default_rng(seed)) for seed in (7, 8, 7)]
        same = all(np.array_equal(first, third) for first, third in zip(masks[0], masks[2], strict=True))
        promise(same, "a generator of the same seed gives the same mask")

    def test_every_position_can_be_target_and_visible(self) -> None:
        """Over many draws; cutting a mask down to its size in grid order would never hide the last tokens."""
        masker, generator = self.build(), np.random.default_rng(0)
        seen, hidden = np.zeros((2, self.grid.num_tokens), dtype=np.int64)
        for _ in range(self.draws):
            visible, target = masker.draw(generator)
            seen[visible] += 1
            hidden[target] += 1
        for name, times in (("a target", hidden), ("visible", seen)):
            never = np.flatnonzero(times == 0).tolist()
            promise(not never, f"every position is {name} at some time; in {self.draws} draws never: {never[:10]}")


class ScheduleContract(ComponentContract):
    """The promises of a schedule.

    Attributes:
        total_steps: The length of the run.
    """

    kind = "schedule"
    total_steps: int = 100

    def build(self) -> Schedule:
        """The schedule of a run."""
        return self.component.build(self.config, total_steps=self.total_steps)

    def circumstances(self) -> dict[str, Any]:
        """With the length of the run, and steps at which `salt check` looks at the schedule."""
        steps = [0, self.total_steps // 2, self.total_steps - 1]
        return {**super().circumstances(), "total_steps": self.total_steps, "steps": steps}

    def test_values_are_finite(self) -> None:
        """From step 0 to total_steps, both counted."""
        schedule = self.build()
        wrong = [step for step in range(self.total_steps + 1) if not math.isfinite(schedule(step))]
        promise(not wrong, f"a schedule is finite for 0 <= step <= {self.total_steps}; not at {wrong[:10]}")

    def test_a_value_depends_on_the_step_alone(self) -> None:
        """A resumed run asks from the middle."""
        steps, schedule = range(self.total_steps + 1), self.build()
        forwards = [schedule(step) for step in steps]
        backwards = [schedule(step) for step in reversed(steps)]
        promise(forwards == backwards[::-1], "a schedule is a pure function of the step, in any order of calls")
        promise(forwards == [self.build()(step) for step in steps], "a newly built schedule gives the same values")


def _equal(first: Sample, second: Sample) -> bool:
    facts = [(each.clip_id, plain_label(each.label), each.caption) for each in (first, second)]
    if facts[0] != facts[1]:
        return False
    if first.tensors.keys() != second.tensors.keys():
        return False
    return all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)

"""Order, loading ahead, and bad clips: the same batches whatever the machine does."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salt_toolkit.contracts import Sample
from salt_toolkit.data.loading import BatchLoader
from salt_toolkit.data.memory import BatchMemory, RamCache
from salt_toolkit.data.order import ClipOrder
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.reader import ClipReader
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip, DataError


class Numbers:
    """A dataset whose clip i is the number i; the ``bad`` ones cannot be read."""

    class_names = ()

    def __init__(self, num_clips, bad=(), delay=0.0):
        self.clip_ids = [f"clip{i}" for i in range(num_clips)]
        self.bad = set(bad)
        self.delay = delay
        self.reads = []

    def read(self, index, view):
        self.reads.append((index, view))
        if self.delay:
            time.sleep(self.delay * (index % 3))
        if index in self.bad:
            raise BadClip(f"/data/{index}.mp4", "is not a video")
        return Sample(f"clip{index}", {"clip": torch.tensor([index, view])}, label=index % 2)


def load(dataset, *, batch_size=4, start=0, end=None, workers=3, file=None, max_fraction=0.5, views=1, prefetch=2):
    order = ClipOrder(len(dataset.clip_ids), batch_size, seed=7)
    quarantine = Quarantine(file, num_clips=len(dataset.clip_ids), max_fraction=max_fraction)
    reader = ClipReader(dataset, quarantine, views=views, seed=7)
    end = order.batches_per_epoch if end is None else end
    loader = BatchLoader(
        reader, order, start=start, end=end, workers=workers, prefetch=prefetch, prepare=lambda batch, place: batch
    )
    with loader as batches:
        return [(batch.clip_ids, batch.tensors["clip"][:, 1].tolist()) for batch in batches]


@given(st.integers(1, 60), st.integers(1, 10), st.integers(0, 5))
def test_an_epoch_holds_every_clip_at_most_once_and_epochs_differ(num_clips, batch_size, seed):
    if num_clips < batch_size:
        with pytest.raises(DataError, match="fewer than one batch"):
            ClipOrder(num_clips, batch_size, seed)
        return
    order = ClipOrder(num_clips, batch_size, seed)
    per_epoch = order.batches_per_epoch
    places = list(order.batches(0, 2 * per_epoch))
    first = [index for place in places[:per_epoch] for index in place.indices]
    assert len(first) == len(set(first)) == per_epoch * batch_size
    assert set(first) <= set(range(num_clips))
    assert [place.epoch for place in places] == [0] * per_epoch + [1] * per_epoch


@given(st.integers(0, 30))
def test_starting_in_the_middle_gives_the_same_batches(start):
    order = ClipOrder(50, 4, seed=3)
    assert list(order.batches(0, 40))[start:] == list(order.batches(start, 40))


def test_batches_do_not_depend_on_threads_or_timing():
    expected = load(Numbers(40), workers=1, prefetch=1)
    assert load(Numbers(40, delay=0.002), workers=7, prefetch=3) == expected
    assert load(Numbers(40), start=4) == expected[4:]


def test_views_follow_the_epoch():
    batches = load(Numbers(8), end=6, views=2)
    assert [set(views) for _, views in batches] == [{0}, {0}, {1}, {1}, {0}, {0}]


def test_a_bad_clip_is_recorded_and_replaced_the_same_way_every_time(tmp_path):
    book = tmp_path / "bad_clips.jsonl"
    bad = {3, 11, 12}
    first = load(Numbers(40, bad), file=book, workers=5, end=30)
    assert all(f"clip{index}" not in ids for ids, _ in first for index in bad)
    entries = [json.loads(line) for line in book.read_text().splitlines()]
    assert {entry["clip_id"] for entry in entries} == {f"clip{index}" for index in bad}
    assert len(entries) == len(bad)
    assert entries[0]["reason"] == "is not a video"
    assert entries[0]["path"].endswith(".mp4")
    # A resumed run has the book already, and reads none of the bad clips again.
    again = Numbers(40, bad)
    assert load(again, file=book, workers=1, start=13, end=30) == first[13:]
    assert not bad & {index for index, _ in again.reads}


@pytest.mark.parametrize("line", ["5", "[]", '"clip3"', "null", '{"clip": "clip3"}', '{"clip_id": 3, "reason": "x"}'])
def test_a_foreign_line_in_the_book_is_named(tmp_path, line):
    book = tmp_path / "bad_clips.jsonl"
    book.write_text('{"clip_id": "clip1", "path": "1.mp4", "reason": "x"}\n\n' + line + '\n{"clip_id": "cut sho')
    with pytest.raises(DataError) as told:
        load(Numbers(8), file=book)
    assert str(told.value).startswith(f"{book}:3: expected") and line in str(told.value)
    book.write_text(book.read_text().replace(f"{line}\n", ""))
    assert all("clip1" not in ids for ids, _ in load(Numbers(8), file=book))


def test_a_book_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} cannot be read"):
        Quarantine(tmp_path, num_clips=8, max_fraction=1.0)


def test_a_name_whose_bytes_are_no_text_is_recorded_and_found_again(tmp_path):
    book, name = tmp_path / "bad_clips.jsonl", os.fsdecode(b"c/\xff\xe4 \xc3\xbc.mp4")
    Quarantine(book, num_clips=8, max_fraction=1.0).record(name, BadClip(name, "is not a video"))
    assert Quarantine(book, num_clips=8, max_fraction=1.0).reasons == {name: "is not a video"}


def test_a_clip_that_two_threads_find_bad_is_entered_and_counted_once(tmp_path):
    book = tmp_path / "bad_clips.jsonl"
    quarantine = Quarantine(book, num_clips=8, max_fraction=0.125)
    for _ in range(3):
        quarantine.record("clip1", BadClip("1.mp4", "is not a video"))
    assert quarantine.num_found == 1 and len(book.read_text().splitlines()) == 1


def test_too_many_bad_clips_stop_the_run_with_the_last_reason():
    with pytest.raises(DataError, match=r"bad clips, .* loader.max_bad_fraction = 0.1 .*is not a video"):
        load(Numbers(40, range(20)), max_fraction=0.1)


def refusal(quarantine, *bad):
    """What a quarantine says of the clip that is one too many."""
    with pytest.raises(DataError) as told:
        for number, clip in enumerate(bad):
            quarantine.record(f"clip{number}", clip)
    return str(told.value)


def test_the_advice_fits_what_is_wrong_with_the_clips(tmp_path):
    short = BadClip("a.mp4", "it is too short", "Lower clip.frames.")
    broken = BadClip("b.mp4", "is not a video")
    book = tmp_path / "bad_clips.jsonl"
    told = refusal(Quarantine(book, num_clips=48, max_fraction=0.01), short)
    assert told.startswith("1 bad clip, of 48 in the data set (0 read), is more than")
    assert told.endswith(f"It is listed in {book}. Lower clip.frames. Or raise loader.max_bad_fraction.")
    told = refusal(Quarantine(None, num_clips=48, max_fraction=0.03), broken, broken)
    assert told.startswith("2 bad clips, of 48 in the data set (0 read), are more than")
    assert told.endswith("(the last one: b.mp4: is not a video). Fix the files, or raise loader.max_bad_fraction.")
    told = refusal(Quarantine(None, num_clips=48, max_fraction=0.03), broken, short)
    assert told.endswith("Lower clip.frames. Fix the files, or raise loader.max_bad_fraction.")
    with pytest.raises(DataError, match=r"delete the lines of clips that you have fixed\. Fix the files, or raise"):
        Quarantine(book, num_clips=48, max_fraction=0.01)


@pytest.mark.parametrize("odd", [torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)])
def test_samples_that_differ_in_shape_or_type_are_refused(odd):
    memory = BatchMemory(2, pin=False)
    memory.rows(0, {"clip": torch.zeros(2, dtype=torch.int64)})
    with pytest.raises(DataError, match="'clip'"):
        memory.rows(1, {"clip": odd})


def test_many_good_clips_do_not_hide_a_bad_neighbourhood():
    quarantine = Quarantine(None, num_clips=10**6, max_fraction=0.01)
    for _ in range(300):
        quarantine.count_read()
    quarantine.record("a", BadClip("a", "x"))
    with pytest.raises(DataError):
        for number in range(10):
            quarantine.record(f"b{number}", BadClip("b", "x"))


def test_no_readable_clip_is_an_error_and_not_an_endless_loop():
    with pytest.raises(DataError) as told:
        load(Numbers(8, range(8)), max_fraction=1.0)
    reasons = "clip0: is not a video; clip1: is not a video; and 6 more"
    assert str(told.value) == f"none of the dataset's 8 clips can be read ({reasons})"


def test_a_crash_in_a_reading_thread_reaches_the_consumer():
    dataset = Numbers(8)
    dataset.read = lambda index, view: 1 / 0
    with pytest.raises(DataError, match=r"'clip\d' failed in salt-read_\d, .*: ZeroDivisionError") as told:
        load(dataset)
    assert isinstance(told.value.__cause__, ZeroDivisionError)


def test_leaving_early_leaves_no_thread_behind():
    before = threading.active_count()
    order = ClipOrder(400, 4, seed=0)
    reader = ClipReader(Numbers(400, delay=0.001), Quarantine(None, num_clips=400, max_fraction=0.0), views=1, seed=0)
    with BatchLoader(
        reader, order, start=0, end=90, workers=4, prefetch=2, prepare=lambda batch, place: batch
    ) as batches:
        next(iter(batches))
    assert threading.active_count() == before


def test_the_memory_cache_keeps_what_fits_and_gives_the_same():
    dataset = Numbers(10)
    cache = RamCache(dataset, budget=3 * 16)
    first = [cache.read(index, 0).tensors["clip"].tolist() for index in range(10)]
    second = [cache.read(index, 0).tensors["clip"].tolist() for index in range(10)]
    assert first == second
    assert len(dataset.reads) == 10 + 7


class Vectors(Numbers):
    """The same samples with vector labels, captions and a single number."""

    def read(self, index, view):
        sample = super().read(index, view)
        tensors = {**sample.tensors, "scalar": torch.tensor(float(index))}
        return replace(sample, tensors=tensors, label=torch.tensor([index, 0.5]), caption=f"number {index}")


class Table(Vectors):
    """The same again; several are read in one call."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = []

    def read_many(self, indices, view):
        self.calls.append(tuple(indices))
        batch = collate([self.read(index, view) for index in indices])
        self.reads.clear()
        return batch


def loaded(dataset, **settings):
    """What a batch holds, for every batch."""
    order = ClipOrder(len(dataset.clip_ids), 4, seed=7)
    quarantine = Quarantine(None, num_clips=len(dataset.clip_ids), max_fraction=0.5)
    reader = ClipReader(dataset, quarantine, views=2, seed=7, **settings)
    with BatchLoader(
        reader, order, start=0, end=8, workers=2, prefetch=2, prepare=lambda batch, place: batch
    ) as batches:
        return [
            (batch.clip_ids, {n: t.tolist() for n, t in batch.tensors.items()}, batch.labels.tolist(), batch.captions)
            for batch in batches
        ]


@pytest.mark.parametrize("bad", [(), (3, 4)])
def test_a_table_is_read_a_batch_at_a_time_and_gives_what_single_reads_give(bad):
    table = Table(16, bad=bad)
    found = loaded(table)
    assert found == loaded(Vectors(16, bad=bad))
    clip_ids, tensors, labels, captions = found[5]
    numbers = [row[0] for row in tensors["clip"]]
    assert clip_ids == tuple(f"clip{number}" for number in numbers) and tensors["scalar"] == numbers
    assert labels == [[number, 0.5] for number in numbers]
    assert captions == tuple(f"number {number}" for number in numbers)
    if not bad:
        assert [len(call) for call in table.calls] == [4] * 8 and table.reads == []


def test_tensors_that_nobody_reads_are_left_out():
    assert all(set(tensors) == {"scalar"} for _, tensors, _, _ in loaded(Table(16), wanted=frozenset(["scalar"])))
    assert all(
        set(tensors) == {"scalar"} for _, tensors, _, _ in loaded(Table(16, bad=(1,)), wanted=frozenset(["scalar"]))
    )


def test_labels_are_class_numbers_or_numbers_to_regress_and_of_one_kind():
    def labels(*values):
        return collate([Sample(str(value), {}, label=value) for value in values]).labels

    assert (labels(3, 1).dtype, labels(3, 1).tolist()) == (torch.int64, [3, 1])
    assert (labels(0.5, 2.0).dtype, labels(0.5, 2.0).tolist()) == (torch.float32, [0.5, 2.0])
    assert labels(torch.ones(2), torch.zeros(2)).shape == (2, 2)
    assert labels(1, None) is None
    with pytest.raises(DataError, match=r"the label of 'tensor.*' is torch.float32 of shape \(3,\), and that of"):
        labels(torch.ones(2), torch.zeros(3))

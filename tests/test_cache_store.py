"""The cache's shards: whole or not there, readable by anybody, and every flipped bit found."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from salt_toolkit.errors import CacheError
from salt_toolkit.store.base import Base, claim_base
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.layer import RowReader
from salt_toolkit.store.local import LocalStore
from salt_toolkit.store.maintain import merge, repair, verify
from salt_toolkit.store.manifest import BASE, LAYER, PARTS, Manifest, claim, differences, read_manifest
from salt_toolkit.store.manifest import shard_path as shard_of
from salt_toolkit.store.remote import RemoteStore
from salt_toolkit.store.row import BadRow, Row
from salt_toolkit.store.shard import ShardFile, Stream
from salt_toolkit.store.shard_writer import ShardBusy, ShardWriter

STREAMS = (Stream("latents.teacher", "F32", (3, 4)), Stream("clip", "U8", (2, 5)))
IDENTITY = {"clip": {"stride": 2}, "seed": 0}
NAME = "teachers/teacher"
NUMBERS = [view * PARTS + part for view in range(2) for part in range(3)]
"""Of the shards of ten clips in two views, four clips a shard."""


def base_of(num_clips=10, views=2, **identity):
    return Base({**IDENTITY, **identity}, tuple(f"clip {place}" for place in range(num_clips)), views)


def manifest_of(base=None, clips_per_shard=4, fingerprint="0" * 16, **more):
    identity = {"teacher": {"fingerprint": fingerprint}, "streams": {}}
    return Manifest((base or base_of()).fingerprint, identity, STREAMS, clips_per_shard, **more)


def shard_path(cache, number):
    return shard_of(cache / NAME, number)


def layer_of(cache, **options):
    return Cache.open(cache, **options).layers[NAME]


def arrays_of(index, view):
    generator = np.random.default_rng([index, view])
    return [
        generator.standard_normal((3, 4)).astype(np.float32),
        generator.integers(0, 256, (2, 5)).astype(np.uint8),
    ]


def write_shard(cache, manifest, number, *, num_clips=10, skip=(), bad=(), arrays_of=arrays_of):
    view, places = manifest.places(number, num_clips)
    with ShardWriter(shard_path(cache, number), manifest.streams, [f"clip {i}" for i in places]) as writer:
        for index in places:
            if index in bad:
                writer.add_bad(BadRow(f"clip {index}", view, index, "is not a video"))
            elif index not in skip:
                caption = None if index % 2 else 'ein Tür/"x"'
                row = Row(f"clip {index}", view, index, "abc"[index % 3], caption, (100 + index, "f" * 32))
                writer.add(row, arrays_of(index, view))
        writer.commit(manifest.fingerprint, number, {"latents": {"mean": "AAAA"}})


def make_cache(directory, numbers=NUMBERS, *, base=None, manifest=None, **how):
    base = claim_base(directory, base or base_of())
    manifest = claim(directory / NAME, manifest or manifest_of(base))
    for number in numbers:
        write_shard(directory, manifest, number, num_clips=len(base.ids), **how)
    return directory


@pytest.fixture
def cache(tmp_path):
    """A complete cache of ten clips in two views; clip 7 is bad."""
    return make_cache(tmp_path / "cache", bad={7})


def test_every_clip_comes_back_bit_for_bit(cache):
    index = layer_of(cache)
    assert Cache.open(cache).complete
    assert len(index) == 18
    assert [(bad.clip_id, bad.view, bad.index) for bad in index.bad()] == [("clip 7", 0, 7), ("clip 7", 1, 7)]
    reader = RowReader(index)
    for clip, view in ((9, 1), (0, 0), (4, 1), (4, 0)):
        latents, frames = np.empty((3, 4), np.float32), np.empty((2, 5), np.uint8)
        row = reader.read_into(f"clip {clip}", view, {"latents.teacher": latents, "clip": frames})
        expected = arrays_of(clip, view)
        np.testing.assert_array_equal(latents, expected[0])
        np.testing.assert_array_equal(frames, expected[1])
        assert (row.index, row.label, row.caption) == (clip, "abc"[clip % 3], None if clip % 2 else 'ein Tür/"x"')
        assert row.source == (100 + clip, "f" * 32)
    reader.close()


def test_another_library_reads_a_shard(cache):
    stored = load_file(shard_path(cache, 0))
    assert stored["latents.teacher"].shape == (4, 3, 4)
    for row in range(4):
        np.testing.assert_array_equal(stored["latents.teacher"][row], arrays_of(row, 0)[0])
        np.testing.assert_array_equal(stored["clip"][row], arrays_of(row, 0)[1])
    raw = shard_path(cache, 0).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert (8 + length) % 4096 == 0
    salt = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["salt"])
    assert salt["ids"] == [f"clip {i}" for i in range(4)]
    assert salt["crc32"][1][:8] == f"{zlib.crc32(arrays_of(0, 0)[1].tobytes()):08x}"


@settings(deadline=None, max_examples=40)
@given(
    ids=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6, unique=True),
    planned=st.integers(0, 4),
    caption=st.one_of(st.none(), st.text(max_size=9000)),
    shape=st.lists(st.integers(1, 4), max_size=3),
)
def test_any_ids_captions_and_shapes_survive(tmp_path_factory, ids, planned, caption, shape):
    """Also where fewer clips come than were planned, and where the header outgrows its room."""
    path = tmp_path_factory.mktemp("shard") / "00000000.safetensors"
    streams = (Stream("a", "I64", tuple(shape)), Stream("b", "U8", (7,)))
    values = [np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) + n for n in range(len(ids))]
    with ShardWriter(path, streams, [*ids, *("x" * 40 for _ in range(planned))]) as writer:
        for place, clip_id in enumerate(ids):
            writer.add(Row(clip_id, 0, place, caption=caption), [values[place], np.full(7, place, np.uint8)])
        writer.commit("f" * 16, 0, {})
    shard = ShardFile(path)
    assert [row.clip_id for row in shard.header.rows] == ids
    assert all(row.caption == caption for row in shard.header.rows)
    stored = load_file(path)
    np.testing.assert_array_equal(stored["a"], np.stack(values))
    np.testing.assert_array_equal(stored["b"][:, 0], np.arange(len(ids)))


def test_every_flipped_bit_is_found(cache):
    """1,000 random bits of a shard, one at a time; reading the clip finds it too, or the opening does."""
    path = shard_path(cache, 1)
    original = path.read_bytes()
    generator = random.Random(0)
    for _ in range(1000):
        place, bit = generator.randrange(len(original)), generator.randrange(8)
        damaged = bytearray(original)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        assert not verify(cache).sound, f"bit {bit} of byte {place}"
    path.write_bytes(original)
    assert verify(cache).sound


def test_reading_a_damaged_row_is_an_error_with_clip_and_shard(cache):
    path = shard_path(cache, 0)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # of the last clip's frames
    path.write_bytes(raw)
    reader = RowReader(layer_of(cache))
    reader.read_into("clip 2", 0, {"clip": np.empty((2, 5), np.uint8)})
    with pytest.raises(CacheError, match=r"00000000.safetensors is damaged: clip of 'clip 3' .*salt cache repair"):
        reader.read_into("clip 3", 0, {"clip": np.empty((2, 5), np.uint8)})


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 4095, 4096, 4100, -1])
def test_a_truncated_shard_is_found_when_the_cache_is_opened(cache, keep):
    path = shard_path(cache, 2)
    raw = path.read_bytes()
    path.write_bytes(raw[:keep])
    with pytest.raises(CacheError, match=r"00000002.safetensors .*salt cache repair"):
        layer_of(cache)


def test_repair_drops_what_is_torn_and_nothing_else(cache):
    first, second = shard_path(cache, 0), shard_path(cache, 1)
    raw = bytearray(first.read_bytes())
    raw[-1] ^= 1
    first.write_bytes(raw)
    second.write_bytes(second.read_bytes()[:-3])
    found = repair(cache)
    assert [row.clip_id for row in found.damaged_rows] == ["clip 3"]
    assert list(found.damaged_shards) == [(NAME, 1)]
    index = layer_of(cache)
    assert index.unfinished() == [0, 1]
    assert [row.clip_id for row in index.shards[0].header.rows] == ["clip 0", "clip 1", "clip 2"]
    assert verify(cache).sound


def test_numbers_that_are_not_finite_are_found(cache):
    manifest = read_manifest(cache / NAME)
    number = 0
    with ShardWriter(shard_path(cache, number), manifest.streams, ["a"]) as writer:
        writer.add(Row("clip 0", 0, 0), [np.full((3, 4), np.nan, np.float32), np.zeros((2, 5), np.uint8)])
        writer.commit(manifest.fingerprint, number, {})
    assert [row.reason for row in verify(cache).damaged_rows] == ["latents.teacher holds numbers that are not finite"]


# Writers.


def test_what_is_not_committed_is_not_there(tmp_path):
    path = tmp_path / "00000000.safetensors"
    with ShardWriter(path, STREAMS, ["a"]) as writer:
        writer.add(Row("a", 0, 0), arrays_of(0, 0))
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_never_make_one_shard(tmp_path):
    path = tmp_path / "00000000.safetensors"
    with ShardWriter(path, STREAMS, ["a"]) as writer:
        writer.add(Row("a", 0, 0), arrays_of(0, 0))
        with pytest.raises(ShardBusy):
            ShardWriter(path, STREAMS, ["a"])
        writer.commit("f" * 16, 0, {})
    assert len(ShardFile(path).header.rows) == 1


def test_a_killed_writers_leftover_is_taken_over(tmp_path):
    script = (
        "import os, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from salt_toolkit.store.shard import Row, Stream\n"
        "from salt_toolkit.store.shard_writer import ShardWriter\n"
        "writer = ShardWriter(Path(sys.argv[1]), (Stream('a', 'U8', (9,)),), ['a', 'b'])\n"
        "writer.add(Row('a', 0, 0), [np.ones(9, np.uint8)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "00000000.safetensors"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert [entry.name for entry in tmp_path.iterdir()] == [".00000000.safetensors.partial"]
    with ShardWriter(path, (Stream("a", "U8", (9,)),), ["a"]) as writer:
        writer.add(Row("a", 0, 0), [np.ones(9, np.uint8)])
        writer.commit("f" * 16, 0, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_disk_without_room_says_so_before_anything_is_computed(tmp_path):
    """A limit on the size of files stands for the disk; the kernel refuses in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CacheError, match=r"cannot be written .*Finished shards are safe"):
            ShardWriter(tmp_path / "00000000.safetensors", (Stream("a", "U8", (1 << 19,)),), ["a", "b", "c"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_row_of_another_shape_is_refused(tmp_path):
    with (
        ShardWriter(tmp_path / "s", STREAMS, ["a"]) as writer,
        pytest.raises(CacheError, match="clip of a has 4 bytes"),
    ):
        writer.add(Row("a", 0, 0), [np.zeros((3, 4), np.float32), np.zeros(4, np.uint8)])


# Object stores.


@pytest.fixture
def remote(cache, monkeypatch, tmp_path):
    """The cache in fsspec's memory file system, and an empty folder for what is kept here."""
    files = fsspec.filesystem("memory")
    files.put(str(cache), "/bucket/train", recursive=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield files
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize(("local_gb", "kept"), [(1.0, 6), (0.0, 0), (1e-4, 4)])
def test_a_cache_in_an_object_store_gives_the_same_rows(remote, tmp_path, local_gb, kept):
    for _ in range(2):  # the second time with what the first has kept
        index = layer_of("memory://bucket/train", local_gb=local_gb)
        assert not index.unfinished()
        reader = RowReader(index)
        for row in (row for _, _, row in index.rows()):
            latents = np.empty((3, 4), np.float32)
            reader.read_into(row.clip_id, row.view, {"latents.teacher": latents})
            np.testing.assert_array_equal(latents, arrays_of(row.index, row.view)[0])
        reader.close()
        assert len(list((tmp_path / "home").rglob("*.safetensors"))) == kept


def test_what_an_object_store_lacks_is_said_in_a_sentence(remote):
    with pytest.raises(CacheError, match="memory://elsewhere is no latent cache"):
        layer_of("memory://elsewhere")
    with pytest.raises(CacheError, match="nowhere://x cannot be opened"):
        layer_of("nowhere://x")
    raw = bytearray(remote.cat_file("/bucket/train/teachers/teacher/shards/00000001.safetensors"))
    raw[-1] ^= 1
    remote.pipe_file("/bucket/train/teachers/teacher/shards/00000001.safetensors", bytes(raw))
    reader = RowReader(layer_of("memory://bucket/train", local_gb=0.0))
    with pytest.raises(CacheError, match=r"00000001.safetensors is damaged: clip of 'clip 6'"):
        reader.read_into("clip 6", 0, {"clip": np.empty((2, 5), np.uint8)})


URL = "memory://bucket/train"
LAYER_URL = f"{URL}/{NAME}"


def kept_files(tmp_path):
    """Everything that is kept on this machine, finished or not."""
    return sorted(path for path in (tmp_path / "home").rglob("*") if path.is_file())


def changed(index, view):
    """What clips look like once they have changed; of the same shape and size."""
    return [array[::-1].copy() for array in arrays_of(index, view)]


def change_shard(remote, cache, number, **how):
    """Writes a shard of the object store anew."""
    write_shard(cache, read_manifest(cache / NAME), number, **how)
    remote.put_file(str(shard_path(cache, number)), f"/bucket/train/teachers/teacher/shards/{number:08d}.safetensors")


def latents_of(reader, clip, view):
    latents = np.empty((3, 4), np.float32)
    reader.read_into(f"clip {clip}", view, {"latents.teacher": latents})
    return latents


def test_a_failed_download_leaves_no_file_and_takes_no_room(remote, tmp_path, monkeypatch):
    size = remote.size("/bucket/train/teachers/teacher/shards/00000000.safetensors")
    store = RemoteStore(LAYER_URL, local_gb=(size + 0.5) / 1e9)  # for one shard
    store.numbers()

    def breaks_off(self, source, target, **_):
        with open(target, "wb") as file:
            file.write(self.cat_file(source)[: size // 2])
        raise ConnectionResetError("connection reset by peer")

    with monkeypatch.context() as broken:
        broken.setattr(type(remote), "get_file", breaks_off)
        for _ in range(2):
            with pytest.raises(CacheError, match="connection reset by peer"):
                store.local(0)
            assert kept_files(tmp_path) == []
    path = store.local(0)
    assert path.read_bytes() == remote.cat_file("/bucket/train/teachers/teacher/shards/00000000.safetensors")
    assert kept_files(tmp_path) == [path]
    assert store.local(1) is None  # now the room is taken


def test_a_download_that_ends_early_unnoticed_is_not_kept(remote, tmp_path, monkeypatch):
    def ends_early(self, source, target, **_):
        with open(target, "wb") as file:
            file.write(self.cat_file(source)[:-1])

    monkeypatch.setattr(type(remote), "get_file", ends_early)
    store = RemoteStore(LAYER_URL)
    store.numbers()
    with pytest.raises(CacheError, match=r"train/teachers/teacher/shards/00000000.safetensors has \d+ bytes, and"):
        store.local(0)
    assert kept_files(tmp_path) == []


def test_a_stale_copy_of_a_shard_is_neither_used_nor_left(remote, cache, tmp_path):
    """Also one that an earlier version has named otherwise, and one that was torn; all give their room back."""
    gb = (sum(remote.du("/bucket/train/teachers/teacher/shards", total=False).values()) + 0.5) / 1e9

    def read_all():
        index = layer_of(URL, local_gb=gb)
        reader = RowReader(index)
        found = {(row.index, row.view): latents_of(reader, row.index, row.view) for _, _, row in index.rows()}
        reader.close()
        return found

    read_all()
    before = kept_files(tmp_path)
    assert len(before) == 6
    change_shard(remote, cache, 1, bad={7}, arrays_of=changed)
    before[0].rename(before[0].with_name("00000000.safetensors"))
    before[2].write_bytes(before[2].read_bytes()[:-1])
    for (clip, view), latents in read_all().items():
        now = changed if view == 0 and 4 <= clip < 8 else arrays_of
        np.testing.assert_array_equal(latents, now(clip, view)[0])
    after = kept_files(tmp_path)
    assert [path in after for path in before] == [True, False, True, True, True, True]
    for number, path in zip(NUMBERS, after, strict=True):
        assert path.read_bytes() == remote.cat_file(f"/bucket/train/teachers/teacher/shards/{number:08d}.safetensors")
    assert len(after) == 6
    remote.rm_file("/bucket/train/teachers/teacher/shards/01000002.safetensors")
    layer_of(URL, local_gb=gb)
    assert kept_files(tmp_path) == after[:5]


def test_a_shard_that_changes_under_a_reader_is_an_error(remote, cache, tmp_path):
    reader = RowReader(layer_of(URL))
    change_shard(remote, cache, 0, arrays_of=changed)
    with pytest.raises(CacheError, match=r"00000000.safetensors has changed since the cache was opened"):
        latents_of(reader, 0, 0)
    assert kept_files(tmp_path) == []


def test_a_home_that_cannot_be_written_is_said_in_a_sentence(remote, tmp_path):
    (tmp_path / "home").write_text("no directory")
    reader = RowReader(layer_of(URL))
    with pytest.raises(CacheError, match=r"cannot be written \(Not a directory\).* XDG_CACHE_HOME .*local_gb = 0"):
        latents_of(reader, 0, 0)


def test_every_store_reads_the_same_bytes(remote, cache):
    stores = (LocalStore(cache / NAME), RemoteStore(LAYER_URL))
    for number in stores[0].numbers():
        whole = shard_path(cache, number).read_bytes()
        for offset, length in ((0, 8), (5, 100), (len(whole) - 3, 3)):
            assert {store.read(number, offset, length) for store in stores} == {whole[offset : offset + length]}
    shard_path(cache, 0).unlink()
    with pytest.raises(CacheError, match=r"00000000.safetensors cannot be read \(No such file"):
        stores[0].read(0, 0, 8)


# Manifest and index.


def test_a_cache_of_something_else_is_refused_with_the_fields_that_differ(cache):
    with pytest.raises(CacheError, match=r"seed is 0 in the cache, and 1 here"):
        claim_base(cache, base_of(seed=1))
    with pytest.raises(CacheError, match=r'teacher.fingerprint is "0+" in the cache, and "1+"'):
        claim(cache / NAME, manifest_of(fingerprint="1" * 16))


def test_what_decides_or_decodes_a_row_is_in_the_fingerprint():
    manifest = manifest_of(constants={"latents": {"mean": "AAAA"}})
    changes = [
        {"base": "1" * 16},
        {"identity": {}},
        {"streams": STREAMS[:1]},
        {"streams": (replace(STREAMS[0], dtype="I32"), STREAMS[1])},
        {"streams": STREAMS[::-1]},
        {"clips_per_shard": 8},
        {"constants": {"latents": {"mean": "AAAB"}}},
    ]
    others = {replace(manifest, **change).fingerprint for change in changes}
    assert len(others | {manifest.fingerprint}) == len(changes) + 1
    same = replace(manifest, measured={"latents": {"relative_l2": 0.1}}, made_with={"device": "another"})
    assert same.fingerprint == manifest.fingerprint


def test_a_base_grows_at_its_end_and_keeps_what_it_has(tmp_path):
    first = claim_base(tmp_path, Base(IDENTITY, ("b", "d"), 1))
    assert claim_base(tmp_path, Base(IDENTITY, ("d",), 1)) == first
    grown = claim_base(tmp_path, Base(IDENTITY, ("a", "b", "c"), 1))
    assert grown.ids == ("b", "d", "a", "c")
    assert claim_base(tmp_path, Base(IDENTITY, ("a",), 3)).views == 3
    last = claim_base(tmp_path, Base(IDENTITY, ("a",), 2))
    assert (last.ids, last.views, last.fingerprint) == (grown.ids, 3, first.fingerprint)
    assert len(list((tmp_path / "ids").iterdir())) == 3


def test_processes_that_grow_a_base_at_once_agree_on_places(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom salt_toolkit.store.base import Base, claim_base\n"
        "for n in range(20):\n"
        "    ids = (f'own {sys.argv[2]} {n}', f'common {n}')\n"
        "    claim_base(Path(sys.argv[1]), Base({}, ids, 1))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    base = claim_base(tmp_path, Base({}, (), 1))
    assert len(base.ids) == len(set(base.ids)) == 80


def test_labels_go_by_name_and_each_name_is_stored_once(tmp_path):
    path = tmp_path / "00000000.safetensors"
    labels = ["zebra", None, "ant", "zebra", "ant"]
    with ShardWriter(path, (), [str(n) for n in range(5)]) as writer:
        for place, label in enumerate(labels):
            writer.add(Row(str(place), 0, place, label), [])
        writer.commit("f" * 16, 0, {})
    shard = ShardFile(path)
    assert [row.label for row in shard.header.rows] == labels
    assert list(shard.header.classes()) == ["ant", "zebra"]
    assert path.read_bytes().count(b"zebra") == 1


@pytest.mark.parametrize("labels", [[0, 1, None], [0.5, -1.0, 2.0], [[1.0, 2.0], [3.0, 4.0], None]])
def test_labels_without_names_are_numbers(tmp_path, labels):
    path = tmp_path / "00000000.safetensors"
    with ShardWriter(path, (), ["a", "b", "c"]) as writer:
        for place, label in enumerate(labels):
            writer.add(Row(str(place), 0, place, label), [])
        writer.commit("f" * 16, 0, {})
    assert [row.label for row in ShardFile(path).header.rows] == labels


@given(st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.dictionaries(st.text(max_size=2), st.none()))))
def test_equal_identities_do_not_differ(values):
    assert differences(values, json.loads(json.dumps(values))) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "is no"),
        (lambda file: file.write_text("{"), "is damaged"),
        (lambda file: file.write_text("[]"), "is no part of a latent cache"),
        (lambda file: file.write_text(file.read_text().replace('"format": 2', '"format": 1')), "cache format 1"),
        (lambda file: file.write_text(file.read_text().replace('"seed": 0', '"seed": 5')), "changed by hand"),
        (
            lambda file: file.write_text(file.read_text().replace('"clips_per_shard": 4', '"clips_per_shard": 2')),
            "by hand",
        ),
        (lambda file: file.write_text(file.read_text().replace('"clip 3"', '"clip 33"')), "changed by hand"),
    ],
)
@pytest.mark.parametrize("file", [BASE, f"{NAME}/{LAYER}", "ids/000000.json"])
def test_a_cache_that_was_tampered_with_is_refused_in_a_sentence(cache, file, change, message):
    before = (cache / file).read_text()
    change(cache / file)
    if (cache / file).exists() and (cache / file).read_text() == before:
        return  # this file says nothing of that
    if file != BASE and not (cache / file).exists():
        assert not Cache.open(cache).layers or not Cache.open(cache).base.ids
        return
    with pytest.raises(CacheError, match=message):
        Cache.open(cache)


@pytest.mark.parametrize("where", ["directory", "url"])
def test_the_folder_above_caches_names_those_in_it(cache, where):
    (cache.parent / "validation").mkdir()
    (cache.parent / "validation" / BASE).write_bytes((cache / BASE).read_bytes())
    (cache.parent / "other").mkdir()
    above = cache.parent if where == "directory" else f"file://{cache.parent}"
    message = f"{above} is no latent cache: it has no cache.json; did you mean {above}/{cache.name} or {above}/val"
    with pytest.raises(CacheError, match=message):
        Cache.open(above)


def test_the_folder_above_caches_is_neither_looked_after_nor_joined_into(cache, tmp_path):
    above, part = cache.parent, tmp_path / "elsewhere" / "part"
    shutil.copytree(cache, part)
    for work in (verify, repair, lambda target: merge(target, [part])):
        with pytest.raises(CacheError, match=f"did you mean {cache}"):
            work(above)
    assert not (above / BASE).exists() and not (above / "teachers").exists()
    merge(above, [cache])  # but the parts themselves may lie in the folder that they are joined in
    assert Cache.open(above).complete


def test_a_shard_of_another_cache_or_place_is_refused(cache):
    shard_path(cache, 1).write_bytes(shard_path(cache, 0).read_bytes())
    with pytest.raises(CacheError, match="belongs to another layer or place"):
        layer_of(cache)


def test_two_clips_of_one_id_are_found(cache):
    manifest = read_manifest(cache / NAME)
    with ShardWriter(shard_path(cache, 1), manifest.streams, ["a"]) as writer:
        writer.add(Row("clip 0", 0, 4), arrays_of(0, 0))
        writer.commit(manifest.fingerprint, 1, {})
    with pytest.raises(CacheError, match="holds view 0 of 'clip 0', which shard 0 holds too"):
        layer_of(cache)


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("salt_toolkit.store.layer.OPEN_FILES", 3)
    base = base_of(30, 1)
    make_cache(tmp_path, range(30), base=base, manifest=manifest_of(base, clips_per_shard=1))
    reader = RowReader(layer_of(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for clip in (*range(30), *range(30)):
        reader.read_into(f"clip {clip}", 0, {"clip": np.empty((2, 5), np.uint8)})
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_merging_joins_parts_and_keeps_the_fuller_shard(tmp_path):
    first, second, target = (tmp_path / name for name in ("first", "second", "target"))
    make_cache(first, NUMBERS[:2], skip={2, 3})
    make_cache(second, [NUMBERS[number] for number in (0, 3, 4)])
    assert merge(target, [first, second]) == 5
    index = layer_of(target)
    assert sorted(index.shards) == [NUMBERS[number] for number in (0, 1, 3, 4)]
    assert len(index.shards[0].header.rows) == 4
    make_cache(tmp_path / "other", [0], base=base_of(seed=9))
    with pytest.raises(CacheError, match=r"belongs to something else: seed is 0 in the cache, and 9 here"):
        merge(target, [tmp_path / "other"])


def test_merging_joins_teachers(tmp_path):
    first = make_cache(tmp_path / "first")
    second = tmp_path / "second"
    base = claim_base(second, base_of())
    claim(second / "teachers" / "other", manifest_of(base, fingerprint="2" * 16))
    merge(first, [second])
    assert list(Cache.open(first).layers) == ["teachers/other", NAME]


def test_parts_that_are_decoded_or_ordered_otherwise_are_not_merged(tmp_path):
    first = make_cache(tmp_path / "first")
    base = base_of()
    means = manifest_of(base, constants={"latents": {"mean": "BBBB"}})
    second = make_cache(tmp_path / "second", manifest=means)
    with pytest.raises(CacheError, match=r"differs .* in how its numbers are decoded .* begin both with a copy"):
        merge(first, [second])
    third = tmp_path / "third"
    claim_base(third, replace(base, ids=base.ids[::-1]))
    with pytest.raises(CacheError, match="hold their clips in different orders"):
        merge(first, [third])


def test_bad_clips_of_any_layer_are_bad_in_all(cache):
    manifest = claim(cache / "teachers" / "other", manifest_of(fingerprint="2" * 16))
    assert set(Cache.open(cache).bad) == {("clip 7", 0), ("clip 7", 1)}
    with ShardWriter(shard_of(cache / "teachers" / "other", 0), manifest.streams, ["clip 1"]) as writer:
        writer.add_bad(BadRow("clip 1", 0, 1, "not finite"))
        writer.commit(manifest.fingerprint, 0, {})
    assert set(Cache.open(cache).bad) == {("clip 1", 0), ("clip 7", 0), ("clip 7", 1)}

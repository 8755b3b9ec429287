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

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from salt_toolkit.errors import CacheError
from salt_toolkit.store.index import CacheIndex, RowReader
from salt_toolkit.store.maintain import merge, repair, verify
from salt_toolkit.store.manifest import FILE, Manifest, claim, differences, read_manifest, shard_path
from salt_toolkit.store.places import LocalStore, RemoteStore
from salt_toolkit.store.shard import BadRow, Row, ShardFile, Stream
from salt_toolkit.store.shard_writer import ShardBusy, ShardWriter

STREAMS = (Stream("latents.teacher", "F32", (3, 4)), Stream("clip", "U8", (2, 5)))
IDENTITY = {"clip": {"views": 2, "seed": 0}, "teachers": {"teacher": {"fingerprint": "0" * 16}}}


def manifest_of(num_clips=10, clips_per_shard=4, **identity):
    return Manifest({**IDENTITY, **identity}, STREAMS, num_clips, clips_per_shard)


def arrays_of(index, view):
    generator = np.random.default_rng([index, view])
    return [
        generator.standard_normal((3, 4)).astype(np.float32),
        generator.integers(0, 256, (2, 5)).astype(np.uint8),
    ]


def write_shard(directory, manifest, number, *, skip=(), bad=(), arrays_of=arrays_of):
    view, places = manifest.places(number)
    with ShardWriter(shard_path(directory, number), manifest.streams, [f"clip {i}" for i in places]) as writer:
        for index in places:
            if index in bad:
                writer.add_bad(BadRow(f"clip {index}", view, index, "is not a video"))
            elif index not in skip:
                row = Row(f"clip {index}", view, index, label=index % 3, caption=None if index % 2 else 'ein Tür/"x"')
                writer.add(row, arrays_of(index, view))
        writer.commit(manifest.fingerprint, number, {"mean": "AAAA"})


@pytest.fixture
def cache(tmp_path):
    """A complete cache of ten clips in two views; clip 7 is bad."""
    manifest = claim(tmp_path / "cache", manifest_of())
    for number in range(manifest.num_shards):
        write_shard(tmp_path / "cache", manifest, number, bad={7})
    return tmp_path / "cache"


def test_every_clip_comes_back_bit_for_bit(cache):
    index = CacheIndex.open(cache)
    assert index.complete
    assert len(index) == 18
    assert [(bad.clip_id, bad.view, bad.index) for bad in index.bad()] == [("clip 7", 0, 7), ("clip 7", 1, 7)]
    reader = RowReader(index)
    for clip, view in ((9, 1), (0, 0), (4, 1), (4, 0)):
        latents, frames = np.empty((3, 4), np.float32), np.empty((2, 5), np.uint8)
        row = reader.read_into(f"clip {clip}", view, {"latents.teacher": latents, "clip": frames})
        expected = arrays_of(clip, view)
        np.testing.assert_array_equal(latents, expected[0])
        np.testing.assert_array_equal(frames, expected[1])
        assert (row.index, row.label, row.caption) == (clip, clip % 3, None if clip % 2 else 'ein Tür/"x"')
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
    path = tmp_path_factory.mktemp("shard") / "000000.safetensors"
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
    reader = RowReader(CacheIndex.open(cache))
    reader.read_into("clip 2", 0, {"clip": np.empty((2, 5), np.uint8)})
    with pytest.raises(CacheError, match=r"000000.safetensors is damaged: clip of 'clip 3' .*salt cache repair"):
        reader.read_into("clip 3", 0, {"clip": np.empty((2, 5), np.uint8)})


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 4095, 4096, 4100, -1])
def test_a_truncated_shard_is_found_when_the_cache_is_opened(cache, keep):
    path = shard_path(cache, 2)
    raw = path.read_bytes()
    path.write_bytes(raw[:keep])
    with pytest.raises(CacheError, match=r"000002.safetensors .*salt cache repair"):
        CacheIndex.open(cache)


def test_repair_drops_what_is_torn_and_nothing_else(cache):
    first, second = shard_path(cache, 0), shard_path(cache, 1)
    raw = bytearray(first.read_bytes())
    raw[-1] ^= 1
    first.write_bytes(raw)
    second.write_bytes(second.read_bytes()[:-3])
    found = repair(cache)
    assert [row.clip_id for row in found.damaged_rows] == ["clip 3"]
    assert list(found.damaged_shards) == [1]
    index = CacheIndex.open(cache)
    assert index.unfinished() == [0, 1]
    assert [row.clip_id for row in index.shards[0].header.rows] == ["clip 0", "clip 1", "clip 2"]
    assert verify(cache).sound


def test_numbers_that_are_not_finite_are_found(cache):
    manifest = read_manifest(cache)
    number = 0
    with ShardWriter(shard_path(cache, number), manifest.streams, ["a"]) as writer:
        writer.add(Row("clip 0", 0, 0), [np.full((3, 4), np.nan, np.float32), np.zeros((2, 5), np.uint8)])
        writer.commit(manifest.fingerprint, number, {})
    assert [row.reason for row in verify(cache).damaged_rows] == ["latents.teacher holds numbers that are not finite"]


# Writers.


def test_what_is_not_committed_is_not_there(tmp_path):
    path = tmp_path / "000000.safetensors"
    with ShardWriter(path, STREAMS, ["a"]) as writer:
        writer.add(Row("a", 0, 0), arrays_of(0, 0))
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_never_make_one_shard(tmp_path):
    path = tmp_path / "000000.safetensors"
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
    path = tmp_path / "000000.safetensors"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert [entry.name for entry in tmp_path.iterdir()] == [".000000.safetensors.partial"]
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
            ShardWriter(tmp_path / "000000.safetensors", (Stream("a", "U8", (1 << 19,)),), ["a", "b", "c"])
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
        index = CacheIndex.open("memory://bucket/train", local_gb=local_gb)
        assert index.complete
        reader = RowReader(index)
        for row in (row for _, _, row in index.rows()):
            latents = np.empty((3, 4), np.float32)
            reader.read_into(row.clip_id, row.view, {"latents.teacher": latents})
            np.testing.assert_array_equal(latents, arrays_of(row.index, row.view)[0])
        reader.close()
        assert len(list((tmp_path / "home").rglob("*.safetensors"))) == kept


def test_what_an_object_store_lacks_is_said_in_a_sentence(remote):
    with pytest.raises(CacheError, match="memory://elsewhere is no latent cache"):
        CacheIndex.open("memory://elsewhere")
    with pytest.raises(CacheError, match="nowhere://x cannot be opened"):
        CacheIndex.open("nowhere://x")
    raw = bytearray(remote.cat_file("/bucket/train/shards/000001.safetensors"))
    raw[-1] ^= 1
    remote.pipe_file("/bucket/train/shards/000001.safetensors", bytes(raw))
    reader = RowReader(CacheIndex.open("memory://bucket/train", local_gb=0.0))
    with pytest.raises(CacheError, match=r"000001.safetensors is damaged: clip of 'clip 6'"):
        reader.read_into("clip 6", 0, {"clip": np.empty((2, 5), np.uint8)})


URL = "memory://bucket/train"


def kept_files(tmp_path):
    """Everything that is kept on this machine, finished or not."""
    return sorted(path for path in (tmp_path / "home").rglob("*") if path.is_file())


def changed(index, view):
    """What clips look like once they have changed; of the same shape and size."""
    return [array[::-1].copy() for array in arrays_of(index, view)]


def change_shard(remote, cache, number, **how):
    """Writes a shard of the object store anew."""
    write_shard(cache, read_manifest(cache), number, **how)
    remote.put_file(str(shard_path(cache, number)), f"/bucket/train/shards/{number:06d}.safetensors")


def latents_of(reader, clip, view):
    latents = np.empty((3, 4), np.float32)
    reader.read_into(f"clip {clip}", view, {"latents.teacher": latents})
    return latents


def test_a_failed_download_leaves_no_file_and_takes_no_room(remote, tmp_path, monkeypatch):
    size = remote.size("/bucket/train/shards/000000.safetensors")
    store = RemoteStore(URL, local_gb=(size + 0.5) / 1e9)  # for one shard
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
    assert path.read_bytes() == remote.cat_file("/bucket/train/shards/000000.safetensors")
    assert kept_files(tmp_path) == [path]
    assert store.local(1) is None  # now the room is taken


def test_a_download_that_ends_early_unnoticed_is_not_kept(remote, tmp_path, monkeypatch):
    def ends_early(self, source, target, **_):
        with open(target, "wb") as file:
            file.write(self.cat_file(source)[:-1])

    monkeypatch.setattr(type(remote), "get_file", ends_early)
    store = RemoteStore(URL)
    store.numbers()
    with pytest.raises(CacheError, match=r"memory://bucket/train/shards/000000.safetensors has \d+ bytes, and"):
        store.local(0)
    assert kept_files(tmp_path) == []


def test_a_stale_copy_of_a_shard_is_neither_used_nor_left(remote, cache, tmp_path):
    """Also one that an earlier version has named otherwise, and one that was torn; all give their room back."""
    gb = (sum(remote.du("/bucket/train/shards", total=False).values()) + 0.5) / 1e9

    def read_all():
        index = CacheIndex.open(URL, local_gb=gb)
        reader = RowReader(index)
        found = {(row.index, row.view): latents_of(reader, row.index, row.view) for _, _, row in index.rows()}
        reader.close()
        return found

    read_all()
    before = kept_files(tmp_path)
    assert len(before) == 6
    change_shard(remote, cache, 1, bad={7}, arrays_of=changed)
    before[0].rename(before[0].with_name("000000.safetensors"))
    before[2].write_bytes(before[2].read_bytes()[:-1])
    for (clip, view), latents in read_all().items():
        now = changed if view == 0 and 4 <= clip < 8 else arrays_of
        np.testing.assert_array_equal(latents, now(clip, view)[0])
    after = kept_files(tmp_path)
    assert [path in after for path in before] == [True, False, True, True, True, True]
    for number, path in enumerate(after):
        assert path.read_bytes() == remote.cat_file(f"/bucket/train/shards/{number:06d}.safetensors")
    assert len(after) == 6
    remote.rm_file("/bucket/train/shards/000005.safetensors")
    CacheIndex.open(URL, local_gb=gb)
    assert kept_files(tmp_path) == after[:5]


def test_a_shard_that_changes_under_a_reader_is_an_error(remote, cache, tmp_path):
    reader = RowReader(CacheIndex.open(URL))
    change_shard(remote, cache, 0, arrays_of=changed)
    with pytest.raises(CacheError, match=r"000000.safetensors has changed since the cache was opened"):
        latents_of(reader, 0, 0)
    assert kept_files(tmp_path) == []


def test_a_home_that_cannot_be_written_is_said_in_a_sentence(remote, tmp_path):
    (tmp_path / "home").write_text("no directory")
    reader = RowReader(CacheIndex.open(URL))
    with pytest.raises(CacheError, match=r"cannot be written \(Not a directory\).* XDG_CACHE_HOME .*local_gb = 0"):
        latents_of(reader, 0, 0)


def test_every_store_reads_the_same_bytes(remote, cache):
    stores = (LocalStore(cache), RemoteStore(URL))
    for number in stores[0].numbers():
        whole = shard_path(cache, number).read_bytes()
        for offset, length in ((0, 8), (5, 100), (len(whole) - 3, 3)):
            assert {store.read(number, offset, length) for store in stores} == {whole[offset : offset + length]}
    shard_path(cache, 0).unlink()
    with pytest.raises(CacheError, match=r"000000.safetensors cannot be read \(No such file"):
        stores[0].read(0, 0, 8)


# Manifest and index.


def test_a_cache_of_something_else_is_refused_with_the_fields_that_differ(cache):
    other = manifest_of(teachers={"teacher": {"fingerprint": "1" * 16}}, clip={"views": 2, "seed": 1})
    message = r'clip.seed is 0 in the cache, and 1 here; teachers.teacher.fingerprint is "0+" in the cache, and "1+"'
    with pytest.raises(CacheError, match=message):
        claim(cache, other)


@given(st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.dictionaries(st.text(max_size=2), st.none()))))
def test_equal_identities_do_not_differ(values):
    assert differences(values, json.loads(json.dumps(values))) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "is no latent cache"),
        (lambda file: file.write_text("{"), "is damaged"),
        (lambda file: file.write_text("[]"), "is no manifest"),
        (lambda file: file.write_text(file.read_text().replace('"format": 1', '"format": 0')), "cache format 0"),
        (lambda file: file.write_text(file.read_text().replace('"seed": 0', '"seed": 5')), "changed by hand"),
    ],
)
def test_a_directory_that_is_no_cache_is_refused_in_a_sentence(cache, change, message):
    change(cache / FILE)
    with pytest.raises(CacheError, match=message):
        CacheIndex.open(cache)


@pytest.mark.parametrize("where", ["directory", "url"])
def test_the_folder_above_caches_names_those_in_it(cache, where):
    (cache.parent / "validation").mkdir()
    (cache.parent / "validation" / FILE).write_bytes((cache / FILE).read_bytes())
    (cache.parent / "other").mkdir()
    above = cache.parent if where == "directory" else f"file://{cache.parent}"
    message = f"{above} is no latent cache: it has no manifest.json; did you mean {above}/{cache.name} or {above}/val"
    with pytest.raises(CacheError, match=message):
        CacheIndex.open(above)


def test_the_folder_above_caches_is_neither_looked_after_nor_joined_into(cache, tmp_path):
    above, part = cache.parent, tmp_path / "elsewhere" / "part"
    shutil.copytree(cache, part)
    for work in (verify, repair, lambda target: merge(target, [part])):
        with pytest.raises(CacheError, match=f"did you mean {cache}"):
            work(above)
    assert not (above / FILE).exists() and not (above / "shards").exists()
    merge(above, [cache])  # but the parts themselves may lie in the folder that they are joined in
    assert CacheIndex.open(above).complete


def test_a_shard_of_another_cache_or_place_is_refused(cache):
    shard_path(cache, 1).write_bytes(shard_path(cache, 0).read_bytes())
    with pytest.raises(CacheError, match="belongs to another cache or place"):
        CacheIndex.open(cache)


def test_two_clips_of_one_id_are_found(cache):
    manifest = read_manifest(cache)
    with ShardWriter(shard_path(cache, 1), manifest.streams, ["a"]) as writer:
        writer.add(Row("clip 0", 0, 4), arrays_of(0, 0))
        writer.commit(manifest.fingerprint, 1, {})
    with pytest.raises(CacheError, match="holds view 0 of 'clip 0', which shard 0 holds too"):
        CacheIndex.open(cache)


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("salt_toolkit.store.index.OPEN_FILES", 3)
    manifest = claim(tmp_path, manifest_of(num_clips=30, clips_per_shard=1))
    for number in range(30):
        write_shard(tmp_path, manifest, number)
    reader = RowReader(CacheIndex.open(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for clip in (*range(30), *range(30)):
        reader.read_into(f"clip {clip}", 0, {"clip": np.empty((2, 5), np.uint8)})
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_merging_joins_parts_and_keeps_the_fuller_shard(tmp_path):
    first, second, target = (tmp_path / name for name in ("first", "second", "target"))
    for directory, numbers, skip in ((first, (0, 1), {2, 3}), (second, (0, 3, 4), ())):
        manifest = claim(directory, manifest_of())
        for number in numbers:
            write_shard(directory, manifest, number, skip=skip)
    assert merge(target, [first, second]) == 5
    index = CacheIndex.open(target)
    assert sorted(index.shards) == [0, 1, 3, 4]
    assert len(index.shards[0].header.rows) == 4
    with pytest.raises(CacheError, match=r"belongs to something else: clip.seed is 0 in the cache, and 9 here"):
        other = claim(tmp_path / "other", manifest_of(clip={"views": 2, "seed": 9}))
        write_shard(tmp_path / "other", other, 0)
        merge(target, [tmp_path / "other"])

"""Where checkpoints lie: files, directories, the hub's cache; and the digests of their bytes."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from salt_toolkit import CheckpointError, MissingArtifact
from salt_toolkit.weights import locate
from salt_toolkit.weights.loading import read_weights
from salt_toolkit.weights.locate import (
    CheckpointFiles,
    fetch_checkpoint,
    file_digest,
    find_checkpoint,
    is_hub_id,
    not_here,
)

SHAPES = {"a.weight": (3, 2), "a.bias": (3,)}


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory, monkeypatch):
    """A hub's cache and a home of the test's own, and no connection."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
    return folder


def state() -> dict[str, torch.Tensor]:
    return {key: torch.full(shape, 1.5) for key, shape in SHAPES.items()}


def write_safetensors(path: Path) -> Path:
    save_file(state(), path)
    return path


def write_zip(path: Path) -> Path:
    torch.save(state(), path)
    return path


def directory(folder: Path, config: object | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "x"} if config is None else config))
    return folder


def snapshot_of(hub_cache, hub_id):
    """Where the hub's client keeps a repository."""
    repository = hub_cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0")
    return directory(repository / "snapshots" / "0")


def test_a_file_a_directory_and_a_hub_id_are_found(tmp_path, hub_cache, monkeypatch):
    lone = write_zip(tmp_path / "checkpoint.pth")
    assert find_checkpoint(str(lone)) == CheckpointFiles(str(lone), (lone,))
    folder = directory(tmp_path / "folder", {"dim": 3})
    write_safetensors(folder / "model.safetensors")
    found = CheckpointFiles(str(folder), (folder / "model.safetensors",), {"dim": 3})
    assert find_checkpoint(str(folder)) == found
    assert find_checkpoint("owner/model") is None
    snapshot = snapshot_of(hub_cache, "owner/model")
    assert find_checkpoint("owner/model") is None  # an interrupted download
    write_zip(snapshot / "pytorch_model.bin")
    assert find_checkpoint("owner/model").weights == (snapshot / "pytorch_model.bin",)
    write_safetensors(snapshot / "model.safetensors")
    assert find_checkpoint("owner/model").weights == (snapshot / "model.safetensors",)  # preferred
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("folder").weights == (Path("folder/model.safetensors"),)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoint("~/folder").weights == (folder / "model.safetensors",)


NAMES = [
    "nothing",
    "./nothing",
    "/no/where",
    "no/where",
    "a b/c",
    "",
    "x" * 5000,
    "a\0b",
    "~nobody_has_this_name/x",
    "a/b.pth",
]


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_what_is_nowhere_is_missing_in_one_sentence(name):
    assert find_checkpoint(name) is None
    with pytest.raises(MissingArtifact) as caught:
        fetch_checkpoint(name, known=("known/one", "known/two"), hint="Ask somebody.")
    assert str(caught.value).startswith(f"the checkpoint {name} is not on this machine")
    assert "known/one, known/two" in caught.value.fix
    assert "\n" not in str(caught.value)
    assert caught.value.fix.endswith("Ask somebody.")


def test_a_known_id_says_how_to_download_it():
    assert not_here("known/one", ("known/one",)).fix.startswith("Download it once with `hf download known/one`")
    assert "cannot be downloaded: no network. " in str(not_here("a/b", (), "no network."))


def test_a_file_that_may_not_be_read_says_so(monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", forbidden)
    with pytest.raises(CheckpointError, match=r"/secret/model cannot be read \(Permission denied\)"):
        find_checkpoint("/secret/model")


@pytest.mark.parametrize("name", ["a/b", "Owner-1/model_2.x"])
def test_what_may_be_a_hub_id(name):
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["", "a", "/a", "./a", "a/b/c", "a//b", "a/b..c", "a/b.pth", "a/b.safetensors"])
def test_what_is_no_hub_id(name):
    assert not is_hub_id(name)


def test_a_download_takes_config_and_one_kind_of_weights(tmp_path, hub_cache, monkeypatch):
    asked = []

    class Api:
        def model_info(self, name, timeout):
            entry = argparse.Namespace
            names = ("config.json", "pytorch_model.bin", *(("model.safetensors",) if "both" in name else ()))
            return argparse.Namespace(siblings=[entry(rfilename=file) for file in names])

    def download(name, allow_patterns):
        asked.append(allow_patterns)
        folder = directory(tmp_path / name)
        write_zip(folder / "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert fetch_checkpoint("a/both").config == {"model_type": "x"}
    assert fetch_checkpoint("a/bin").shapes() == SHAPES
    assert asked == [["config.json", "*.safetensors*"], ["config.json", "*.bin*"]]


BROKEN = {
    "no config": (None, "has no config.json, so it is no checkpoint in Hugging Face layout"),
    "no json": ("{", "cannot be read"),
    "no text": ("\udcff", "cannot be read"),
    "a list": ("[]", "holds no table of settings"),
    "no weights": ("{}", r"has no weights \(model.safetensors\)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_is_said_to_be(tmp_path, name):
    text, message = BROKEN[name]
    folder = directory(tmp_path / "checkpoint")
    if text is None:
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(str(folder))


INDICES = ["", "{", "[]", "null", "5", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
INDICES += ['{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": "gone.safetensors"}}', '{"weight_map": {"a": ""}}']


@pytest.mark.parametrize("text", INDICES)
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_a_broken_index_of_shards_is_said_to_be(tmp_path, name, text):
    folder = directory(tmp_path / "checkpoint")
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json (is truncated|names files that are not there)") as caught:
        find_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


def test_two_shards_are_one_checkpoint(tmp_path):
    parts = [{key: value} for key, value in state().items()]
    folder = directory(tmp_path / "checkpoint")
    where = {}
    for number, part in enumerate(parts):
        save_file(part, folder / f"model-{number}.safetensors")
        where |= dict.fromkeys(part, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    found = find_checkpoint(str(folder))
    assert found.weights == (folder / "model-0.safetensors", folder / "model-1.safetensors")
    assert found.shapes() == SHAPES
    weights = read_weights(found)
    assert all(torch.equal(weights[key], value) for key, value in state().items())


def index_of(folder, *names):
    weight_map = {f"weight{number}": name for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_beside_the_whole_file_is_left_over(tmp_path):
    folder = directory(tmp_path / "a", {})
    whole = write_safetensors(folder / "model.safetensors")
    index_of(folder, "model-00001-of-00002.safetensors")
    assert find_checkpoint(str(folder)).weights == (whole,)


def test_a_download_that_was_interrupted_between_shards_goes_on(hub_cache):
    """In the hub's cache it is a checkpoint to be fetched; in a directory of one's own it is broken."""
    snapshot = snapshot_of(hub_cache, "owner/model")
    first = write_safetensors(snapshot / "1.safetensors")
    index_of(snapshot, "1.safetensors", "2.safetensors")
    assert find_checkpoint("owner/model") is None
    with pytest.raises(CheckpointError, match=r"names files that are not there: 2\.safetensors"):
        find_checkpoint(str(snapshot))
    second = snapshot / "2.safetensors"
    save_file({"other": torch.ones(2)}, second)
    assert find_checkpoint("owner/model").weights == (first, second)


def test_a_weight_in_two_shards_is_refused(tmp_path):
    folder = directory(tmp_path / "a", {})
    for name in ("1.safetensors", "2.safetensors"):
        write_safetensors(folder / name)
    index_of(folder, "1.safetensors", "2.safetensors")
    found = find_checkpoint(str(folder))
    for read in (found.shapes, lambda: read_weights(found)):
        with pytest.raises(CheckpointError, match=r"holds \S+ twice, once in 2\.safetensors"):
            read()


@given(st.binary(max_size=5000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_a_digest_is_the_sha256_of_the_bytes(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_hubs_cache_names_its_blobs_by_digest(tmp_path):
    """Large files there are called by their sha256, and are links: gigabytes need not be read again."""
    digest = hashlib.sha256(b"weights").hexdigest()
    blob = tmp_path / "blobs" / digest
    blob.parent.mkdir()
    blob.write_bytes(b"not read")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert file_digest(link) == digest
    small = tmp_path / "blobs" / hashlib.sha1(b"").hexdigest()  # small ones are called by git's hash
    small.write_bytes(b"weights")
    assert file_digest(small) == digest


@pytest.fixture
def reads(monkeypatch):
    """Remembers digests of files of any size, and lists what was read to compute one."""
    done = []

    def counted(opened, kind):
        done.append(opened.name)
        return compute(opened, kind)

    compute = hashlib.file_digest
    monkeypatch.setattr(locate, "CHUNK", 0)
    monkeypatch.setattr(hashlib, "file_digest", counted)
    return done


def test_a_large_files_digest_is_remembered_until_it_changes(tmp_path, reads):
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert file_digest(path) == file_digest(path) == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 1
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert file_digest(path) == hashlib.sha256(b"two").hexdigest()
    path.write_bytes(b"three")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(path) == hashlib.sha256(b"three").hexdigest()
    assert len(reads) == 3


def test_a_small_files_digest_is_not_kept(tmp_path):
    (tmp_path / "weights").write_bytes(b"one")
    file_digest(tmp_path / "weights")
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"))


@pytest.mark.parametrize("kept", ["{", "[]", "null", '"text"', ""])
def test_a_broken_memory_of_digests_is_made_anew(tmp_path, reads, kept):
    memory = Path(os.environ["XDG_CACHE_HOME"]) / "salt_toolkit" / "digests.json"
    memory.parent.mkdir()
    memory.write_text(kept)
    (tmp_path / "weights").write_bytes(b"one")
    assert file_digest(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()
    assert len(json.loads(memory.read_text())) == 1


def test_a_home_that_cannot_be_written_costs_time_alone(tmp_path, reads, monkeypatch):
    (tmp_path / "not a folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not a folder"))
    (tmp_path / "weights").write_bytes(b"one")
    for _ in range(2):
        assert file_digest(tmp_path / "weights") == hashlib.sha256(b"one").hexdigest()
    assert len(reads) == 2

"""A disk that does not take the demo's videos is told of in one sentence, and the same command continues later."""

from __future__ import annotations

import os

import av
import pytest
from salt_demo.videos import MANIFEST, write_demo_data

from salt_toolkit.errors import DataError


def write(directory):
    return write_demo_data(directory, num_train=12, num_validation=2, seed=0)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/data cannot be written \(Not a directory\)\. A part of that path"):
        write(tmp_path / "file" / "data")
    # No user may make anything there, not even the superuser.
    with pytest.raises(DataError, match=r"^/dev/fd/data cannot be written"):
        write(type(tmp_path)("/dev/fd/data"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), av.error.ExternalError(1, "No space")])
def test_a_disk_that_is_full_in_the_middle(tmp_path, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr("av.open", full(error))
        with pytest.raises(DataError, match=r"data cannot be written \(No space.*\)\. .*same command") as told:
            write(tmp_path / "data")
        assert "\n" not in str(told.value)
    assert write(tmp_path / "data") == 14


def full(error):
    def fail(*arguments, **options):
        raise error

    return fail


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir(mode=0o500)
    if os.access(tmp_path / "data", os.W_OK):  # the superuser may write everything: the refusal is played
        monkeypatch.setattr("salt_toolkit.system.files.os.fsync", full(PermissionError(13, "Permission denied")))
    with pytest.raises(DataError, match="Permission denied"):
        write(tmp_path / "data")


def test_a_damaged_manifest(tmp_path):
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(DataError, match=r"demo.json is damaged .*; delete .*, or name another"):
        write(tmp_path)

"""The figures of this machine are bounded by those of the container that salt runs in."""

from __future__ import annotations

import psutil
import pytest

from salt_toolkit.system import host


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Writes the files of a container's memory controller."""
    monkeypatch.setattr(host, "_CGROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)

    return write


def test_without_a_container_the_machine_is_the_limit(container):
    assert host.total_memory() == psutil.virtual_memory().total
    container(max="max\n", current="4096\n")
    assert host.total_memory() == psutil.virtual_memory().total
    assert 0 < host.available_memory() <= host.total_memory()


def test_a_containers_limit_counts(container):
    container(max="8000000\n")
    assert host.total_memory() == 8_000_000
    container(current="6000000\n", stat="anon 1000000\ninactive_file 500000\nactive_file 7\n")
    assert host.available_memory() == 2_500_000
    container(current="9000000\n", stat="")
    assert host.available_memory() == 0


def test_memory_that_was_taken_shows_and_its_peak_stays():
    before = host.resident_memory()
    taken = bytearray(64 << 20)
    assert host.resident_memory() > before + (48 << 20)
    del taken
    assert host.peak_memory() > before + (48 << 20)  # the kernel keeps the two counts apart, within some pages

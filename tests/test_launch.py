"""Ranks come from the environment in one place, and nonsense there is a sentence."""

from __future__ import annotations

import pytest

from salt_toolkit.errors import RunError
from salt_toolkit.system.launch import Launch


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
    ],
)
def test_a_process_knows_its_place(environment, place):
    launch = Launch.here(environment)
    assert (launch.rank, launch.world_size, launch.local_rank) == place
    assert launch.is_first == (place[0] == 0)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": ""},
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "2"},  # whose GPU?
        {"RANK": "", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "0", "LOCAL_RANK": "0"},
        {"RANK": "first", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "1.0"},
        {"RANK": "²", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
    ],
    ids=str,
)
def test_an_environment_that_makes_no_sense_is_a_sentence(environment):
    with pytest.raises(RunError, match="torchrun") as told:
        Launch.here(environment)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        shown = repr(environment[name]) if name in environment else "unset"
        assert f"{name} {shown}" in str(told.value)


def test_the_environment_of_this_process_is_read_unless_another_is_given(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Launch.here() == Launch(1, 2, 1)

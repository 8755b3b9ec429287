"""The whole contract of every masker, by the kit that any plugin can use."""

from __future__ import annotations

from salt_toolkit.testing import MaskerContract


class TestRandom(MaskerContract):
    plugin, section = "salt_masking", {"use": "random", "ratio": 0.9}


class TestTube(MaskerContract):
    plugin, section = "salt_masking", {"use": "tube"}


class TestMultiblock(MaskerContract):
    plugin, section = "salt_masking", {"use": "multiblock", "temporal_scale": [0.5, 1.0], "placement": "inside"}

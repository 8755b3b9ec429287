"""Videos on disk: folders of classes, lists, and Something-Something v2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_clips.config import CachedConfig, SSv2Config, VideoConfig, VideoFolderConfig, VideoListConfig
from salt_toolkit.component import Component
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from salt_toolkit.contracts import Dataset


def build_videos(config: VideoConfig, *, clip: ClipSpec, seed: int) -> Dataset:
    """Builds any of the three data sets; they differ in how they list their videos.

    Raises:
        MissingArtifact: The data set is not there.
        DataError: It is there, and cannot be used.
    """
    from salt_clips.dataset import VideoDataset

    return VideoDataset(config.listing(), clip=clip, seed=seed, decoder=config.decoder)


def build_cached(config: CachedConfig, *, clip: ClipSpec, seed: int) -> Dataset:
    """Opens a cache that holds its clips.

    Raises:
        CacheError: It is no cache, is damaged, unfinished, or holds no clips.
    """
    from salt_toolkit.cache.rows import open_samples

    return open_samples(config.dir)


@hookimpl
def salt_datasets() -> Iterable[Component]:
    """The data sets of videos."""
    yield Component("video_folder", VideoFolderConfig, build_videos, "Videos in root/<split>/<class>/")
    yield Component("video_list", VideoListConfig, build_videos, "Videos named by a text file, `path label` or CSV")
    yield Component("ssv2", SSv2Config, build_videos, "Something-Something v2 as it is shipped")
    yield Component("cached", CachedConfig, build_cached, "A latent cache that holds its clips; no video is needed")

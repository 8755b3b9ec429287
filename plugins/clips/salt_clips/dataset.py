"""One data set for all lists of videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from salt_clips.listing import Listing
from salt_toolkit.contracts import Sample
from salt_toolkit.errors import BadClip
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.video.opening import DecoderName, open_video
from salt_toolkit.views import ClipTooShort, choose_view


class VideoDataset:
    """Clips of listed videos; a `contracts.Dataset`. Nothing is kept between reads, so threads may share it.

    Args:
        listing: The videos and the names of their classes.
        clip: How a video becomes a clip.
        seed: The run's seed, for what is drawn.
        decoder: Library that decodes.
    """

    def __init__(self, listing: Listing, *, clip: ClipSpec, seed: int, decoder: DecoderName) -> None:
        self._videos = listing.videos
        self._class_names = listing.class_names
        self._clip = clip
        self._seed = seed
        self._decoder: DecoderName = decoder
        self._clip_ids = tuple(video.clip_id for video in listing.videos)

    @property
    def clip_ids(self) -> Sequence[str]:
        """The unique id of each clip, in a stable order."""
        return self._clip_ids

    @property
    def class_names(self) -> Sequence[str]:
        """The name of each label; empty where there are no labels."""
        return self._class_names

    def path_of(self, index: int) -> Path:
        """The video's file."""
        return Path(self._videos[index].path)

    def read(self, index: int, view: int) -> Sample:
        """Decodes one view of one video.

        Raises:
            BadClip: The file is missing, damaged, no video, or too short.
        """
        video = self._videos[index]
        with open_video(video.path, self._decoder) as reader:
            try:
                chosen = choose_view(
                    self._clip,
                    seed=self._seed,
                    view=view,
                    clip_id=video.clip_id,
                    num_frames=reader.num_frames,
                    height=reader.height,
                    width=reader.width,
                )
            except ClipTooShort as error:
                raise BadClip(reader.path, str(error), _longer(self._clip, reader.num_frames)) from error
            clip = reader.read(chosen, self._clip.size)
        return Sample(video.clip_id, {"clip": torch.from_numpy(clip)}, video.label, video.caption, Path(video.path))


def _longer(clip: ClipSpec, num_frames: int) -> str:
    """What helps if many videos are too short for the clip; nothing does where they are still images."""
    if num_frames < 2:
        return ""
    smaller = "Lower clip.frames or clip.stride" if clip.stride > 1 else "Lower clip.frames"
    return f'{smaller}, or set clip.short = "repeat_last".'

"""The configs of `video_folder`, `video_list` and `ssv2`: what a recipe says of them, and quick answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from salt_clips.listing import Delimiter, Listing, count_file, count_folder, list_file, list_folder
from salt_clips.ssv2 import NUM_CLIPS, VIDEOS, count_clips, find_annotation, find_videos, list_ssv2
from salt_toolkit.component import DatasetConfig
from salt_toolkit.context import Inputs
from salt_toolkit.errors import MissingArtifact, SettingError
from salt_toolkit.store.base import has_base, read_base
from salt_toolkit.store.remote import open_store
from salt_toolkit.video.opening import DecoderName

SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "test")
"""Folders that are taken for splits when one is proposed; all others may be classes."""


class VideoConfig(DatasetConfig):
    """What every data set of videos has."""

    decoder: DecoderName = Field(
        "pyav", description="Library that decodes; decord returns wrong frames on AVI, TS, edit lists and open GOPs."
    )

    def identity(self, inputs: Inputs) -> Mapping[str, Any]:
        """The decoder and the clip, and the seed where views are drawn; where the videos lie does not matter."""
        return {"decoder": self.decoder, **drawn_views(inputs)}

    def listing(self) -> Listing:
        """All videos of the split.

        Raises:
            MissingArtifact: Something of `missing` is not there.
            DataError: What is there cannot be used.
        """
        for missing in self.missing():
            raise missing
        return self._listing()

    def _listing(self) -> Listing:
        raise AssertionError(f"{type(self).__name__} does not list its videos")

    def num_clips(self) -> int | None:
        """How many clips the split holds; None where something is missing.

        Raises:
            DataError: As `listing`.
        """
        return None if self.missing() else self._count()

    def _count(self) -> int:
        raise AssertionError(f"{type(self).__name__} does not count its videos")


class VideoFolderConfig(VideoConfig):
    """Videos in folders: ``root/<split>/<class>/**``."""

    movable: ClassVar[tuple[str, ...]] = ("root",)

    root: str = Field(description="Folder that holds the splits.")

    def missing(self) -> Sequence[MissingArtifact]:
        """The root, or the split's folder."""
        root = _path(self.root)
        if not root.is_dir():
            return (_no_folder("root", root),)
        if not (root / self.split).is_dir():
            what = f"the split's folder {root / self.split} does not exist"
            return (MissingArtifact(what, _where_the_split_may_be(root, self.split)),)
        return ()

    def _listing(self) -> Listing:
        return list_folder(_path(self.root), self.split)

    def _count(self) -> int:
        return count_folder(_path(self.root), self.split)


class VideoListConfig(VideoConfig):
    """Videos named by a text file, one a line."""

    movable: ClassVar[tuple[str, ...]] = ("list", "root")

    list: str = Field(description='The list\'s path; "{split}" in it stands for the split, as in "lists/{split}.txt".')
    root: str = Field("", description="Folder that relative paths in the list start from; empty: the list's folder.")
    labels: bool = Field(True, description="Whether each line ends in a label, a class number or a class name.")
    delimiter: Delimiter = Field(
        "space", description='Between path and label: "space" (the last one of the line) or "comma" (CSV, with quotes).'
    )

    def missing(self) -> Sequence[MissingArtifact]:
        """The list, or the root."""
        file = Path(str(_path(self.list)).replace("{split}", self.split))
        if not file.is_file():
            return (MissingArtifact(f"the list {file} does not exist", "Set dataset.list to a text file of videos."),)
        if not self._root().is_dir():
            return (_no_folder("root", self._root()),)
        return ()

    def _root(self) -> Path:
        return _path(self.root) if self.root else Path(str(_path(self.list)).replace("{split}", self.split)).parent

    def _listing(self) -> Listing:
        return list_file(_path(self.list), self.split, root=self._root(), labels=self.labels, delimiter=self.delimiter)

    def _count(self) -> int:
        return count_file(_path(self.list), self.split, root=self._root(), labels=self.labels, delimiter=self.delimiter)


class SSv2Config(VideoConfig):
    """Something-Something v2 as it is shipped."""

    movable: ClassVar[tuple[str, ...]] = ("root", "videos")

    root: str = Field(description="Folder of the unpacked data set.")
    videos: str | None = Field(
        None, description=f'Folder of the videos below the root; if absent "{VIDEOS}", "videos" or the root itself.'
    )

    @field_validator("split")
    @classmethod
    def _split_exists(cls, split: str) -> str:
        if split not in NUM_CLIPS:
            raise SettingError(f"Something-Something v2 has the splits {', '.join(NUM_CLIPS)}, found {split!r}")
        return split

    def num_clips(self) -> int | None:
        """How many clips the annotation lists; the published number where there is none.

        Raises:
            DataError: The annotation is not what Something-Something v2 ships.
        """
        annotation = find_annotation(_path(self.root), self.split)
        return NUM_CLIPS[self.split] if annotation is None else count_clips(annotation)

    def missing(self) -> Sequence[MissingArtifact]:
        """The root, the annotations, or the folder of the videos."""
        root = _path(self.root)
        if not root.is_dir():
            return (_no_folder("root", root),)
        names = (self.split,) if self.split == "test" else (self.split, "labels")
        missing = [
            MissingArtifact(
                f"{name}.json is not in {root}, nor in its folders labels and annotations",
                "Unpack the annotations of Something-Something v2 there; "
                f"something-something-v2-{name}.json is also accepted.",
            )
            for name in names
            if find_annotation(root, name) is None
        ]
        if find_videos(root, self.videos) is None:
            missing.append(
                MissingArtifact(
                    f"the folder of the videos {root / (self.videos or VIDEOS)} does not exist",
                    "Join the parts of the archive, unpack them there, or set dataset.videos to their folder.",
                )
            )
        return missing

    def _listing(self) -> Listing:
        root = _path(self.root)
        annotation, videos = find_annotation(root, self.split), find_videos(root, self.videos)
        labels = None if self.split == "test" else find_annotation(root, "labels")
        assert annotation is not None and videos is not None, "missing() found them a moment ago"
        return list_ssv2(annotation, labels, videos)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _where_the_split_may_be(root: Path, split: str) -> str:
    """What to do about a root without the split's folder: it may be a split itself, or hold the classes."""
    # Not resolved: the advice keeps to the path that was written, links and all.
    parent = root.parent if root.name not in ("", "..") else root.absolute().parent
    name = root.name or root.absolute().name
    if name in (split, *SPLIT_NAMES) and (parent / split).is_dir():
        return f'{root} is a split\'s folder itself. Set dataset.root to "{parent}".'
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    splits = [folder for folder in folders if folder in SPLIT_NAMES]
    if splits:
        return f"Set dataset.split to one of its folders ({', '.join(splits)}), or make {root / split}."
    if folders:
        shown = ", ".join(folders[:8]) + (", ..." if len(folders) > 8 else ".")
        return f"It holds {shown} If those are the classes, move them into {root / split}: a split is a folder of them."
    return f"It has no folders. Put the class folders into {root / split}, or set dataset.root to the folder of splits."


def _no_folder(key: str, folder: Path) -> MissingArtifact:
    return MissingArtifact(f"the folder {folder} does not exist", f"Set dataset.{key} to where the videos are.")


class CachedConfig(DatasetConfig):
    """A latent cache that holds its clips: no video is needed."""

    movable: ClassVar[tuple[str, ...]] = ("dir",)

    dir: str = Field(description="Directory or URL of one split's cache, made with cache.keep.")

    def missing(self) -> Sequence[MissingArtifact]:
        """The cache."""
        if has_base(open_store(self.dir)):
            return ()
        fix = 'Make it with `salt cache` and cache.keep = ["clip"], or copy it here.'
        return (MissingArtifact(f"the cache {self.dir} is not on this machine", fix),)

    def num_clips(self) -> int | None:
        """As its manifest says."""
        return None if self.missing() else len(read_base(open_store(self.dir)).ids)

    def identity(self, inputs: Inputs) -> Mapping[str, Any]:
        """The views; everything else of a cache is compared with itself."""
        return drawn_views(inputs)


def drawn_views(inputs: Inputs) -> dict[str, Any]:
    """What decides which part of a stored video a clip shows; the seed counts where that is drawn."""
    seed = {"seed": inputs.seed} if inputs.video.draws else {}
    return {"clip": inputs.video.identity(), **seed}

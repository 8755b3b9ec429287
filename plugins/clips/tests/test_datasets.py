"""What the three data sets find, how they number it, and what they say of what they cannot use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import salt_clips
import torch
from pydantic import ValidationError
from salt_clips.config import SSv2Config, VideoConfig, VideoFolderConfig, VideoListConfig
from salt_clips.listing import VIDEO_EXTENSIONS

from salt_toolkit.contracts import Dataset
from salt_toolkit.errors import BadClip, DataError, MissingArtifact
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.views import choose_view

CLIP = ClipSpec(frames=4, stride=2, size=32)


def build(config: VideoConfig, clip: ClipSpec = CLIP, seed: int = 0) -> Dataset:
    return salt_clips.build_videos(config, clip=clip, seed=seed)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def labels_of(config: VideoConfig) -> dict[str, int | None]:
    return {video.clip_id: video.label for video in config.listing().videos}


# One data set for all


def test_the_configs_need_no_heavy_library():
    script = (
        "import sys, salt_clips; list(salt_clips.salt_datasets())\n"
        "print(sorted({'torch', 'av', 'numpy', 'decord'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_sample_shows_the_frames_of_its_view(tmp_path, mp4, decoder):
    (tmp_path / "train" / "cats").mkdir(parents=True)
    shutil.copy(mp4, tmp_path / "train" / "cats" / "a b.mp4")
    clip = ClipSpec(frames=6, stride=3, size=96)
    dataset = build(VideoFolderConfig(root=str(tmp_path), decoder=decoder), clip, seed=5)
    for view in range(4):
        sample = dataset.read(0, view)
        assert (sample.clip_id, sample.label, sample.caption) == ("cats/a b.mp4", 0, None)
        shown = sample.tensors["clip"]
        assert (shown.shape, shown.dtype) == ((6, 96, 96, 3), torch.uint8)
        chosen = choose_view(clip, seed=5, view=view, clip_id="cats/a b.mp4", num_frames=40, height=96, width=160)
        # The centred square, 96 of 160 columns, shows bars 2 to 5 of the number, 20 columns each.
        bars = [shown[:, 4:28, 8 + 20 * bar + 5 : 8 + 20 * bar + 15].float().mean((1, 2, 3)) > 127 for bar in range(4)]
        assert [sum(4 << bar for bar in range(4) if bars[bar][frame]) for frame in range(6)] == [
            frame & 0b111100 for frame in chosen.frames
        ]


def test_reading_is_the_same_in_any_order_and_thread(tmp_path, mp4, webm):
    (tmp_path / "train" / "c").mkdir(parents=True)
    for index in range(4):
        source = (mp4, webm)[index % 2]
        shutil.copy(source, tmp_path / "train" / "c" / f"{index}{source.suffix}")
    dataset = build(
        VideoFolderConfig(root=str(tmp_path)), ClipSpec(frames=4, size=32, crop="random_resized", flip=True)
    )
    jobs = [(index, view) for view in range(3) for index in range(4)]
    alone = [dataset.read(*job).tensors["clip"] for job in jobs]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda job: dataset.read(*job).tensors["clip"], jobs[::-1]))[::-1]
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(alone[0], alone[4])  # another view of the same video


def test_a_flipped_view_is_the_mirror_image(tmp_path, mp4):
    touch(tmp_path / "train" / "c" / "a.mp4")
    shutil.copy(mp4, tmp_path / "train" / "c" / "a.mp4")
    config = VideoFolderConfig(root=str(tmp_path))
    plain, flipping = build(config), build(config, CLIP.model_copy(update={"flip": True}))
    changed = 0
    for view in range(8):
        straight, other = plain.read(0, view).tensors["clip"], flipping.read(0, view).tensors["clip"]
        mirrored = torch.equal(straight.flip(2), other)
        assert mirrored or torch.equal(straight, other)
        changed += mirrored
    assert 0 < changed < 8


def test_a_short_video_is_a_bad_clip_or_repeats_its_last_frame(tmp_path, mp4):
    touch(tmp_path / "train" / "c" / "a.mp4")
    shutil.copy(mp4, tmp_path / "train" / "c" / "a.mp4")
    config = VideoFolderConfig(root=str(tmp_path))
    with pytest.raises(BadClip, match=r"a\.mp4.*40 frames.*needs 46") as told:
        build(config, ClipSpec(frames=10, stride=5, size=32)).read(0, 0)
    assert told.value.fix == 'Lower clip.frames or clip.stride, or set clip.short = "repeat_last".'
    with pytest.raises(BadClip, match=r"40 frames.*needs 41") as told:
        build(config, ClipSpec(frames=41, stride=1, size=32)).read(0, 0)
    assert told.value.fix == 'Lower clip.frames, or set clip.short = "repeat_last".'
    clip = build(config, ClipSpec(frames=10, stride=5, size=32, short="repeat_last")).read(0, 0).tensors["clip"]
    np.testing.assert_array_equal(
        clip[8], build(config, ClipSpec(frames=2, stride=39, size=32)).read(0, 0).tensors["clip"][1]
    )
    assert torch.equal(clip[8], clip[9]) and not torch.equal(clip[7], clip[8])


def test_every_reason_comes_with_the_same_absolute_path(tmp_path, mp4, monkeypatch):
    touch(tmp_path / "data" / "train" / "c" / "empty.mp4")
    shutil.copy(mp4, tmp_path / "data" / "train" / "c" / "short.mp4")
    monkeypatch.chdir(tmp_path)
    dataset = build(VideoFolderConfig(root="data"), ClipSpec(frames=41, stride=1, size=32))
    for index, name in enumerate(["empty.mp4", "short.mp4"]):
        with pytest.raises(BadClip) as caught:
            dataset.read(index, 0)
        assert caught.value.path == str(tmp_path / "data" / "train" / "c" / name)


def test_a_damaged_file_is_a_bad_clip_and_its_neighbours_are_read(tmp_path, mp4):
    touch(tmp_path / "train" / "c" / "empty.mp4")
    shutil.copy(mp4, tmp_path / "train" / "c" / "good.mp4")
    dataset = build(VideoFolderConfig(root=str(tmp_path)))
    with pytest.raises(BadClip) as caught:
        dataset.read(0, 0)
    assert caught.value.path.endswith("empty.mp4") and "empty" in caught.value.reason
    assert dataset.read(1, 0).clip_id == "c/good.mp4"


# video_folder


def test_a_folder_is_listed_in_a_stable_order_without_strangers(tmp_path):
    train = tmp_path / "train"
    touch(train / "b" / "deep" / "er" / "2.MP4", train / "b" / "1.webm", train / "a ü" / "日本.avi")
    touch(train / "a ü" / ".hidden.mp4", train / "a ü" / "notes.txt", train / ".git" / "x.mp4", train / "list.csv")
    config = VideoFolderConfig(root=str(tmp_path))
    assert labels_of(config) == {"a ü/日本.avi": 0, "b/1.webm": 1, "b/deep/er/2.MP4": 1}
    assert list(labels_of(config)) == sorted(labels_of(config))
    assert config.num_clips() == 3
    assert build(config).class_names == ("a ü", "b")
    assert tuple(build(config).clip_ids) == tuple(labels_of(config))


def test_a_class_has_one_number_in_all_splits(tmp_path):
    touch(tmp_path / "train" / "a" / "1.mp4", tmp_path / "train" / "b" / "1.mp4", tmp_path / "train" / "c" / "1.mp4")
    touch(tmp_path / "val" / "c" / "1.mp4")
    assert labels_of(VideoFolderConfig(root=str(tmp_path), split="val")) == {"c/1.mp4": 2}


def test_links_are_followed_once(tmp_path):
    touch(tmp_path / "elsewhere" / "1.mp4", tmp_path / "data" / "train" / "b" / "2.mp4")
    (tmp_path / "data" / "train" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "train" / "b" / "up").symlink_to(tmp_path / "data" / "train")
    (tmp_path / "data" / "train" / "b" / "3.mp4").symlink_to(tmp_path / "elsewhere" / "1.mp4")
    config = VideoFolderConfig(root=str(tmp_path / "data"))
    assert list(labels_of(config)) == ["a/1.mp4", "b/2.mp4", "b/3.mp4"]


def test_videos_without_class_folders_have_no_label(tmp_path):
    touch(tmp_path / "train" / "1.mp4", tmp_path / "train" / "2.mp4")
    config = VideoFolderConfig(root=str(tmp_path))
    assert labels_of(config) == {"1.mp4": None, "2.mp4": None}
    assert config.listing().class_names == ()
    touch(tmp_path / "train" / "a" / "3.mp4")
    with pytest.raises(DataError, match=r"1\.mp4.*class folder"):
        config.listing()


def test_a_folder_that_is_not_there_says_what_is(tmp_path):
    missing = VideoFolderConfig(root=str(tmp_path / "nowhere"))
    assert "nowhere does not exist" in str(missing.missing()[0]) and missing.num_clips() is None
    touch(tmp_path / "cats" / "1.mp4", tmp_path / "dogs" / "1.mp4")
    config = VideoFolderConfig(root=str(tmp_path))
    (artifact,) = config.missing()
    assert "train does not exist" in artifact.what
    # Nobody can tell a split of an unusual name from a class; to train on one class would be no mistake to see.
    assert artifact.fix.startswith("It holds cats, dogs. If those are the classes, move them into")
    assert "dataset.split" not in artifact.fix
    with pytest.raises(MissingArtifact):
        build(config)


def test_a_root_that_is_a_split_itself_is_told_the_right_root(tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    touch(*(videos / split / "cats" / "1.mp4" for split in ("train", "validation")))
    for split in ("train", "validation"):
        (artifact,) = VideoFolderConfig(root=str(videos / "train"), split=split).missing()
        assert artifact.fix.endswith(f'Set dataset.root to "{videos}".')
        assert not VideoFolderConfig(root=str(videos), split=split).missing()
    monkeypatch.chdir(videos / "train")
    (artifact,) = VideoFolderConfig(root=".").missing()
    assert artifact.fix.endswith(f'Set dataset.root to "{videos}".')


def test_only_folders_named_like_splits_are_proposed_as_splits(tmp_path):
    touch(*(tmp_path / name / "x" / "1.mp4" for name in ("training", "val", "extras")))
    (artifact,) = VideoFolderConfig(root=str(tmp_path)).missing()
    assert artifact.fix == f"Set dataset.split to one of its folders (training, val), or make {tmp_path / 'train'}."


def test_a_long_list_of_folders_says_that_it_is_cut(tmp_path):
    for number in range(12):
        (tmp_path / "many" / f"class{number:02}").mkdir(parents=True)
    (artifact,) = VideoFolderConfig(root=str(tmp_path / "many")).missing()
    assert artifact.fix.startswith("It holds class00, ") and "class07, ... If" in artifact.fix
    assert "class08" not in artifact.fix
    (tmp_path / "none").mkdir()
    (artifact,) = VideoFolderConfig(root=str(tmp_path / "none")).missing()
    assert artifact.fix.startswith("It has no folders. Put the class folders into")


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    for name in ("open", "closed"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.mp4").touch()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    config = VideoFolderConfig(root=str(tmp_path))
    with pytest.raises(DataError, match=r"the folder \S+/train/closed cannot be read: Permission denied"):
        config.num_clips()


def test_a_folder_without_videos_says_where_it_looked(tmp_path):
    touch(tmp_path / "train" / "cats" / "1.txt")
    with pytest.raises(DataError, match=r"train holds no videos.*\.mp4.*found cats"):
        build(VideoFolderConfig(root=str(tmp_path)))


def nasty_folder(root: Path) -> None:
    """Folders with everything that the listing has a rule for."""
    train = root / "train"
    touch(train / "a b" / " 1 .mp4", train / "a b" / "2.WebM", train / "a b" / "3.mp4.txt", train / "a b" / "mp4")
    touch(train / "c" / "..mp4", train / "c" / ".mp4", train / "c" / "x.", train / ".d" / "1.mp4", train / "notes.txt")
    touch(train / "c" / "folder.mp4" / "deep" / "4.mkv", train / "c" / "folder.mp4" / "deep" / "5.m2ts.TS")
    touch(root / "beside" / "6.mp4", root / "beside" / "e" / "7.mp4", root / ".hidden" / "8.mp4")
    (train / "empty" / "er").mkdir(parents=True)
    os.mkfifo(train / "c" / "pipe.mp4")
    os.close(os.open(os.fsencode(train / "c") + b"/\xff.mp4", os.O_CREAT))
    for link, target in {
        train / "linked": root / "beside",
        train / "c" / "twice": root / "beside",
        train / "linked again": Path("..") / ".hidden",
        train / "c" / "up": train,
        train / "c" / "farther up": root.parent,
        root / "beside" / "round": root / "beside",
        train / "c" / "file.mp4": root / "beside" / "6.mp4",
        train / "c" / "broken.mp4": root / "nowhere",
        train / "c" / "self.mp4": train / "c" / "self.mp4",
    }.items():
        link.symlink_to(target)


def walked(folder: Path) -> list[str]:
    """The listing's rules once more, by other code."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        above = [os.path.realpath(path) for path in (Path(place), *Path(place).parents)]
        folders[:] = [
            name for name in folders if name[0] != "." and (Path(place) / name).resolve() not in map(Path, above)
        ]
        named = [Path(place, name) for name in files if name[0] != "."]
        found += [str(path.relative_to(folder)) for path in named if path.suffix.lower() in VIDEO_EXTENSIONS]
    return sorted(found)


@pytest.mark.parametrize("linked_root", [False, True])
def test_folders_are_counted_by_the_rules_of_the_listing(tmp_path, linked_root):
    nasty_folder(tmp_path / "data")
    root = tmp_path / "data"
    if linked_root:  # a way from the data set to itself that no single link shows
        root = tmp_path / "link"
        root.symlink_to(tmp_path / "data")
        (tmp_path / "data" / "train" / "c" / "above all").symlink_to(tmp_path)
    config = VideoFolderConfig(root=str(root))
    ids = list(build(config).clip_ids)
    assert ids == walked(root / "train")
    assert "c/folder.mp4/deep/5.m2ts.TS" in ids and "c/twice/e/7.mp4" in ids and "linked again/8.mp4" in ids
    assert config.num_clips() == len(ids)


@pytest.mark.parametrize("names", [[], ["c/notes.txt"], ["1.mp4", "c/2.mp4"], [".c/1.mp4"]])
def test_what_cannot_be_listed_is_not_counted_either(tmp_path, names):
    (tmp_path / "train").mkdir()
    touch(*(tmp_path / "train" / name for name in names))
    config = VideoFolderConfig(root=str(tmp_path))
    with pytest.raises(DataError) as listed:
        build(config)
    with pytest.raises(DataError) as counted:
        config.num_clips()
    assert str(counted.value) == str(listed.value)


# video_list


def write_list(path: Path, text: str, **settings: object) -> VideoListConfig:
    path.write_text(text, encoding="utf-8")
    return VideoListConfig(list=str(path), **settings)


def test_lines_of_path_and_label_with_blanks_in_paths(tmp_path):
    text = "a.mp4 0\r\nwith blank/b c.mp4 2\n\n  /elsewhere/d.mp4   1  \nü.mp4\t2\n"
    config = write_list(tmp_path / "list.txt", text)
    assert labels_of(config) == {"a.mp4": 0, "with blank/b c.mp4": 2, "/elsewhere/d.mp4": 1, "ü.mp4": 2}
    paths = [video.path for video in config.listing().videos]
    assert paths[:3] == [str(tmp_path / "a.mp4"), str(tmp_path / "with blank" / "b c.mp4"), "/elsewhere/d.mp4"]
    assert config.listing().class_names == ("0", "1", "2")
    assert config.num_clips() == 4


def test_class_names_are_numbered_alphabetically(tmp_path):
    config = write_list(tmp_path / "list.txt", "\ufeffa.mp4 dog\nb.mp4 cat\nc.mp4 dog\n")
    assert labels_of(config) == {"a.mp4": 1, "b.mp4": 0, "c.mp4": 1}
    assert config.listing().class_names == ("cat", "dog")


def test_comma_separated_values_with_quotes_and_heading(tmp_path):
    text = 'path,label\n"a, b.mp4",Holding something\nc d.mp4, Dropping something\n'
    config = write_list(tmp_path / "list.csv", text, delimiter="comma")
    assert labels_of(config) == {"a, b.mp4": 1, "c d.mp4": 0}


def test_lists_without_labels(tmp_path):
    config = write_list(tmp_path / "list.txt", "a b.mp4\nc.mp4\n", labels=False)
    assert labels_of(config) == {"a b.mp4": None, "c.mp4": None}
    assert config.listing().class_names == ()
    config = write_list(tmp_path / "list.csv", "video\na b.mp4\n", labels=False, delimiter="comma")
    assert labels_of(config) == {"a b.mp4": None}


def test_the_split_chooses_the_list_and_numbers_are_shared(tmp_path):
    write_list(tmp_path / "train.txt", "a.mp4 cat\nb.mp4 dog\n")
    write_list(tmp_path / "val.txt", "c.mp4 dog\n")
    config = VideoListConfig(list=str(tmp_path / "{split}.txt"), split="val", root=str(tmp_path))
    assert labels_of(config) == {"c.mp4": 1}
    assert config.listing().class_names == ("cat", "dog")
    (artifact,) = VideoListConfig(list=str(tmp_path / "{split}.txt"), split="test").missing()
    assert "test.txt does not exist" in artifact.what


def test_ids_do_not_hold_the_place_of_the_root(tmp_path):
    (tmp_path / "videos").mkdir()
    config = write_list(tmp_path / "list.txt", f"{tmp_path}/videos/a.mp4 0\n./b.mp4 1\n", root=str(tmp_path / "videos"))
    assert labels_of(config) == {"a.mp4": 0, "b.mp4": 1}


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("", {}, "lists no videos"),
        ("a.mp4 0\nb.mp4\n", {}, r"txt:2: .*labels = false"),
        ("a.mp4 0\nb.mp4,1\n", {}, r'txt:2: .*delimiter = "comma"'),
        ("my video.mp4,1\n", {}, r'txt:1: .*delimiter = "comma"'),
        ("a.mp4,Holding something\n", {}, r'txt:1: .*delimiter = "comma"'),
        ("a.mp4 0\nb.mp4 1\n./a.mp4 2\n", {}, r"txt:3: .*txt:1"),
        ("a.mp4 0\nb.mp4 cat\n", {}, r"txt:2: .*'cat'.*txt:1"),
        ("a.mp4 0 -1\n", {}, r"txt:1: -1 .*labels = false"),
        ("a.mp4,1,2\n", {"delimiter": "comma"}, r"txt:1: .*3 columns"),
        ("a.mp4,\n", {"delimiter": "comma"}, r"txt:1: "),
        ('"a.mp4,1\n', {"delimiter": "comma"}, "not a table"),
        ("a.mp4,1\n", {"delimiter": "comma", "labels": False}, r"txt:1: .*labels = false"),
    ],
)
def test_a_list_with_mistakes_names_the_line(tmp_path, text, settings, words):
    config = write_list(tmp_path / "list.txt", text, **settings)
    for use in (build, VideoListConfig.num_clips):
        with pytest.raises(DataError, match=words):
            use(config)


@pytest.mark.parametrize("delimiter", ["space", "comma"])
@pytest.mark.parametrize("labels", [True, False])
def test_lists_are_counted_by_the_rules_of_the_listing(tmp_path, delimiter, labels):
    names = [
        "a.mp4",
        "./b.mp4",
        "d/../c.mp4",
        "e//f.mp4",
        "g/.",
        "../h.mp4",
        "/i.mp4",
        f"{tmp_path}/j.mp4",
        "k l..mp4",
        "m./n",
    ]
    end = {"space": " 1", "comma": ",1"}[delimiter] if labels else ""
    text = "\ufeff\n" + "\r\n \n".join(f"{name}{end}" for name in names)
    config = write_list(tmp_path / "list.txt", text, labels=labels, delimiter=delimiter)
    paths = [os.path.normpath(os.path.join(tmp_path, name)) for name in names]
    assert [video.path for video in config.listing().videos] == paths
    assert list(build(config).clip_ids)[:5] == ["a.mp4", "b.mp4", "c.mp4", "e/f.mp4", "g"]
    assert config.num_clips() == len(build(config).clip_ids) == len(names)


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="UTF-8"):
        build(VideoListConfig(list=str(tmp_path / "list.txt")))


# ssv2

LABELS = {"Holding something next to something": "1", "Approaching something with your camera": "0"}
TRAIN = [
    {
        "id": "78687",
        "label": "holding potato next to vicks vaporub bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks vaporub bottle"],
    },
    {"id": "42326", "label": "approaching a cup", "template": "Approaching [something] with your camera"},
]


def write_ssv2(root: Path, *, folder: str = ".", prefix: str = "", videos: str = "20bn-something-something-v2") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / videos).mkdir(parents=True, exist_ok=True)
    for name, content in {"labels": LABELS, "train": TRAIN, "validation": TRAIN[:1], "test": [{"id": "1420"}]}.items():
        (root / folder / f"{prefix}{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("folder", "prefix", "videos"),
    [
        (".", "", "20bn-something-something-v2"),
        ("labels", "", "videos"),
        ("annotations", "something-something-v2-", "."),
    ],
)
def test_something_something_is_found_where_it_is_usually_put(tmp_path, webm, folder, prefix, videos):
    write_ssv2(tmp_path, folder=folder, prefix=prefix, videos=videos)
    shutil.copy(webm, tmp_path / videos / "42326.webm")
    config = SSv2Config(root=str(tmp_path))
    assert not config.missing() and config.num_clips() == 2
    dataset = build(config)
    assert list(dataset.clip_ids) == ["78687", "42326"]
    assert dataset.class_names == ("Approaching something with your camera", "Holding something next to something")
    sample = dataset.read(1, 0)
    assert (sample.clip_id, sample.label, sample.caption) == ("42326", 0, "approaching a cup")
    assert sample.tensors["clip"].shape == (4, 32, 32, 3)
    with pytest.raises(BadClip, match=r"78687\.webm.*No such file"):
        dataset.read(0, 0)


def test_the_test_split_has_no_labels(tmp_path):
    write_ssv2(tmp_path)
    (tmp_path / "labels.json").unlink()
    config = SSv2Config(root=str(tmp_path), split="test")
    assert labels_of(config) == {"1420": None}
    assert config.listing().class_names == ()


def test_the_videos_may_lie_in_a_named_folder_and_nowhere_else(tmp_path):
    write_ssv2(tmp_path)
    (artifact,) = SSv2Config(root=str(tmp_path), videos="webm").missing()
    assert "webm does not exist" in artifact.what and "dataset.videos" in artifact.fix


def test_what_of_something_something_is_missing(tmp_path):
    for config, number in [
        (SSv2Config(root=str(tmp_path / "no")), 168_913),
        (SSv2Config(root=str(tmp_path), split="validation"), 24_777),
        (SSv2Config(root=str(tmp_path), split="test"), 27_157),
    ]:
        assert config.num_clips() == number
        assert all(artifact.fix for artifact in config.missing())
    whats = " ".join(artifact.what for artifact in SSv2Config(root=str(tmp_path)).missing())
    assert "train.json" in whats and "labels.json" in whats and "videos" in whats
    with pytest.raises(ValidationError, match=r"train, validation, test.*'val'"):
        SSv2Config(root=str(tmp_path), split="val")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train", "{not json", "not JSON"),
        ("train", json.dumps({"id": "1"}), "expected a list"),
        ("train", json.dumps([{"label": "x"}]), "expected entries"),
        ("train", json.dumps([]), "lists no clips"),
        ("train", json.dumps(TRAIN + TRAIN[:1]), "78687 stands there twice"),
        ("train", json.dumps([{"id": "1", "template": "Eating [something]"}]), "Eating something.*not a class"),
        ("labels", json.dumps({"a": "0", "b": "2"}), "not numbered 0 to 1"),
        ("labels", json.dumps({"a": "first"}), "expected"),
        ("labels", json.dumps(["a"]), "expected"),
    ],
)
def test_annotations_with_mistakes_name_the_file(tmp_path, name, content, words):
    write_ssv2(tmp_path)
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(DataError, match=words):
        build(SSv2Config(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(TRAIN)[:-1], "not JSON"),
        (json.dumps(TRAIN) + "]", "not JSON"),
        (json.dumps(TRAIN).replace(",", ",,", 1), "not JSON"),
        (json.dumps(TRAIN).encode().replace(b"a cup", b"\xff cup"), "not JSON"),
        (json.dumps({"id": "1"}), "expected a list"),
        (json.dumps([*TRAIN, {"label": "x"}]), "expected entries"),
        (json.dumps([*TRAIN, "78687"]), "expected entries"),
        (json.dumps([]), "lists no clips"),
        (json.dumps(TRAIN + TRAIN[:1]), "78687 stands there twice"),
    ],
)
def test_an_annotation_with_mistakes_is_not_counted(tmp_path, content, words):
    write_ssv2(tmp_path)
    (tmp_path / "train.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    for use in (SSv2Config.num_clips, build):
        with pytest.raises(DataError, match=words):
            use(SSv2Config(root=str(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{**entry, "id": int(entry["id"])} for entry in TRAIN]),
        "\ufeff" + json.dumps(TRAIN, indent=2),
        json.dumps([{"more": {"id": "3", "list": [{"id": "4"}]}, **entry} for entry in TRAIN]),
        json.dumps([{**entry, "label": 'a "id": {} \\ \u00fc'} for entry in TRAIN]),
    ],
)
def test_unusual_annotations_are_counted_as_they_are_listed(tmp_path, content):
    write_ssv2(tmp_path)
    (tmp_path / "train.json").write_text(content, encoding="utf-8")
    config = SSv2Config(root=str(tmp_path))
    assert config.num_clips() == len(build(config).clip_ids) == 2


# Counting, whose time is most of what a check takes

TIMER = """
import json, os, sys, time
from salt_clips.config import *
def seconds_of(count):
    begin = time.process_time()
    found = count()
    assert found == int(sys.argv[1]), found
    return time.process_time() - begin
for count in sys.argv[2:]:
    print(min(seconds_of(eval("lambda: " + count)) for _ in range(3)))
assert "torch" not in sys.modules
"""


def seconds_of(num_clips: int, *counts: str) -> list[float]:
    """The CPU seconds that each way of counting takes, in a process whose functions are not checked at every call."""
    command = [sys.executable, "-c", TIMER, str(num_clips), *counts]
    return [
        float(line) for line in subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    ]


@pytest.mark.slow
def test_counting_many_videos_costs_little_more_than_walking_their_folders(tmp_path):
    first = tmp_path / "train" / "first"
    first.mkdir(parents=True)
    for number in range(10_000):
        os.close(os.open(first / f"{number}.mp4", os.O_CREAT | os.O_WRONLY))
    for number in range(16):
        (tmp_path / "train" / f"{number}").symlink_to("first")
    counting, walking = seconds_of(
        170_000,
        f"VideoFolderConfig(root={str(tmp_path)!r}).num_clips()",
        f"sum(len(files) for _, _, files in os.walk({str(tmp_path)!r}, followlinks=True))",
    )
    assert counting < 0.1 + 4 * walking


@pytest.mark.slow
def test_counting_a_long_list_costs_little_more_than_reading_it(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("".join(f"a class/{number}.mp4 {number % 400}\n" for number in range(170_000)))
    counting, reading = seconds_of(
        170_000,
        f"VideoListConfig(list={str(file)!r}).num_clips()",
        f"len([(number, *line.rsplit(maxsplit=1)) for number, line in enumerate(open({str(file)!r}))])",
    )
    assert counting < 0.1 + 5 * reading


@pytest.mark.slow
def test_counting_all_of_something_something_costs_less_than_parsing_it(tmp_path):
    write_ssv2(tmp_path)
    file = tmp_path / "train.json"
    file.write_text(json.dumps([{**TRAIN[0], "id": str(number)} for number in range(168_913)]))
    counting, parsing = seconds_of(
        168_913, f"SSv2Config(root={str(tmp_path)!r}).num_clips()", f"len(json.load(open({str(file)!r})))"
    )
    assert counting < 0.8 * parsing

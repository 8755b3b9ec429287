import pytest

from salt_toolkit import ClipSpec, Grid, Inputs, Reads, StreamSpec, TokenSpec
from salt_toolkit.component import DatasetConfig, TeacherConfig
from salt_toolkit.context import video_inputs
from salt_toolkit.errors import GeometryError
from salt_toolkit.streams import sample_bytes, token_stream

PATCHES = StreamSpec((325, 384), "BF16", Grid(1, 18, 18), prefix=1)


def test_a_stream_knows_its_bytes_and_its_grid():
    assert (PATCHES.numel, PATCHES.num_bytes) == (325 * 384, 2 * 325 * 384)
    assert PATCHES.tokens == TokenSpec(Grid(1, 18, 18), 384)
    assert StreamSpec((128,)).tokens is None
    assert StreamSpec((), "I64").num_bytes == 8
    assert sample_bytes({"a": StreamSpec((), "F32"), "b": StreamSpec((3, 2), "U8")}) == 10
    assert token_stream(TokenSpec(Grid(2, 3, 4), 5)) == StreamSpec((24, 5), "F32", Grid(2, 3, 4))
    assert [StreamSpec((1,), dtype).is_float for dtype in ("F32", "BF16", "F8_E4M3", "U8", "BOOL", "I64")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (((3, 0),), "every axis of a stream has at least one entry"),
        (((3,), "float32"), "dtype is one of BOOL, .*; found 'float32'"),
        (((3,), "I64", None, 0, "bf16"), "I64 is stored as it is; take encoding = 'bf16' away"),
        (((3,), "F32", None, 1), "prefix counts the tokens before those of a grid, found 1 and no grid"),
        (((24, 4), "F32", Grid(2, 3, 4), 1), "1 before the grid and .* = 24 tokens., or 2 frames of 13"),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused(arguments, sentence):
    with pytest.raises(GeometryError, match=sentence):
        StreamSpec(*arguments)


def test_a_teacher_with_a_grid_has_one_stream_and_needs_a_clip():
    class Gridded(TeacherConfig):
        def token_spec(self, clip):
            return TokenSpec(Grid.of(clip, tubelet=2, patch=8), 6)

    clip = ClipSpec(frames=4, size=16)
    assert Gridded().streams(video_inputs(clip)) == {"latents": StreamSpec((8, 6), "F32", Grid(2, 2, 2))}
    with pytest.raises(GeometryError, match=r"the recipe has no \[clip\] section; add one"):
        Gridded().streams(Inputs({}))


def test_a_data_set_of_videos_needs_a_clip():
    clip = ClipSpec(frames=4, size=16)
    assert DatasetConfig().sample_spec(clip) == {"clip": StreamSpec((4, 16, 16, 3), "U8")}
    with pytest.raises(GeometryError, match=r"the recipe has no \[clip\] section; add one"):
        DatasetConfig().sample_spec(None)


def test_what_moves_and_what_has_no_effect_is_no_part_of_an_identity():
    class Rooted(DatasetConfig):
        movable = ("root",)
        root: str = "here"
        colours: int = 3

    still = ClipSpec(frames=4, size=16, crop_scale=(0.1, 1.0), views=2)
    found = Rooted(root="there", split="val").identity(video_inputs(still, seed=5))
    assert found == Rooted().identity(video_inputs(ClipSpec(frames=4, size=16), seed=5))
    assert found["colours"] == 3 and found["seed"] == 5 and found["clip"]["size"] == 16
    assert Rooted(colours=4).identity(Inputs({}, seed=5)) == {"colours": 4, "seed": 5}


def test_a_clip_says_whether_chance_decides_it():
    assert ClipSpec().draws
    assert not ClipSpec(start="center").draws
    assert ClipSpec(start="center", crop="random_resized").draws
    assert ClipSpec(start="center", flip=True).draws
    assert not ClipSpec(flip=True, crop="random_resized").for_evaluation().draws


def test_an_unknown_tensor_is_named_with_those_that_there_are():
    inputs = Inputs({"table": StreamSpec((128,))})
    assert inputs.tensor("table").shape == (128,)
    with pytest.raises(GeometryError, match="reads the tensor 'clip', and samples of this data set have: table"):
        inputs.tensor("clip")


def test_reads_name_teachers_or_single_streams():
    reads = Reads(streams=("motion", "still.patches"))
    asked = [("motion", "latents"), ("still", "patches"), ("still", "class_token"), ("third", "latents")]
    assert [reads.reads_stream(*each) for each in asked] == [True, True, False, False]
    assert Reads().reads_stream("third", "latents")

"""A plugin without video, as its author writes it: configs and hooks, and torch inside the build functions only.

A table with vector labels and captions, a teacher with two outputs, a method with two exported modules; and a teacher
of video that keeps an image model's class token of every frame.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from salt_toolkit import Component, Cost, DatasetConfig, Grid, MethodConfig, Reads, StreamSpec, TeacherConfig, hookimpl


class RowsConfig(DatasetConfig):
    rows: int = Field(16, description="Rows of the table.")
    width: int = Field(128, description="Features of a row.")

    def num_clips(self):
        return self.rows

    def sample_spec(self, clip):
        return {"features": StreamSpec((self.width,)), "unread": StreamSpec((3,), "I64")}

    def label_spec(self):
        return StreamSpec((2,))


class PairConfig(TeacherConfig):
    def reads(self):
        return ("features",)

    def streams(self, inputs):
        return {"wide": StreamSpec((6,)), "sign": StreamSpec((), "I64")}

    def cost(self, inputs):
        width = inputs.tensor("features").shape[0]
        return Cost(parameters=6 * width, forward_flops=12 * width)


class FramesConfig(TeacherConfig):
    """Every frame by itself: its class token, then those of its patches, 14 pixels to a side."""

    dim: int = Field(384, description="Numbers in a token.")

    def streams(self, inputs):
        side = inputs.video.size // 14
        grid = Grid(inputs.video.frames, side, side)
        return {"features": StreamSpec((grid.frames, 1 + side * side, self.dim), grid=grid, prefix=1)}


class FitConfig(MethodConfig):
    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    stream: str = Field("wide", description="The teacher's output to fit.")

    def reads(self):
        return Reads(("features",), ("teacher.wide",))

    def check(self, context):
        known = list(context.teachers["teacher"])
        return {} if self.stream in known else {"stream": f"found {self.stream!r}; the teacher gives {known}"}

    def cost(self, context):
        return Cost(parameters=128 * 8 + 8 * 8, forward_flops=2 * (128 * 8 + 8 * 8))


def build_rows(config):
    from table_parts import Rows

    return Rows(config)


def build_pair(config, *, inputs):
    from table_parts import Pair

    return Pair(inputs)


def build_frames(config, *, clip):
    from table_parts import Frames

    return Frames(config.dim)


def build_fit(config, *, parts):
    from table_parts import Fit

    return Fit(parts)


@hookimpl
def salt_datasets():
    yield Component("rows", RowsConfig, build_rows, "Rows of a table.")


@hookimpl
def salt_teachers():
    yield Component("pair", PairConfig, build_pair, "Two outputs.")
    yield Component("frames", FramesConfig, build_frames, "Image features with the class token of every frame.")


@hookimpl
def salt_methods():
    yield Component("fit", FitConfig, build_fit, "Fits both.")

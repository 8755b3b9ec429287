"""What the configs of `table_plugin` describe."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from salt_toolkit.contracts import ClipBatch, Method, ParameterGroup, Sample, StepOutput, Teacher


class Rows:
    class_names = ()

    def __init__(self, config):
        self.clip_ids = [f"row{index}" for index in range(config.rows)]
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(config.rows, config.width, generator=generator)

    def read(self, index, view):
        tensors = {"features": self.features[index], "unread": torch.arange(3)}
        return Sample(self.clip_ids[index], tensors, self.features[index, :2], f"the row {index}")

    def read_many(self, indices, view):
        rows = list(indices)
        tensors = {"features": self.features[rows], "unread": torch.arange(3).repeat(len(rows), 1)}
        ids = tuple(self.clip_ids[index] for index in rows)
        return ClipBatch(ids, tensors, self.features[rows, :2], tuple(f"the row {index}" for index in rows))


class Pair(Teacher):
    calls: ClassVar[list[int]] = []  # samples of each forward pass

    def __init__(self, inputs):
        super().__init__()
        self.wide = nn.Linear(inputs.tensor("features").shape[0], 6, bias=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, batch):
        features = batch.tensors["features"]
        Pair.calls.append(len(features))
        return {"wide": self.wide(features), "sign": (features.sum(dim=1) > 0).long()}


class Frames(Teacher):
    def __init__(self, dim):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 14, stride=14)
        self.class_token = nn.Parameter(torch.zeros(dim))
        self.requires_grad_(False)
        self.eval()

    def forward(self, batch):
        frames = batch.clip.float().transpose(1, 2) / 255
        tokens = self.patches(frames.flatten(0, 1)).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(tokens), 1, -1)
        return {"features": torch.cat([first, tokens], dim=1).unflatten(0, frames.shape[:2])}


class Fit(Method):
    seen: ClassVar[list] = []

    def __init__(self, parts):
        super().__init__()
        width = parts.context.inputs.tensor("features").shape[0]
        targets = parts.context.teachers["teacher"]["wide"].shape[0] + parts.context.labels.shape[0]
        self.teacher = parts.teachers["teacher"]
        self.trunk, self.head = nn.Linear(width, 8, bias=False), nn.Linear(8, targets, bias=False)

    def owned_modules(self):
        return {"trunk": self.trunk, "head": self.head}

    def exports(self):
        return self.owned_modules()

    def parameter_groups(self):
        return [ParameterGroup(list(self.head.parameters()), lr=0.0)]

    def forward(self, batch):
        Fit.seen.append((sorted(batch.tensors), batch.labels, batch.captions))
        targets = torch.cat([self.teacher.outputs(batch)["wide"], batch.labels], dim=1)
        return StepOutput((self.head(self.trunk(batch.tensors["features"])) - targets).square().mean(), {})

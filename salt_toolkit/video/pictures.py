"""From a decoded picture to a clip's frame: crop, resize, flip."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from salt_toolkit.views import View


def cut_out(
    picture: UInt8[np.ndarray, "height width channels"], view: View, size: int
) -> UInt8[np.ndarray, "size size channels"]:
    """Cuts the view's box out of a picture and resizes it to ``size`` x ``size`` pixels.

    Bilinear with antialiasing, computed on the box only, so that pixels outside never bleed in.
    """
    box = picture[view.top : view.top + view.height, view.left : view.left + view.width]
    # Add the batch axis before permuting: torch then recognises channels_last, its fast layout.
    channels_last = torch.from_numpy(np.ascontiguousarray(box))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(channels_last, (size, size), mode="bilinear", antialias=True)
    frame = resized.permute(0, 2, 3, 1)[0].numpy()
    return frame[:, ::-1] if view.flip else frame

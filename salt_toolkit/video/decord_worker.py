"""The process in which decord decodes: a file that makes decord abort ends this process, and nobody else's.

Run as ``python decord_worker.py`` with pipes. A request is one line of JSON; an answer is a line of JSON, followed by
as many bytes as its ``bytes`` says. The process ends with its input, and so never outlives the one that it serves.
It imports decord and NumPy alone, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import decord
import numpy as np

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


def serve() -> None:
    """Answers requests until the input ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    decord.logging.set_level(decord.logging.QUIET)
    opened: dict[str, Any] = {}  # the one open file
    for line in requests:
        request = json.loads(line)
        pixels = np.empty(0, np.uint8)
        try:
            path = request["path"]
            if path not in opened:
                opened.clear()
                if path:
                    opened[path] = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            if "frames" in request:
                pixels = np.ascontiguousarray(opened[path].get_batch(request["frames"]).asnumpy())
                answer = {"shape": list(pixels.shape)}
            elif path:
                num_frames = len(opened[path])
                answer = {"num_frames": num_frames, "shape": list(opened[path][0].shape) if num_frames > 1 else []}
            else:
                answer = {}
        except Exception as error:  # a file may raise anything, and the next one must still be read
            # A time and a place in C++ stand before the reason, and a stack after it.
            opened.clear()
            reason = _PLACE.sub("", str(error)).strip().partition("\n")[0]
            answer = {"error": reason or type(error).__name__}
        answers.write(json.dumps({**answer, "bytes": pixels.nbytes}).encode() + b"\n")
        answers.write(pixels.data)
        answers.flush()


if __name__ == "__main__":
    serve()

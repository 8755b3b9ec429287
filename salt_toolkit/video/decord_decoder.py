"""The decoder that much of the field's code uses, for comparison with it.

decord finds frames by seeking, and silently returns wrong ones on AVI and MPEG-TS, on MP4 with edit lists, and on open
groups of pictures; it does not report damage either, and some damaged files make it abort the whole process. Its last
release is of 2021, for Linux on x86-64 and Windows only. Prefer "pyav" unless a number must be reproduced.

Since it may abort, it runs in processes of its own, one for each reading thread (`decord_worker`).
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from salt_toolkit.errors import BadClip
from salt_toolkit.video import pictures
from salt_toolkit.views import View

TIME_LIMIT = 120.0
"""Seconds without an answer after which a file counts as unreadable."""

_local = threading.local()


class DecordReader:
    """One video, opened with decord; see `reader.VideoReader`."""

    def __init__(self, path: str) -> None:
        self.path = path
        found, _ = self._ask({"path": path})
        self.num_frames: int = found["num_frames"]
        if self.num_frames < 2:
            raise BadClip(path, "it holds no second picture: a still image is no clip")
        self.height, self.width = found["shape"][:2]

    def __enter__(self) -> DecordReader:
        return self

    def __exit__(self, *exception: object) -> None:
        worker = getattr(_local, "worker", None)
        if worker is not None and worker.alive:
            self._ask({"path": ""})

    def read(self, view: View, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
        """Decodes a view; see `reader.VideoReader.read`."""
        found, pixels = self._ask({"path": self.path, "frames": list(view.frames)})
        stored = pixels.reshape(found["shape"])
        return np.stack([pictures.cut_out(picture, view, size) for picture in stored])

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """Sends a request to this thread's worker.

        Raises:
            BadClip: decord cannot do it, or has crashed or hung over it.
        """
        worker = getattr(_local, "worker", None)
        if worker is None or not worker.alive:
            worker = _local.worker = _Worker()
        try:
            answer, pixels = worker.ask(request)
        except EOFError as error:
            reason = f'decord crashes over it ({worker.end()}); decoder = "pyav" may read it'
            raise BadClip(self.path, reason) from error
        except TimeoutError as error:
            worker.kill()
            raise BadClip(self.path, f"decord does not answer within {TIME_LIMIT:.0f} s; it was ended") from error
        if "error" in answer:
            raise BadClip(self.path, f"decord cannot decode it: {answer['error']}")
        return answer, pixels


class _Worker:
    """A process that decodes with decord, and belongs to one thread."""

    def __init__(self) -> None:
        # By its path: the package around it would import torch.
        script = Path(__file__).with_name("decord_worker.py")
        # decord writes "ERROR opening: ..." to its error stream, with no switch against it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the run, which ends its workers itself
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._selector.register(self._out, selectors.EVENT_READ)
        # Ended with its thread, or with the interpreter.
        weakref.finalize(self, _end, self._process, self._selector)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        """Sends a request, and waits for the answer.

        Raises:
            EOFError: The process has died.
            TimeoutError: It does not answer.
        """
        try:
            self._in.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError as error:
            raise EOFError from error
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._some(1)
        answer = json.loads(line)
        pixels = np.empty(answer["bytes"], np.uint8)
        filled = 0
        while filled < len(pixels):
            part = self._some(min(len(pixels) - filled, 1 << 20))
            pixels[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
        return answer, pixels

    def _some(self, count: int) -> bytes:
        if not self._selector.select(TIME_LIMIT):
            raise TimeoutError
        part = self._out.read(count)
        if not part:
            raise EOFError
        return part

    def kill(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def end(self) -> str:
        """How it has ended."""
        status = self._process.wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def _end(process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
    selector.close()
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()

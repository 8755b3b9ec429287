"""Standard output belongs to the command: what plugins and their libraries print goes to standard error.

A program that reads ``salt check --json`` must get JSON and nothing else, whatever a plugin prints when it is
imported, asked or built, in Python or in C.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import typer
from typer.core import TyperCommand

from salt_toolkit.errors import explain

STDOUT = 1
STDERR = 2

_kept: list[TextIO] = []
"""Standard output while it is kept from others; the last one is written to."""


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Keeps standard output for `write`; for everybody else it is standard error until the block ends."""
    ours = sys.stdout
    with contextlib.ExitStack() as stack:
        if _is_the_process_stdout(ours):
            ours = stack.enter_context(_apart(ours))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        _kept.append(ours)
        stack.callback(_kept.pop)
        yield


def _is_the_process_stdout(stream: TextIO) -> bool:
    """Whether a stream is the process's own, and not one that a test or a notebook has put in its place."""
    try:
        return stream.fileno() == STDOUT
    except (AttributeError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _apart(stream: TextIO) -> Iterator[TextIO]:
    """Standard output under another descriptor, its own given to standard error for what is not Python."""
    stream.flush()
    kept = os.dup(STDOUT)
    try:
        with contextlib.suppress(OSError):  # a process may have been started without standard error
            os.dup2(STDERR, STDOUT)
        # A name of bytes that are no text must not end a report: escaped, it is still valid JSON.
        ours = open(kept, "w", encoding=stream.encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
        yield ours
    finally:
        os.dup2(kept, STDOUT)
        os.close(kept)


def write(text: str) -> None:
    """Prints to the real standard output.

    Raises:
        SaltError: It cannot be written to.
        BrokenPipeError: Nobody reads it any more.
    """
    stream = _kept[-1] if _kept else sys.stdout
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise explain(error, "standard output") from error


def leave_stdout() -> None:
    """Gives standard output away for good, before the process ends: what is printed at exit goes to standard error.

    Raises:
        SaltError: What was printed before cannot be written.
    """
    try:
        with contextlib.suppress(BrokenPipeError, ValueError):
            sys.stdout.flush()
    except OSError as error:
        raise explain(error, "standard output") from error
    finally:
        with contextlib.suppress(OSError):
            os.dup2(STDERR, STDOUT)


def write_json(values: Any, *, indent: int | None = 2) -> None:
    """Prints plain values as JSON, as `write` does."""
    write(json.dumps(values, indent=indent, ensure_ascii=False))


def log(message: str) -> None:
    """Says on standard error what is being done."""
    with contextlib.suppress(BrokenPipeError):
        typer.echo(f"salt: {message}", err=True)


class CoreCommand(TyperCommand):
    """A command of the toolkit itself; standard output is its own."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; a plugin's commands print as they like."""
        with own_stdout():
            return super().invoke(ctx)

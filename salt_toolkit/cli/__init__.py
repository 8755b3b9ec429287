"""The salt command, one file for each group of commands."""

from salt_toolkit.cli.app import main

__all__ = ["main"]

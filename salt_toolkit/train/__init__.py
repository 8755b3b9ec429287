"""The training loop and what it leaves behind."""

from salt_toolkit.train.loop import Outcome, train

__all__ = ["Outcome", "train"]

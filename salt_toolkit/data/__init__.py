"""From a dataset to batches: order, loading ahead, and the bad-clip log."""

from salt_toolkit.data.loading import BatchLoader
from salt_toolkit.data.order import ClipOrder
from salt_toolkit.data.quarantine import Quarantine

__all__ = ["BatchLoader", "ClipOrder", "Quarantine"]

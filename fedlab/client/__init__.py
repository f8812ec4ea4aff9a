"""Local training, by engines that give the same numbers."""

from fedlab.client.batched import batched
from fedlab.client.local import batches, plan, sequential, tickets

__all__ = ["batched", "batches", "plan", "sequential", "tickets"]

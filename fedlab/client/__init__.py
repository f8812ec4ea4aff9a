"""Local training, by engines that give the same numbers."""

from fedlab.client.batched import batched
from fedlab.client.local import Train, assign, batches, lr_sum, plan, probe, sequential, stack, tickets, updates

__all__ = ["Train", "assign", "batched", "batches", "lr_sum", "plan", "probe", "sequential", "stack", "tickets", "updates"]

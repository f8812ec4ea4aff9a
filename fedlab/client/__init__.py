"""Local training, by engines that give the same numbers."""

from fedlab.client.batched import batched, forward
from fedlab.client.local import Train, assign, batches, lr_sum, plan, probe, sequential, stack, tickets, updates
from fedlab.client.zeroth import zeroth_order

__all__ = [
    "Train",
    "assign",
    "batched",
    "batches",
    "forward",
    "lr_sum",
    "plan",
    "probe",
    "sequential",
    "stack",
    "tickets",
    "updates",
    "zeroth_order",
]

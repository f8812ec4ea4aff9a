"""Local training, by engines that give the same numbers."""

from fedlab.client.batch_plan import assign, batches, plan, stack, tickets
from fedlab.client.batched import batched, forward
from fedlab.client.schedules import cosine, warm_up
from fedlab.client.sequential import Train, lr_sum, probe, sequential, updates
from fedlab.client.zeroth_order import zeroth_order

__all__ = [
    "Train",
    "assign",
    "batched",
    "batches",
    "cosine",
    "forward",
    "lr_sum",
    "plan",
    "probe",
    "sequential",
    "stack",
    "tickets",
    "updates",
    "warm_up",
    "zeroth_order",
]

"""Local training, by engines that give the same numbers."""

from fedlab.client.batch_plan import assign, batches, plan, shuffle_keys, stack_plans
from fedlab.client.batched import batched, batched_forward
from fedlab.client.schedules import cosine, warm_up
from fedlab.client.sequential import Train, full_gradients, lr_sum, sequential, updates
from fedlab.client.zeroth_order import zeroth_order

__all__ = [
    "Train",
    "assign",
    "batched",
    "batches",
    "cosine",
    "batched_forward",
    "lr_sum",
    "plan",
    "full_gradients",
    "sequential",
    "stack_plans",
    "shuffle_keys",
    "updates",
    "warm_up",
    "zeroth_order",
]

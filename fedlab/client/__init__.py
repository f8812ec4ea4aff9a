"""Local training, by engines that agree on the numbers.

An engine is a function ``train(task, x, y, work) -> Updates``.  Read the room in this order:

- ``batch_plan``: the batches of a cohort (``plan``) and its work (``assign``);
- ``sequential``: the readable engine, one client after another;
- ``batched``: the fast engine, all clients at once, with a drawing of its parts;
- ``zeroth_order``: training by forward passes only;
- ``schedules``: learning rates that change with the round.

Example:
    >>> import numpy as np, torch
    >>> from fedlab.core import Local, Task
    >>> def squared_error(output, y):
    ...     return (output - y)[:, 0] ** 2
    >>> task = Task(lambda: torch.nn.Linear(1, 1, bias=False), squared_error, {})
    >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
    >>> parts, local = [np.array([0]), np.array([1])], Local(0.1)
    >>> batches = plan(parts, seed=0, round=1, local=local, num_examples=2)
    >>> work = assign(torch.zeros(1), parts, [local, local], batches)
    >>> updates = batched(task, x, y, work)
    >>> torch.allclose(updates.delta, sequential(task, x, y, work).delta)
    True
"""

from fedlab.client.batch_plan import assign, batches, plan, shuffle_keys, stack_plans
from fedlab.client.batched import batched, batched_forward
from fedlab.client.schedules import cosine, step_decay, warm_up
from fedlab.client.sequential import Train, full_gradients, lr_sum, sequential
from fedlab.client.zeroth_order import zeroth_order

__all__ = [
    "Train",
    "assign",
    "batched",
    "batched_forward",
    "batches",
    "cosine",
    "full_gradients",
    "lr_sum",
    "plan",
    "sequential",
    "shuffle_keys",
    "stack_plans",
    "step_decay",
    "warm_up",
    "zeroth_order",
]

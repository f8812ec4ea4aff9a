"""The records of federated learning: data, tasks, algorithms, messages, experiments.

A model is one row ``w [d]``, and the updates of a cohort are a matrix ``[m, d]``, one row per
client.  Read the room in this order:

- ``experiment``: ``Local`` training, an ``Experiment`` and its ``Result``;
- ``dataset`` and ``task``: the examples of each client; the model, loss and metrics;
- ``algorithm``: an ``Algorithm`` as four functions, and the records of a round;
- ``message``: updates on their way, and the transforms that compress them;
- ``params``, ``lazy_rows`` and ``client_table``: rows of numbers;
- ``rng``: a generator for each purpose, named and independent of all others;
- ``validate``, ``modules`` and ``repeats``: checks, whose errors name value, limit and remedy.

Example:
    >>> import numpy as np, torch
    >>> x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> parts = [np.array([0, 1]), np.array([2, 3])]
    >>> FederatedDataset(x, y, parts, (x, y), name="toy", classes=("a", "b"))
    <FederatedDataset 'toy': 4 examples of shape [4], 2 clients with 2 to 2 of them, and 4 to test>
"""

from fedlab.core.algorithm import Algorithm, Cohort, Phase, Terms, Updates, Work
from fedlab.core.client_table import ClientTable
from fedlab.core.dataset import FederatedDataset
from fedlab.core.experiment import Budget, Experiment, Local, Result, label_column
from fedlab.core.lazy_rows import split_rows, weighted_sum
from fedlab.core.message import Message, Stage, Transform, identity
from fedlab.core.params import views
from fedlab.core.rng import generator
from fedlab.core.task import Task, once_per_task

__all__ = [
    "Algorithm",
    "Budget",
    "ClientTable",
    "Cohort",
    "Experiment",
    "FederatedDataset",
    "Local",
    "Message",
    "Phase",
    "Result",
    "Stage",
    "Task",
    "Terms",
    "Transform",
    "Updates",
    "Work",
    "generator",
    "identity",
    "label_column",
    "once_per_task",
    "split_rows",
    "views",
    "weighted_sum",
]

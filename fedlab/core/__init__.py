"""The nouns of federated learning: data, tasks, algorithms, messages, experiments."""

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

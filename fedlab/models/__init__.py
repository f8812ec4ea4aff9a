"""Models, and which of their parameters train: a ``Task`` for every kind of example.

Read the modules in this order:

- ``tabular``, ``vision``: ``logistic_regression``, ``mlp``, ``least_squares``; ``cnn``, ``resnet``.
- ``measures``: AUC and other numbers for all test examples at once.
- ``language``: pretrained transformers, texts as data, tasks, export to peft and transformers.
- ``adapters``: the part of a transformer that trains, such as ``lora``; ``blocks`` and
  ``adapted_layers`` find its layers.
- ``activation_cache``, ``random_subspace``: cheaper training of large models.
- ``subnetworks``, ``compress``: hidden units, smaller models, pruning, integer weights.
- ``early_exit``, ``continual``: predictions after the first blocks, and training that continues.

Example:
    >>> import torch
    >>> from fedlab.core import params
    >>> from fedlab.data import load
    >>> data = load("digits", clients=10)
    >>> task = mlp(data, hidden=(32,))
    >>> w = params.flatten(task.model())  # all parameters as one row
    >>> w.shape, task.forward(w, data.x[:5]).shape
    (torch.Size([2410]), torch.Size([5, 10]))
"""

from fedlab.models.activation_cache import cache_activations
from fedlab.models.adapters import (
    everything,
    ffa_lora,
    head_only,
    last_layers,
    lora,
    lora_sb,
    prompt,
)
from fedlab.models.continual import starting_at, without_forgetting
from fedlab.models.early_exit import exit_early, with_exits
from fedlab.models.language import (
    classifier,
    instructions,
    language_modelling,
    load_adapter,
    perplexity,
    pretrain,
    pretrained,
    save_adapter,
    save_model,
    text_classification,
    tiny,
    token_prediction,
    untrained,
    with_head,
)
from fedlab.models.measures import auc, balanced_accuracy
from fedlab.models.random_subspace import random_subspace
from fedlab.models.subnetworks import (
    first_units,
    hidden_units,
    model_masks,
    shrink,
    side_by_side,
    unit_mask,
)
from fedlab.models.tabular import classification, least_squares, logistic_regression, mlp
from fedlab.models.vision import cnn, resnet

__all__ = [
    "auc",
    "balanced_accuracy",
    "cache_activations",
    "classification",
    "classifier",
    "cnn",
    "everything",
    "exit_early",
    "ffa_lora",
    "first_units",
    "head_only",
    "hidden_units",
    "instructions",
    "language_modelling",
    "last_layers",
    "least_squares",
    "load_adapter",
    "logistic_regression",
    "lora",
    "lora_sb",
    "mlp",
    "model_masks",
    "perplexity",
    "pretrain",
    "pretrained",
    "prompt",
    "random_subspace",
    "resnet",
    "save_adapter",
    "save_model",
    "shrink",
    "side_by_side",
    "starting_at",
    "text_classification",
    "tiny",
    "token_prediction",
    "unit_mask",
    "untrained",
    "with_exits",
    "with_head",
    "without_forgetting",
]

"""What is learned."""

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

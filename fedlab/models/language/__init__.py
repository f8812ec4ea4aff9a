"""Pretrained transformers in a federation: BERT, GPT, Llama, T5 and their relatives.

Read the modules in this order:

- ``load``: a ``LanguageModel`` from MiniLM's package, a folder or the hub's cache (``fetch``).
- ``tiny``: small models with random weights, and central pretraining.
- ``tokens``: texts as token numbers ``[n, L]``; -1 is padding, so no tokenizer needs a pad token.
- ``datasets``, ``chat``: texts divided over clients, with classes or tokens to predict.
- ``network``: the module of a task, a frozen transformer with its trainable part.
- ``tasks``: ``classifier`` and ``language_modelling``, with their losses and metrics.
- ``export``: trained rows as files of peft and transformers.

Example:
    >>> from fedlab.data import read_texts
    >>> from fedlab.models import lora
    >>> texts = read_texts([{"text": f"{k} and {k + 1} are {2 * k + 1}"} for k in range(20)])
    >>> model = tiny("gpt2", texts.texts, width=16, depth=1, vocabulary=300)
    >>> data = token_prediction(model, texts, clients=4)
    >>> task = language_modelling(model, lora(2))
    >>> data.num_clients, sum(shape.numel() for shape in task.shapes.values())
    (4, 128)
"""

from fedlab.models.language.chat import instructions
from fedlab.models.language.datasets import text_classification, token_prediction
from fedlab.models.language.export import load_adapter, save_adapter, save_model
from fedlab.models.language.load import LanguageModel, pretrained, untrained
from fedlab.models.language.network import ModelFactory
from fedlab.models.language.tasks import (
    check_targets,
    classifier,
    language_modelling,
    perplexity,
    token_loss,
    trainable_part,
    with_head,
)
from fedlab.models.language.tiny import pretrain, tiny
from fedlab.models.language.tokens import tokenize

__all__ = [
    "LanguageModel",
    "ModelFactory",
    "check_targets",
    "classifier",
    "instructions",
    "language_modelling",
    "load_adapter",
    "perplexity",
    "pretrain",
    "pretrained",
    "save_adapter",
    "save_model",
    "text_classification",
    "tiny",
    "token_loss",
    "token_prediction",
    "tokenize",
    "trainable_part",
    "untrained",
    "with_head",
]

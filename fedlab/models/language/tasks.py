"""Tasks of language models: to classify texts, or to predict tokens."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor

from fedlab.core import FederatedDataset, Task
from fedlab.core.rng import seeded
from fedlab.core.validate import check_whole
from fedlab.models.adapters import Trainable, head_only
from fedlab.models.blocks import blocks
from fedlab.models.language.load import LanguageModel
from fedlab.models.language.network import Backbone, ModelFactory, decoder_start
from fedlab.models.language.tokens import IGNORED, token_counts
from fedlab.models.tabular import classification


def classifier(
    model: LanguageModel,
    classes: int | Sequence[str],
    trainable: Trainable | None = None,
    *,
    gradient_checkpointing: bool = False,
) -> Task:
    """Return the task of classifying texts with a linear head.

    The head reads the mean over a text's tokens; of a decoder it reads the last token.

    Args:
        model: The language model.
        classes: Number or names of the classes.
        trainable: The part of the model that trains beside the head, such as ``lora(8)``.
            Default: the head alone.
        gradient_checkpointing: Store only the input of each block, and recompute the block in the
            backward pass: less memory, a third more time.

    Returns:
        A task for ``text_classification``.

    Example:
        >>> from fedlab.models import lora, tiny
        >>> model = tiny("bert", ["abc"], width=16, depth=1, vocabulary=300)
        >>> task = classifier(model, ["spam", "mail"], lora(2))
        >>> sum(shape.numel() for shape in task.shapes.values())
        162
    """
    has_names = (
        isinstance(classes, Sized)
        and not isinstance(classes, str | bytes)
        and getattr(classes, "ndim", 1) == 1
    )
    outputs = len(classes) if has_names else classes
    check_whole(2, classes=outputs)
    factory = ModelFactory(model, trainable or head_only(), outputs, gradient_checkpointing)
    return replace(classification(factory), lengths=token_counts)


def with_head(task: Task, head: Tensor) -> Task:
    """Return the same classifier with a head that was trained alone before.

    Linear probing, then fine-tuning: Kumar et al. 2022. Adapters then need not adapt to a random
    head.

    Args:
        task: A task of ``classifier``.
        head: Parameters of the head, as one row of numbers.

    Raises:
        ValueError: If the task is no classifier, has initial parameters already, or the row has
            another length.
    """
    factory = task.model
    if not isinstance(factory, ModelFactory) or factory.outputs is None:
        raise ValueError(
            "with_head must have a classifier of a language model. Try classifier(model, classes)"
        )
    size = factory.outputs * (factory.model.width + 1)
    if head.shape != (size,):
        raise ValueError(
            f"head must be a row of {size} numbers (its shape is {list(head.shape)}). Try the row "
            "of a classifier with head_only()"
        )
    if factory.row is not None:
        raise ValueError(
            "with_head must come before starting_at (the task's initial row has a head already). "
            "Try starting_at(with_head(task, head), w)"
        )
    return replace(task, model=replace(factory, head=head))


def language_modelling(
    model: LanguageModel, trainable: Trainable, *, gradient_checkpointing: bool = False
) -> Task:
    """Return the task of predicting tokens with the head that the model was published with.

    The loss is the mean over a text's predicted tokens. Reported are accuracy, the sum ``nats``
    of the loss per text and its number of predicted ``tokens``; ``perplexity`` combines the two.

    Args:
        model: A language model with such a head; MiniLM has none.
        trainable: The part of the model that trains, such as ``lora(8)`` or ``everything()``.
        gradient_checkpointing: Store only the input of each block, and recompute the block in the
            backward pass: less memory, a third more time.

    Returns:
        A task for ``token_prediction`` and ``instructions``.

    Raises:
        ValueError: If the model has no head for language modelling, or nothing trains.

    Example:
        >>> from fedlab.models import everything, tiny
        >>> model = tiny("gpt2", ["abc"], width=16, depth=1, vocabulary=300)
        >>> sorted(language_modelling(model, everything()).metrics)
        ['accuracy', 'nats', 'tokens']
    """
    if model.network.get_output_embeddings() is None:
        raise ValueError(
            f"{model.name} must have a head for language modelling (it was published without). "
            "Try a decoder, or tiny(...)"
        )
    if model.kind == "encoder-decoder" and decoder_start(model.network) is None:
        raise ValueError(
            f"{model.name} must name the start token of its decoder (its config has no "
            "decoder_start_token_id). Try a model whose config names it"
        )
    metrics = {"accuracy": token_accuracy, "nats": token_nats, "tokens": num_targets}
    factory = ModelFactory(model, trainable, None, gradient_checkpointing)
    task = Task(factory, loss=token_loss, metrics=metrics, lengths=token_counts)
    if not task.shapes:
        raise ValueError(
            "trainable=head_only() must leave something to train (language modelling adds no head "
            "of its own). Try everything() or lora()"
        )
    return task


def token_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy in nats, averaged over a text's predicted tokens.

    Args:
        output: Logits ``[B, L, vocabulary]``.
        y: Labels ``[B, L]``, -100 for tokens that are not predicted.

    Returns:
        One number per text ``[B]``.
    """
    return token_nats(output, y) / num_targets(output, y)


def token_nats(output: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy in nats, summed over a text's predicted tokens ``[B]``."""
    y = y[:, : output.shape[1]]
    losses = F.cross_entropy(
        output.flatten(0, 1), y.flatten(), reduction="none", ignore_index=IGNORED
    )
    return losses.view(y.shape).sum(1)


def num_targets(output: Tensor, y: Tensor) -> Tensor:
    """Return the number of predicted tokens of each text ``[B]``."""
    return (y[:, : output.shape[1]] != IGNORED).sum(1)


def token_accuracy(output: Tensor, y: Tensor) -> Tensor:
    """Return the share of a text's tokens whose logit is the largest ``[B]``."""
    y = y[:, : output.shape[1]]
    return ((output.argmax(-1) == y) & (y != IGNORED)).sum(1) / num_targets(output, y)


def check_targets(data: FederatedDataset) -> None:
    """Check that every text has a token to predict: the mean loss of no token is undefined.

    Raises:
        ValueError: If a text has none.
    """
    for name, y in {"training": data.y, "test": data.test[1]}.items():
        has_target = (y != IGNORED).any(1)
        if not has_target.all():
            raise ValueError(
                f"{name} labels must have a token to predict in every text "
                f"({int((~has_target).sum()):,} of {len(has_target):,} have only {IGNORED}; the "
                f"first is text {int(has_target.int().argmin())}). Try token_prediction, or leave "
                "them out"
            )


def perplexity(scores: Any) -> Any:
    """Return the perplexity per token; every token of the test set has the same weight.

    ``exp(loss)`` gives every text the same weight; it differs if texts differ in length.

    Args:
        scores: Scores of ``evaluate`` for a task of ``language_modelling``, or a table such as
            ``result.rounds``.

    Returns:
        ``exp(nats / tokens)``, from the mean nats and the mean number of predicted tokens per
        text: one number, or a column.

    Example:
        >>> perplexity({"nats": 20.0, "tokens": 10.0}).round(3)
        np.float64(7.389)
    """
    return np.exp(scores["nats"] / scores["tokens"])


def trainable_part(task: Task) -> tuple[Task, int | None]:
    """Return the task without the frozen blocks below the first block that trains.

    Parameters, and their initial values under a seed, stay the same.

    Args:
        task: A task of ``classifier`` or ``language_modelling``.

    Returns:
        The task of the remaining blocks, whose examples are the inputs of its first block, and
        the number of that block. None means that the head alone trains; 0 means that the first
        block trains, and the task is returned as it is.

    Raises:
        ValueError: If the task is none of a language model.
    """
    factory = task.model
    if not isinstance(factory, ModelFactory):
        raise ValueError(
            "trainable_part must have a task of a language model. Try classifier(model, classes)"
        )
    # LMHead reads two texts from x, and cached activations would replace only the first.
    reads_two = factory.model.kind == "encoder-decoder" and factory.outputs is None
    if factory.start != 0 or reads_two:
        return task, factory.start
    with seeded(0, "template"):
        backbone = factory().backbone
    trains = any(p.requires_grad for p in backbone.parameters())
    start = _first_trained_block(backbone) if trains else None
    part = replace(factory, start=start)
    return replace(task, model=part, lengths=None if start is None else token_counts), start


def _first_trained_block(backbone: Backbone) -> int:
    """Return the last block whose input depends on no trainable parameter, or 0 without one."""
    depends: list[bool] = []

    def record(block, args, kwargs):
        depends.append((args[0] if args else kwargs["hidden_states"]).requires_grad)

    hooks = [
        block.register_forward_pre_hook(record, with_kwargs=True)
        for block in blocks(backbone.network)
    ]
    with torch.enable_grad():
        backbone(torch.zeros(1, 1, dtype=torch.int64))
    for hook in hooks:
        hook.remove()
    return max((depends.index(True) if True in depends else len(depends)) - 1, 0)

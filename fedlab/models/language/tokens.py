"""Texts as rows of token numbers, and the tokens that a model learns to predict."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlab.core import generator
from fedlab.core.quiet import quiet
from fedlab.core.validate import check_whole
from fedlab.data.text import as_texts
from fedlab.models.language.load import LanguageModel

IGNORED = -100  # label of a token that is not predicted, as in PyTorch
MASKED_SHARE = 0.15  # share of tokens that an encoder predicts: Devlin et al. 2019


def tokenize(model: LanguageModel, texts: Sequence[str], length: int | None = None) -> Tensor:
    """Return the texts as rows of token numbers, padded with -1.

    A warning is logged with the number of texts that were cut.

    Args:
        model: The model whose tokenizer is used.
        texts: The texts.
        length: Largest number of tokens per text. Default: as many as the model takes.

    Returns:
        Token numbers ``[n, L]``, where L is at most ``length``.

    Raises:
        ValueError: If ``length`` is above the model's limit, or a text has no token.

    Example:
        >>> from fedlab.models import tiny
        >>> model = tiny("gpt2", ["abc"], width=16, depth=1, vocabulary=300)
        >>> tokenize(model, ["a", "abab"]).shape
        torch.Size([2, 4])
        >>> (tokenize(model, ["a", "abab"]) >= 0).sum(1)
        tensor([1, 4])
    """
    rows = token_rows(model, texts, length)
    empty = [i for i, row in enumerate(rows) if not row]
    if empty:
        raise ValueError(
            f"texts[{empty[0]}] must have a token ({len(empty)} of {len(rows)} texts have none). "
            "Try without it"
        )
    return pad_rows(rows)


def token_rows(model: LanguageModel, texts: Sequence[str], length: int | None) -> list[list[int]]:
    """Return the token numbers of each text, an empty list for a text without tokens.

    Args:
        model: The model whose tokenizer is used.
        texts: The texts.
        length: Largest number of tokens per text; None: as many as the model takes.

    Raises:
        ValueError: If there are no texts, or ``length`` is above the model's limit.
    """
    limit, texts = check_length(model, length), as_texts(texts)
    if not texts:
        raise ValueError(
            "texts=[] must have at least one text (there is nothing to read). Try [text]"
        )
    with quiet():
        rows = model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        counts = [len(row) for row in rows]
        for i, count in enumerate(counts):
            if count > limit:  # cut by the tokenizer, which keeps its closing token
                rows[i] = model.tokenizer(texts[i], truncation=True, max_length=limit)["input_ids"]
    log_cut_texts(counts, limit)
    return rows


def check_length(model: LanguageModel, length: int | None) -> int:
    """Return the largest number of tokens per text, the model's own limit for None.

    Raises:
        ValueError: If ``length`` is above the model's limit.
    """
    limit = model.length if length is None else length
    check_whole(1, length=limit)
    if limit > model.length:
        raise ValueError(
            f"length={limit} must be at most {model.length} ({model.name} takes no more tokens). "
            f"Try length={model.length}"
        )
    return limit


def log_cut_texts(counts: Sequence[int], limit: int) -> None:
    """Log the number of texts whose token ``counts`` exceed the limit."""
    cut = sum(count > limit for count in counts)
    if cut:
        logging.getLogger(__name__).warning(
            f"{cut:,} of {len(counts):,} texts have more than {limit} tokens "
            f"(the longest {max(counts):,}) and were cut there"
        )


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the rows as one tensor, padded with -1.

    Example:
        >>> pad_rows([[5, 6, 7], [8]])
        tensor([[ 5,  6,  7],
                [ 8, -1, -1]])
    """
    x = torch.full((len(rows), max([1, *map(len, rows)])), -1)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return x


def token_counts(x: Tensor) -> Tensor:
    """Return the number of tokens of each text ``[B]``, from token numbers or activations.

    The last feature of activations is 1 for a token and 0 for padding.

    Example:
        >>> token_counts(torch.tensor([[5, 6, 7], [8, -1, -1]]))
        tensor([3, 1])
    """
    return ((x[..., -1] > 0) if x.is_floating_point() else x >= 0).sum(1)


def make_targets(model: LanguageModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs and labels for language modelling.

    A decoder predicts every next token. An encoder predicts 15 % of the tokens, at least one per
    text, which its input masks. An encoder-decoder predicts the second half of a text from the
    first.

    Args:
        model: The model that will learn.
        x: Token numbers ``[n, L]``, -1 for padding.

    Returns:
        Inputs and labels ``[n, L]``; labels are -100 for tokens that are not predicted.

    Raises:
        ValueError: If the model is an encoder whose tokenizer has no mask token.
    """
    if model.kind == "decoder":
        return x, next_tokens(x)
    return _masked(model, x) if model.kind == "encoder" else _halves(x)


def next_tokens(x: Tensor) -> Tensor:
    """Return each token's successor ``[n, L]``, -100 after the last one.

    Example:
        >>> next_tokens(torch.tensor([[5, 6, 7, -1]]))
        tensor([[   6,    7, -100, -100]])
    """
    y = torch.full_like(x, IGNORED)
    y[:, :-1] = torch.where(x[:, 1:] >= 0, x[:, 1:], IGNORED)
    return y


def _masked(model: LanguageModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mask a share of the tokens; special tokens, such as [CLS], stay."""
    if model.tokenizer.mask_token_id is None:
        raise ValueError(
            f"{model.name} must have a mask token (an encoder learns by predicting masked tokens, "
            "and its tokenizer has none). Try a decoder, or tiny('bert', texts)"
        )
    words = (x >= 0) & ~torch.isin(x, torch.tensor(model.tokenizer.all_special_ids))
    draws = torch.where(words, torch.from_numpy(generator(0, "masked").random(x.shape)), 1)
    smallest = draws == draws.amin(1, keepdim=True)  # at least one token per text
    masked = (draws < MASKED_SHARE) | (words & smallest)
    inputs = torch.where(masked, model.tokenizer.mask_token_id, x)
    return inputs, torch.where(masked, x, IGNORED)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Put the first and the second half of each text side by side; the second is the label."""
    lengths = (x >= 0).sum(1)
    half, column = (lengths + 1) // 2, torch.arange(x.shape[1])
    first = torch.where(column < half[:, None], x, -1)
    shifted = (column + half[:, None]).clamp(max=x.shape[1] - 1)
    second = torch.where(column < (lengths - half)[:, None], x.gather(1, shifted), -1)
    width = -(-x.shape[1] // 2)
    first, second = first[:, :width], second[:, :width]
    return torch.cat([first, second], 1), torch.where(second >= 0, second, IGNORED)

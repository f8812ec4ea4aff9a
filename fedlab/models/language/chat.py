"""Prompts and responses for instruction tuning, in the turns of a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor

from fedlab.core import FederatedDataset
from fedlab.core.quiet import quiet
from fedlab.data import Split
from fedlab.data.text import Texts
from fedlab.models.language.datasets import READ_LOCK, divide_targets, keep_targets
from fedlab.models.language.load import LanguageModel
from fedlab.models.language.tokens import (
    IGNORED,
    check_length,
    log_cut_texts,
    next_tokens,
    pad_rows,
)

ALPACA = (  # Taori et al. 2023
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n"
)

Rows = list[list[int]]


def instructions(
    model: LanguageModel,
    texts: Texts,
    clients: int | None = None,
    split: Split | None = None,
    seed: int = 0,
    *,
    length: int | None = None,
    template: str | None = None,
) -> FederatedDataset:
    """Tokenize prompts and responses; only the tokens of a response are predicted.

    A decoder reads the prompt and the response in one row, in the turns of the tokenizer's chat
    template. A tokenizer without a chat template gets the Alpaca template, as in FedIT (Zhang et
    al. 2024), and its end token after the response. An encoder-decoder reads the prompt as it is,
    and its decoder writes the response.

    Args:
        model: A decoder or an encoder-decoder.
        texts: Texts with prompts and responses, such as
            ``read_texts(file, prompt="instruction", response="output")``.
        clients: Number of clients. Default: one client per owner of texts.
        split: Rule that divides texts over clients. Default: by owner, or ``iid()`` over
            ``clients``.
        seed: Seed of the split.
        length: Largest number of tokens per row. Default: as many as the model takes. Longer rows
            lose their end.
        template: Text around the prompt, containing ``{prompt}``, in place of the chat template.

    Returns:
        Token numbers ``[n, L]``, -1 for padding, and labels, -100 outside responses, for
        ``language_modelling``. Texts whose response is cut away completely are left out, and a
        warning is logged with their number.

    Raises:
        ValueError: If the texts have no prompts, the model is an encoder, or the template does not
            fit.

    Example:
        >>> from fedlab.data import read_texts
        >>> from fedlab.models import tiny
        >>> rows = [{"prompt": f"Add {k} and 1.", "response": f"{k + 1}"} for k in range(10)]
        >>> texts = read_texts(rows, prompt="prompt", response="response")
        >>> data = instructions(tiny("gpt2", texts.texts, vocabulary=300), texts, clients=2)
        >>> bool((data.y != -100).sum(1).max() <= 3)  # the digits, and the end
        True
    """
    with READ_LOCK:
        tensors = _tokenize_instructions(model, texts, length, template)
    return divide_targets(texts, tensors, clients, split, seed)


@lru_cache(maxsize=8)
def _tokenize_instructions(
    model: LanguageModel, texts: Texts, length: int | None, template: str | None
) -> tuple[Tensor, ...]:
    """Return ``keep_targets`` of the training texts and of the test texts."""
    _check_instructions(model, texts, template)
    limit = check_length(model, length)
    prompt_rows, response_rows = _encode_turns(
        model,
        [*texts.prompts, *texts.test.prompts],
        [*texts.responses, *texts.test.responses],
        template,
    )
    shortest = min(map(len, prompt_rows), default=0)
    if shortest >= limit and model.kind == "decoder":
        raise ValueError(
            f"length={limit} must leave room for a response (the shortest prompt has {shortest} "
            "tokens with its template). Try a larger length, or a shorter template such as "
            "template='{prompt}'"
        )
    join = _join_columns if model.kind == "encoder-decoder" else _join_rows
    x, y = join(prompt_rows, response_rows, limit)
    n = len(texts.prompts)
    train = keep_targets(x[:n], y[:n], f"texts of {texts.name}")
    return *train, *keep_targets(x[n:], y[n:], f"test texts of {texts.name}")


def _check_instructions(model: LanguageModel, texts: Texts, template: str | None) -> None:
    if texts.prompts is None or texts.test.prompts is None:
        raise ValueError(
            f"{texts.name} must have prompts and responses. Try read_texts(file, prompt='prompt', "
            "response='response'), or token_prediction for texts without prompts"
        )
    if model.kind == "encoder":
        raise ValueError(
            f"{model.name} must write a response, and is an encoder. Try a decoder, or an "
            "encoder-decoder"
        )
    if template is not None and "{prompt}" not in template:
        raise ValueError(
            f"template={template!r} must have {{prompt}} in it. Try None, for the tokenizer's own"
        )


def _join_columns(prompt_rows: Rows, response_rows: Rows, limit: int) -> tuple[Tensor, Tensor]:
    """Return prompts and responses side by side for an encoder-decoder, and the labels."""
    log_cut_texts(
        [max(len(a), len(b)) for a, b in zip(prompt_rows, response_rows, strict=True)], limit
    )
    prompts, responses = (
        pad_rows([row[:limit] for row in rows]) for rows in (prompt_rows, response_rows)
    )
    width = max(prompts.shape[1], responses.shape[1])
    prompts, responses = (
        F.pad(rows, (0, width - rows.shape[1]), value=-1) for rows in (prompts, responses)
    )
    return torch.cat([prompts, responses], 1), torch.where(responses >= 0, responses, IGNORED)


def _join_rows(prompt_rows: Rows, response_rows: Rows, limit: int) -> tuple[Tensor, Tensor]:
    """Return each prompt followed by its response for a decoder, and the labels."""
    rows = [[*a, *b] for a, b in zip(prompt_rows, response_rows, strict=True)]
    log_cut_texts([len(row) for row in rows], limit)
    x = pad_rows([row[:limit] for row in rows])
    y = next_tokens(x)
    starts = torch.tensor([[len(row) - 1] for row in prompt_rows])
    y[torch.arange(x.shape[1]) < starts] = IGNORED
    return x, y


def _encode_turns(
    model: LanguageModel, prompts: Sequence[str], responses: Sequence[str], template: str | None
) -> tuple[Rows, Rows]:
    """Return the tokens before each response, and the tokens of each response with its end."""
    tokenizer, is_apart = model.tokenizer, model.kind == "encoder-decoder"
    is_chat = template is None and not is_apart and bool(tokenizer.chat_template)
    with quiet():
        if is_chat:
            before, responses = _chat_turns(model, prompts, responses)
        else:
            template = template or ("{prompt}" if is_apart else ALPACA)
            before = [template.replace("{prompt}", prompt) for prompt in prompts]
        prompt_rows = tokenizer(before, add_special_tokens=not is_chat, verbose=False)["input_ids"]
        response_rows = tokenizer(list(responses), add_special_tokens=is_apart, verbose=False)
    response_rows, end = response_rows["input_ids"], tokenizer.eos_token_id
    if end is not None and not is_apart:  # some tokenizers end every text, but this one goes on
        prompt_rows = [row[:-1] if row[-1:] == [end] else row for row in prompt_rows]
    if end is not None and not is_chat:
        response_rows = [row if row[-1:] == [end] else [*row, end] for row in response_rows]
    return prompt_rows, response_rows


def _chat_turns(
    model: LanguageModel, prompts: Sequence[str], responses: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the text before each response, and each response, as the chat template writes them."""
    write = model.tokenizer.apply_chat_template
    questions = [[{"role": "user", "content": prompt}] for prompt in prompts]
    dialogues = [
        [*question, {"role": "assistant", "content": response}]
        for question, response in zip(questions, responses, strict=True)
    ]
    before = write(questions, tokenize=False, add_generation_prompt=True)
    complete = write(dialogues, tokenize=False)
    for start, text in zip(before, complete, strict=True):
        if not text.startswith(start):
            raise ValueError(
                f"{model.name} must have a chat template that begins an answer as it asks for one "
                f"(it writes {start[-40:]!r} and leaves it out later). Try template='{{prompt}}'"
            )
    return before, [text.removeprefix(start) for start, text in zip(before, complete, strict=True)]

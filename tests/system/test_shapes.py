import json

import pytest
import torch

from fedlab.core.quiet import quiet
from fedlab.system.devices import TABLES
from fedlab.system.planner import NF4_BITS, lora, lora_parameters, memory, qlora
from fedlab.system.saved_activations import saved_activations
from fedlab.system.shapes import models, shapes, targets_of

with quiet():
    import transformers
    from transformers.models.auto import modeling_auto as auto

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 100,
}
LLAMA = TINY | {"num_key_value_heads": 2, "head_dim": 16}
PLAIN = {key: value for key, value in LLAMA.items() if key != "head_dim"}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 100}
FAMILIES = {
    "llama": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA,
    "qwen2": PLAIN,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "phi": TINY,
    "phi3": TINY | {"num_key_value_heads": 2, "pad_token_id": 0},
    "olmo2": PLAIN,
    "mixtral": LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "olmoe": PLAIN | {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": 100,
        "n_inner": None,
        "tie_word_embeddings": False,
    },
    "gpt_neox": TINY,
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
    },
    "bert": TINY,
    "roberta": TINY | {"max_position_embeddings": 66},
    "electra": TINY | {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 100},
    "albert": TINY | {"embedding_size": 16, "num_hidden_layers": 4},
    "t5": T5 | {"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu"},
    "mt5": T5,
    "bart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "vocab_size": 100,
    },
}


def network_of(family, **options):
    config = transformers.AutoConfig.for_model(family, **options)
    kind = transformers.AutoModelForCausalLM
    if family in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        kind = transformers.AutoModel
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else kind
    with torch.device("meta"):
        return kind.from_config(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_transformers_own_network(family):
    """A dict and a configuration give the same; blocks and their surroundings hold everything."""
    with quiet():
        network = network_of(family, **FAMILIES[family])
    model = shapes({"model_type": family} | FAMILIES[family])
    assert model.parameters == sum(p.numel() for p in network.parameters())
    assert shapes(network.config) == model
    matrices = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    tables = sum(
        m.weight.numel()
        for m in network.modules()
        if isinstance(m, torch.nn.Embedding) and m.weight.dim() > 1
    )
    inside = sum(layer.inputs * layer.outputs * layer.count for layer in model.layers)
    assert 0 <= matrices - inside - model.head * (not model.tied) <= tables + model.width**2 * 2, (
        "tables, and a pooler"
    )
    assert sum(block.held for block in model.stack) <= model.parameters


@pytest.mark.parametrize("name", models())
def test_published_models_have_their_published_number_of_parameters(name):
    row = json.loads((TABLES / "models.json").read_text())[name]
    assert models()[name].parameters == row["parameters"]
    assert models()[name].source == row["source"]


def test_what_the_old_formulas_overlooked():
    halves = {
        "model_type": "t5",
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
    }
    assert round(shapes(halves | {"num_decoder_layers": 2}).parameters / 1e6, 1) == 43.7
    assert shapes({"model_type": "gpt2", "tie_word_embeddings": False}).parameters == 163_037_184
    flan = json.loads((TABLES / "models.json").read_text())["FLAN-T5 small"]["config"]
    assert (
        shapes(flan).parameters
        == shapes(transformers.T5Config.from_dict(flan)).parameters
        == 76_961_152
    )
    assert shapes(flan | {"tie_word_embeddings": True}).parameters == 60_511_616
    assert shapes({"model_type": "mt5"} | T5 | {"tie_word_embeddings": False}).head == 3200


def test_a_token_meets_two_experts_of_eight():
    model = models()["Mixtral 8x7B"]
    assert round(model.computed / 1e9, 1) == 12.7, (
        "Jiang et al. 2024: 13 B active, of which 0.13 B are the table of words"
    )
    assert model.experts == 32 * 8 * 3 * 4096 * 14336
    assert {layer.kind for layer in model.layers} == {"linear", "expert", "router"}
    with pytest.raises(
        ValueError,
        match=r"^targets has 'gate_up_proj': adapters sit on linear layers, not on experts .*$",
    ):
        lora_parameters(model, 8, ["gate_up_proj"])
    assert lora_parameters(model, 8) == 8 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024))


def test_adapters_are_as_large_as_those_of_peft():
    import peft

    for family, targets in {
        "phi3": ["qkv_proj", "gate_up_proj"],
        "gpt2": ["mlp.c_proj"],
        "t5": ["q", "wo"],
    }.items():
        with quiet():
            network = network_of(family, **FAMILIES[family])
            adapted = peft.get_peft_model(
                network,
                peft.LoraConfig(r=4, target_modules=targets, fan_in_fan_out=family == "gpt2"),
            )
        size = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
        model = shapes({"model_type": family} | FAMILIES[family])
        assert lora_parameters(model, 4, targets) == size
        assert {layer.name for layer in targets_of(model, "q + v")} <= {
            layer.name for layer in targets_of(model)
        }


def test_shared_blocks_hold_once_and_compute_each_time():
    model = shapes({"model_type": "albert"} | FAMILIES["albert"])
    assert [block.held > 0 for block in model.stack] == [True, False, False, False]
    assert len({block.computed for block in model.stack}) == 1
    assert model.computed == 4 * model.stack[0].computed + 16 * 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gigabytes"), [("Llama 3.1 8B", 5.70), ("Llama 2 7B", 3.87), ("Llama 3.2 1B", 1.03)]
)
def test_qlora_leaves_embeddings_head_and_norms_in_16_bits(name, gigabytes):
    model = models()[name]
    weights = memory(model, qlora(), 512)["weights"]
    assert round(weights.value / 1e9, 2) == gigabytes
    rest = model.parameters - model.linear
    assert weights.low == weights.value == model.linear * NF4_BITS / 8 + 2 * rest
    assert weights.high == model.linear * 4.5 / 8 + 4 * rest, (
        "scales in 32 bits, and the rest as peft prepares it"
    )
    assert memory(model, lora(bits=8), 512)["weights"].value == model.linear + 2 * rest


def test_t5_keeps_wo_in_16_bits():
    model = shapes({"model_type": "t5"} | T5)
    assert (
        sum(layer.inputs * layer.outputs * layer.count for layer in model.layers) - model.linear
        == 6 * 48 * 32
    )


def test_positions_are_those_that_a_text_may_have():
    positions = {
        family: shapes({"model_type": family} | FAMILIES[family]).positions
        for family in ("roberta", "opt", "gpt2", "t5")
    }
    assert positions == {"roberta": 64, "opt": 2048, "gpt2": 1024, "t5": 0}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral", "t5", "phi3"])
def test_what_a_step_keeps_is_what_autograd_keeps(family):
    """The count on two short texts agrees with autograd on three longer ones of unequal length."""
    model = shapes({"model_type": family} | FAMILIES[family])
    dtype = torch.bfloat16 if family == "mixtral" else torch.float32
    with quiet():
        network = network_of(family, **FAMILIES[family]).to(dtype).to_empty(device="cpu").eval()
    for p in (*network.parameters(), *network.buffers()):
        torch.nn.init.constant_(p, 0.01)
    held = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    saved = {}

    def save(tensor):
        if tensor.untyped_storage().data_ptr() not in held:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    text = torch.ones(3, 48, dtype=torch.long)
    mask = (torch.arange(48) < torch.tensor([[48], [40], [30]])).long()
    answer = {"decoder_input_ids": text} if family == "t5" else {}
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(input_ids=text, attention_mask=mask, use_cache=False, **answer)
    seen = sum(storage.nbytes() for storage in saved.values())
    assert saved_activations(model, "everything", 3 * 48, 48, dtype).network == pytest.approx(
        seen, rel=0.05
    )


# Configurations that are not understood


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"num_experts": 8},
            "num_experts=8 must be known, and LlamaConfig of .* ignores it. Try without "
            "num_experts, .*",
        ),
        (
            {"model_type": "llama5"},
            "model_type='llama5' must be an architecture of transformers .*",
        ),
        ({"model_type": None}, "model_type=None must be an architecture of transformers .*"),
        (
            {"model_type": "own", "auto_map": {"AutoModel": "own.Own"}},
            ".* \\(code of the publisher's is never run\\).*",
        ),
        ({"model_type": "vit"}, "model_type='vit' must be a language model's. Try .*"),
        (
            {"model_type": "clip"},
            "model_type='clip' must be .*: it has text_config, vision_config. Try .*",
        ),
        ({"model_type": "mamba"}, "mamba: num_attention_heads=None must be one number. Try .*"),
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' must be known.*",
        ),
        (
            {"model_type": "mt5", "dense_act_fn": "relu", "n_layers": 3},
            "n_layers=3 must be known, .*",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be left out .*"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "architectures=..LlamaForSequence.* must be a language .*",
        ),
        (
            {"hidden_size": "wide"},
            "llama: transformers refuses this configuration: .*hidden_size.*",
        ),
        ({"hidden_size": 30}, "llama: transformers refuses this configuration: .*"),
        (
            {"num_hidden_layers": 0},
            "num_hidden_layers=0 must be the number of blocks in the network, and it has 0. Try .*",
        ),
    ],
)
def test_what_is_not_understood_is_refused(config, message):
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        shapes(
            {"model_type": "llama"}
            | (LLAMA if config.get("model_type", "llama") == "llama" else {})
            | config
        )
    assert "\n" not in str(caught.value)


def test_keys_that_published_configurations_carry_are_no_obstacle():
    extra = {
        "torch_dtype": "bfloat16",
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    extra |= {
        "architectures": ["LlamaForCausalLM"],
        "pretraining_tp": 1,
        "_name_or_path": "x",
        "temperature": 0.6,
    }
    assert (
        shapes({"model_type": "llama"} | LLAMA | extra).parameters
        == shapes({"model_type": "llama"} | LLAMA).parameters
    )
    old = {
        "position_embedding_type": "absolute",
        "gradient_checkpointing": False,
        "architectures": ["BertForMaskedLM"],
    }
    assert shapes({"model_type": "bert"} | TINY | old).head == 0
    assert shapes({"model_type": "llama"} | LLAMA | {"architectures": ["LlamaModel"]}).head == 0


def test_a_path_a_folder_and_a_fetched_name(tmp_path, monkeypatch):
    folder = tmp_path / "llama-3.1"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | LLAMA))
    assert shapes(folder) == shapes(str(folder)) == shapes(folder / "config.json")
    cache = tmp_path / "hub" / "models--some--model"
    (cache / "snapshots" / "0a1b").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0a1b")
    (cache / "snapshots" / "0a1b" / "config.json").write_text(
        json.dumps({"model_type": "gpt2"} | FAMILIES["gpt2"])
    )
    monkeypatch.setattr(
        "huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )
    assert shapes("some/model").family == "gpt2"
    assert shapes("minilm").parameters == models()["MiniLM-L6"].parameters
    for name in ("some/other", "no such/name/at all", tmp_path / "nothing.json"):
        with pytest.raises(
            FileNotFoundError,
            match=r"must be a config.json, a folder with one, or a model that has been fetched",
        ):
            shapes(name)
    for text, message in (
        ("{", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ("[5]", "must hold an object, not a list"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            shapes(folder)
    with pytest.raises(
        ValueError,
        match=r"^source is a int, and must be a configuration, a dict, a path or a name\. Try .*$",
    ):
        shapes(5)

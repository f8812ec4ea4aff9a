"""Small transformers of every family, and texts for them."""

import pytest
import transformers

from fedlab.core.quiet import quiet
from fedlab.core.rng import seeded
from fedlab.data import load_texts
from fedlab.models import pretrained, tiny
from fedlab.models.language.load import freeze
from fedlab.models.language.tiny import byte_pair_tokenizer


@pytest.fixture(scope="session")
def docs():
    """Return fifteen paragraphs of each of 14 topics, three of them to test."""
    return load_texts("docs", 15)


@pytest.fixture(scope="session")
def small(docs):
    """Return a model of each family: two blocks of width 32."""
    return {
        kind: tiny(kind, docs.texts, width=32, depth=2, vocabulary=400)
        for kind in ("bert", "gpt2", "llama", "t5")
    }


BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS = {
    "roberta": lambda n: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(  # positions begin after the padding index
            vocab_size=n, **BLOCKS, intermediate_size=64, max_position_embeddings=66, pad_token_id=1
        )
    ),
    "electra": lambda n: transformers.ElectraForMaskedLM(  # embeddings narrower than blocks
        transformers.ElectraConfig(
            vocab_size=n, embedding_size=16, **BLOCKS, intermediate_size=64,
            max_position_embeddings=64,
        )
    ),
    "opt": lambda n: transformers.OPTForCausalLM(  # OPT-350m: output narrower than the blocks
        transformers.OPTConfig(
            vocab_size=n, **BLOCKS, ffn_dim=64, word_embed_proj_dim=16, max_position_embeddings=64,
            do_layer_norm_before=False, bos_token_id=1, eos_token_id=1,
        )
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def others(docs):
    """Return models of other families, with other widths or positions."""
    made = {}
    for kind, make in OTHERS.items():
        with quiet(), seeded(0, kind):
            tokenizer = byte_pair_tokenizer(docs.texts, 400)
            made[kind] = freeze(f"tiny {kind}", make(len(tokenizer)), tokenizer)
    return made


@pytest.fixture(scope="session")
def minilm():
    return pretrained("minilm")

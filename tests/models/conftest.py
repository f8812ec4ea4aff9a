"""Small transformers of every family, and texts for them."""

import pytest

from fedlab.data import load_texts
from fedlab.models import pretrained, tiny


@pytest.fixture(scope="session")
def docs():
    """Fifteen paragraphs of each of 14 topics, three of them to test."""
    return load_texts("docs", 15)


@pytest.fixture(scope="session")
def small(docs):
    """By family, two blocks of width 32."""
    return {kind: tiny(kind, docs.texts, width=32, depth=2, vocabulary=400) for kind in ("bert", "gpt2", "llama", "t5")}


@pytest.fixture(scope="session")
def minilm():
    return pretrained("minilm")

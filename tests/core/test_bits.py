"""Packed bits and Rice codes come back to the bit, and their length is known before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.core import generator
from fedlab.core.bits import (
    pack_bits,
    rice_decode,
    rice_encode,
    rice_low_bits,
    rice_sizes,
    unpack_bits,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_places_come_back_and_their_length_is_known_before(data):
    width = data.draw(st.integers(1, 5000))
    places = sorted(data.draw(st.sets(st.integers(0, width - 1), max_size=min(width, 200))))
    index = np.array(places, dtype=np.int64)
    content = rice_encode(index, width)
    size = rice_sizes(np.append(index, [-1, -1])[None], np.array([width]), np.array([len(index)]))
    assert len(content) == size[0]
    low = rice_low_bits(width, len(index))
    decoded, read = rice_decode(memoryview(content), len(index), low, width)
    assert decoded.tolist() == places
    assert read == len(content)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 16), st.data())
def test_codes_come_back_at_their_bits(bits, data):
    codes = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=100)), dtype=np.int32)
    content = pack_bits(codes.astype(np.uint8) if bits <= 8 else codes, bits)
    assert len(content) == -(-len(codes) * bits // 8)
    assert unpack_bits(memoryview(content), bits, len(codes)).tolist() == codes.tolist()


def test_places_cost_about_their_entropy():
    """1 % of the places: 8.1 bits each; a Rice code of random gaps comes within 5 %."""
    index = np.sort(generator(0).choice(100_000, 1000, replace=False))
    entropy_of_places = 1000 * (np.log2(100) - 0.99 / 0.01 * np.log2(0.99))
    assert 8 * len(rice_encode(index, 100_000)) < 1.05 * entropy_of_places

"""Whole numbers packed into few bits, and Rice codes for ascending indices.

Weights of a few bits and messages on the wire share these two formats. All bytes are little-endian.
"""

from __future__ import annotations

import numpy as np


def pack_bits(codes: np.ndarray, bits: int) -> bytes:
    """Pack whole numbers below ``2**bits`` at ``bits`` bits each, the lowest bit first.

    Above 8 bits, the low bytes of all numbers come first, then the packed rest.

    Args:
        codes: Numbers ``[n]``, whole and at least 0.
        bits: Bits per number, 1 to 16.

    Returns:
        ``ceil(n * bits / 8)`` bytes (up to 8 bits), or ``n + ceil(n * (bits - 8) / 8)``.

    Example:
        >>> pack_bits(np.array([1, 0, 3, 2]), 2).hex()
        'b1'
    """
    if bits > 8:
        return pack_bits(codes & 255, 8) + pack_bits(codes >> 8, bits - 8)
    codes = codes.astype(np.uint8, copy=False)
    if bits == 8:
        return codes.tobytes()
    eights = np.zeros((-(-len(codes) // 8), 8), np.uint8)  # eight codes fill ``bits`` bytes
    eights.reshape(-1)[: len(codes)] = codes
    words = eights[:, 0].astype("<u8")
    for j in range(1, 8):
        words |= eights[:, j].astype("<u8") << (j * bits)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].tobytes()[: -(-len(codes) * bits // 8)]


def unpack_bits(data: memoryview, bits: int, count: int) -> np.ndarray:
    """Unpack the numbers that ``pack_bits`` packed.

    Args:
        data: The packed bytes.
        bits: Bits per number, 1 to 16.
        count: How many numbers to unpack.

    Returns:
        The numbers ``[count]``, uint8 up to 8 bits and int32 above.

    Example:
        >>> unpack_bits(memoryview(pack_bits(np.array([1, 0, 3, 2]), 2)), 2, 4).tolist()
        [1, 0, 3, 2]
    """
    if bits > 8:
        high = unpack_bits(data[count:], bits - 8, count).astype(np.int32)
        return high << 8 | np.frombuffer(data[:count], np.uint8)
    if bits == 8:
        return np.frombuffer(data, np.uint8)
    eights = np.zeros((-(-count // 8), 8), np.uint8)
    packed = np.zeros(len(eights) * bits, np.uint8)
    packed[: len(data)] = np.frombuffer(data, np.uint8)
    eights[:, :bits] = packed.reshape(-1, bits)
    words, codes = eights.reshape(-1).view("<u8"), np.empty_like(eights)
    for j in range(8):
        codes[:, j] = words >> (j * bits) & ((1 << bits) - 1)
    return codes.reshape(-1)[:count]


def rice_low_bits(width: int, count: int) -> int:
    """Return the number of low bits of each gap that a Rice code writes unchanged.

    The mean gap between ``count`` of ``width`` places is about ``width / count``; 0.69 of it,
    rounded down to a power of 2, makes the code shortest.
    """
    return max(0, int(0.69 * width / count).bit_length() - 1) if count else 0


def rice_encode(index: np.ndarray, width: int) -> bytes:
    """Encode ascending indices by their gaps.  Rice 1979.

    The low bits of all gaps come first. Then follows the rest of each gap in unary: that many
    zeros and a one. Both parts end at a whole byte.

    Args:
        index: Ascending indices ``[count]`` below ``width``.
        width: How many places there are.
    """
    low, gaps = rice_low_bits(width, len(index)), np.diff(index, prepend=-1) - 1
    ones = np.cumsum(gaps >> low) + np.arange(len(gaps))
    unary = np.zeros(ones[-1] + 1 if len(ones) else 0, np.uint8)
    unary[ones] = 1
    lows = pack_bits(gaps & ((1 << low) - 1), low) if low else b""
    return lows + np.packbits(unary, bitorder="little").tobytes()


def rice_sizes(index: np.ndarray, width: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Count the bytes of ``rice_encode`` for many rows of indices, without encoding them.

    Args:
        index: Ascending indices ``[m, k]``, padded with -1 at the end.
        width: Places of each row, ``[m]``.
        count: Indices of each row, ``[m]``.

    Returns:
        Bytes of each row, ``[m]``.
    """
    low = np.array(
        [rice_low_bits(int(w), int(n)) for w, n in zip(width, count, strict=True)], dtype=np.int64
    )
    gaps = np.where(index >= 0, np.diff(index, prepend=-1) - 1, 0)
    return -(-count * low // 8) + -(-((gaps >> low[:, None]).sum(1) + count) // 8)


def rice_decode(data: memoryview, count: int, low: int, width: int) -> tuple[np.ndarray, int]:
    """Decode the indices that ``rice_encode`` encoded, from data that may be damaged.

    Args:
        data: Bytes that begin with the code; more may follow.
        count: How many indices there are.
        low: Low bits of each gap.
        width: How many places there are.

    Returns:
        The indices ``[count]``, ascending and below ``width``, and the number of bytes read.

    Raises:
        ValueError: If the data are no such code.

    Example:
        >>> code = rice_encode(np.array([2, 3, 70]), 100)
        >>> index, size = rice_decode(memoryview(code), 3, rice_low_bits(100, 3), 100)
        >>> index.tolist(), size
        ([2, 3, 70], 3)
    """
    if low > max(1, width).bit_length():
        raise ValueError(f"gaps have {low} low bits, and {width} places need fewer")
    size = -(-count * low // 8)
    if size > len(data):
        raise ValueError(f"ends {size - len(data)} bytes too early")
    lows = unpack_bits(data[:size], low, count).astype(np.int64) if low and count else 0
    unary_bits = count + (width >> low) + 1  # at most
    unary = np.frombuffer(data[size : size + -(-unary_bits // 8)], np.uint8)
    ones = np.flatnonzero(np.unpackbits(unary, bitorder="little"))[:count]
    if len(ones) < count:
        raise ValueError(f"has {len(ones)} of its {count} places")
    index = np.cumsum((np.diff(ones, prepend=-1) - 1 << low) + lows + 1) - 1
    if count and index[-1] >= width:
        raise ValueError(f"has a number at place {index[-1]}, and there are {width}")
    size += -(-(int(ones[-1]) + 1) // 8) if count else 0
    return index.reshape(count).astype(np.int64), size

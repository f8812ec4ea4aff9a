"""Place the pieces of a model on a device, an edge box and a cloud, for one request."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core import Task
from fedlab.core.validate import check_whole, is_number
from fedlab.system.devices import RADIO_WATTS, Device, Link
from fedlab.system.shapes import Model

if TYPE_CHECKING:
    import pandas as pd


class Piece(NamedTuple):
    """A piece of a model, after which the model could be cut.

    Attributes:
        name: Name of the piece.
        flops: Operations of one request.
        bytes_out: Size of its output.
        bytes_held: Size of its weights.
    """

    name: str
    flops: float
    bytes_out: float
    bytes_held: float


def pieces_of(model: Model, tokens: int, *, bits: float = 16) -> list[Piece]:
    """Return the embedding, the blocks and the last layer of a transformer as pieces.

    Costs are those of reading one text: 2 operations per parameter and token (Kaplan et al. 2020),
    of experts only those that a token is routed to. Outputs have 16 bits per number. Weights of
    linear layers and experts have ``bits``, all others at least 16, as in the planner's memory.

    Args:
        model: Shapes of the transformer.
        tokens: Length of the text.
        bits: Bits of a weight, from 1 to 32.

    Returns:
        The pieces, in order.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> pieces = pieces_of(models()["GPT-2"], tokens=64)  # doctest: +SKIP
    """
    check_whole(1, tokens=tokens)
    if not (is_number(bits) and 1 <= bits <= 32):
        raise ValueError(f"bits={bits!r} must be those of a weight, from 1 to 32. Try 16, 8 or 4")
    other_bits, states = max(bits, 16.0), 2.0 * model.width * tokens
    head = 0 if model.tied else model.head
    around = model.parameters - sum(block.held for block in model.stack) - head
    blocks = []
    for k, block in enumerate(model.stack, 1):
        compressed = block.linear + block.experts
        held = (compressed * bits + (block.held - compressed) * other_bits) / 8
        blocks.append(Piece(f"block {k}", 2.0 * block.computed * tokens, states, held))
    answer = Piece("answer", 2.0 * model.head, 4.0, head * other_bits / 8)
    return [Piece("embedding", 0.0, states, around * other_bits / 8), *blocks, answer]


def pieces_of_layers(task: Task, w: Tensor, x: Tensor) -> list[Piece]:
    """Return the layers of a task's model as pieces, counted by PyTorch.

    Args:
        task: The model and its loss.
        w: Parameters ``[d]``.
        x: Examples of the request ``[n, ...]``.

    Returns:
        The pieces, in order.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.engine import initial
        >>> from fedlab.models import mlp
        >>> digits = load("digits", 6)
        >>> task = mlp(digits, hidden=(32,))
        >>> [p.name for p in pieces_of_layers(task, initial(task, 0), digits.x[:1])]
        ['0 Flatten', '1 Linear', '2 ReLU', '3 Linear']
    """
    from torch.utils.flop_counter import FlopCounterMode

    pieces = []
    with torch.no_grad():
        for name, layer in task.module(w).named_children():
            with FlopCounterMode(display=False) as counter:
                x = layer(x)
            held = sum(p.numel() * p.element_size() for p in layer.parameters())
            size = x.numel() * x.element_size()
            kind = f"{name} {type(layer).__name__}"
            pieces.append(Piece(kind, counter.get_total_flops(), size, held))
    return pieces


class _Sizes(NamedTuple):
    """Arrays over pieces: operations, bytes held, and bytes handed over before and after each."""

    flops: np.ndarray
    held: np.ndarray
    handed: np.ndarray


def placements(
    pieces: Sequence[Piece], places: Sequence[Device], links: Sequence[Link], *, bytes_in: float
) -> pd.DataFrame:
    """Return all placements of pieces along a chain of places, the fastest that fits first.

    A request begins at the first place, and its answer, the output of the last piece, comes back
    there. Pieces are placed outwards only.

    Args:
        pieces: The pieces of a model, in order.
        places: Devices, from the first place outwards.
        links: Links from each place to the next.
        bytes_in: Size of the request.

    Returns:
        One row per placement. ``cuts`` are the numbers of pieces before each cut. ``seconds`` is
        the sum of the columns ``at 0`` (computing there), ``to 1`` (on the way there), ``at 1`` and
        so on, and ``back``. ``joules`` is the energy of the first place. ``fits`` says whether each
        place can hold its pieces.

    Raises:
        ValueError: If there are no pieces, or links do not fit the places.

    Example:
        >>> from fedlab.system.devices import devices, links
        >>> pieces = [Piece("first", 1e9, 1e4, 1e6), Piece("second", 1e12, 10.0, 1e9)]
        >>> places = devices()["laptop"], devices()["server, NVIDIA T4"]
        >>> placements(pieces, places, [links()["home fibre"]], bytes_in=1e6)["cuts"][0]
        (1,)
    """
    import pandas as pd

    if len(links) != len(places) - 1 or not places:
        raise ValueError(
            f"{len(places)} places must have {max(len(places) - 1, 0)} links, one from each to the "
            f"next, and there are {len(links)}. Try links[:{max(len(places) - 1, 0)}]"
        )
    if not pieces:
        raise ValueError("pieces=[] must have a piece at least. Try pieces_of(model, tokens=64)")
    sizes = _Sizes(
        np.array([piece.flops for piece in pieces]),
        np.array([piece.bytes_held for piece in pieces]),
        np.array([bytes_in, *(piece.bytes_out for piece in pieces)]),
    )
    cuts = itertools.combinations_with_replacement(range(len(pieces) + 1), len(links))
    rows = [_placement(each, sizes, places, links) for each in cuts]
    return pd.DataFrame(rows).sort_values(
        ["fits", "seconds"], ascending=[False, True], ignore_index=True
    )


def _placement(
    cuts: tuple[int, ...], sizes: _Sizes, places: Sequence[Device], links: Sequence[Link]
) -> dict[str, Any]:
    """Return the row of one placement."""
    ends = [0, *cuts, len(sizes.flops)]
    spans = [slice(a, b) for a, b in itertools.pairwise(ends)]
    computing = [
        sizes.flops[span].sum() / place.speed.value
        for span, place in zip(spans, places, strict=True)
    ]
    furthest = max(k for k, span in enumerate(spans) if k == 0 or span.stop > span.start)
    out = [
        link.seconds("up", sizes.handed[cut])
        for link, cut in zip(links[:furthest], cuts, strict=False)
    ]
    back = [link.seconds("down", sizes.handed[-1]) for link in links[:furthest]]
    legs = {"at 0": computing[0]}
    for k in range(1, len(places)):
        legs |= {f"to {k}": out[k - 1] if k <= furthest else 0.0, f"at {k}": computing[k]}
    legs["back"] = sum(back)
    joules = computing[0] * places[0].watts + sum(out[:1] + back[:1]) * RADIO_WATTS
    fits = all(
        sizes.held[span].sum() <= place.memory * 1e9
        for span, place in zip(spans, places, strict=True)
    )
    return {"cuts": cuts, "seconds": sum(legs.values()), **legs, "joules": joules, "fits": fits}

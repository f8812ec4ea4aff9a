"""Where each piece of a model should run: on the device, on an edge box, in a cloud."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

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
    """A part of a model, after which it could be cut: for one request."""

    name: str
    flops: float
    bytes_out: float  # what it hands on
    bytes_held: float  # its weights


def pieces_of(model: Model, tokens: int, *, bits: float = 16) -> list[Piece]:
    """A transformer's embedding, blocks and last layer, reading a text of so many ``tokens`` once.

    2 operations a parameter and token (Kaplan et al. 2020), of experts those that a token meets; 16 bits a number are handed
    on.  Weights of linear layers and experts have ``bits``, all others at least 16, as the planner's memory has it.
    """
    check_whole(1, tokens=tokens)
    if not (is_number(bits) and 1 <= bits <= 32):
        raise ValueError(f"bits={bits!r} must be those of a weight, from 1 to 32. Try 16, 8 or 4")
    rest, states = max(bits, 16.0), 2.0 * model.width * tokens
    own_head = 0 if model.tied else model.head
    around = model.parameters - sum(block.held for block in model.stack) - own_head
    blocks = [
        Piece(
            f"block {k}",
            2.0 * block.computed * tokens,
            states,
            (
                (block.linear + block.experts) * bits
                + (block.held - block.linear - block.experts) * rest
            )
            / 8,
        )
        for k, block in enumerate(model.stack, 1)
    ]
    answer = Piece("answer", 2.0 * model.head, 4.0, own_head * rest / 8)
    return [Piece("embedding", 0.0, states, around * rest / 8), *blocks, answer]


def pieces_of_layers(task: Task, w: Tensor, x: Tensor) -> list[Piece]:
    """The layers of a task's model on the examples ``x``, as PyTorch counts their operations; numbers of 4 bytes."""
    from torch.utils.flop_counter import FlopCounterMode

    pieces = []
    with torch.no_grad():
        for name, layer in task.module(w).named_children():
            with FlopCounterMode(display=False) as counter:
                x = layer(x)
            held = sum(p.numel() * p.element_size() for p in layer.parameters())
            kind = f"{name} {type(layer).__name__}"
            pieces.append(
                Piece(kind, counter.get_total_flops(), x.numel() * x.element_size(), held)
            )
    return pieces


def placements(
    pieces: Sequence[Piece], places: Sequence[Device], links: Sequence[Link], *, bytes_in: float
) -> pd.DataFrame:
    """Every way to lay the pieces out along the places, outwards only: a row each, the quickest that fits first.

    ``links[k]`` leads from place k to the next; a request of ``bytes_in`` begins at the first place, and its answer, what
    the last piece hands out, comes back there.  ``cuts`` says how many pieces come before each cut.  ``seconds`` are those
    in all, and what they are spent on, one after another, is the columns ``at 0``, computing there, ``to 1``, on the way
    there, ``at 1`` and so on, and ``back``.  ``joules`` are those of the first place; ``fits`` is whether each place can
    hold its pieces.
    """
    import pandas as pd

    if len(links) != len(places) - 1 or not places:
        raise ValueError(
            f"{len(places)} places and {len(links)} links: a link between each and the next"
        )
    if not pieces:
        raise ValueError("there are no pieces: give one at least")
    flops, held = np.array([p.flops for p in pieces]), np.array([p.bytes_held for p in pieces])
    handed = np.array([bytes_in, *(p.bytes_out for p in pieces)])
    rows = []
    for cuts in itertools.combinations_with_replacement(range(len(pieces) + 1), len(links)):
        ends = [0, *cuts, len(pieces)]
        spans = [slice(a, b) for a, b in itertools.pairwise(ends)]
        computing = [
            flops[span].sum() / place.speed.value for span, place in zip(spans, places, strict=True)
        ]
        reached = max(k for k, span in enumerate(spans) if k == 0 or span.stop > span.start)
        out = [
            link.seconds("up", handed[cut])
            for link, cut in zip(links[:reached], cuts, strict=False)
        ]
        back = [link.seconds("down", handed[-1]) for link in links[:reached]]
        legs = {"at 0": computing[0]}
        for k in range(1, len(places)):
            legs |= {f"to {k}": out[k - 1] if k <= reached else 0.0, f"at {k}": computing[k]}
        legs["back"] = sum(back)
        joules = computing[0] * places[0].watts + sum(out[:1] + back[:1]) * RADIO_WATTS
        fits = all(
            held[span].sum() <= place.memory * 1e9
            for span, place in zip(spans, places, strict=True)
        )
        rows.append(
            {"cuts": cuts, "seconds": sum(legs.values()), **legs, "joules": joules, "fits": fits}
        )
    return pd.DataFrame(rows).sort_values(
        ["fits", "seconds"], ascending=[False, True], ignore_index=True
    )

"""Both engines on 2,000 random small networks, which may share layers; the same in every run.

``FEDLAB_RANDOM=1`` draws others, and ``FEDLAB_EXAMPLES=5000`` draws as many for each optimizer.
"""

import os
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedlab.client import assign, batched, plan, sequential
from fedlab.core import Local, Task, Terms
from fedlab.engine import initial
from fedlab.models.tabular import cross_entropy

INPUTS, CLASSES, TOKENS = 4, 3, 6
DRAW = np.random.default_rng(0)
X = torch.from_numpy(DRAW.normal(size=(20, INPUTS)))
Y = torch.from_numpy(DRAW.integers(0, CLASSES, 20))
WIDTHS = (1, 2, 4, 6)
OPTIMIZERS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "decay": {"momentum": 0.5, "weight_decay": 0.2},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
}
LINE = ("linear", "again", "tied", "act", "norm", "frozen", "conv2d", "prelu")
GRAPH = (
    *LINE, "scale", "shift", "embed", "transposed", "residual", "halves", "alias", "unused",
    "constant", "read", "rows", "across", "conv1d", "mixing", "keeps",
)  # fmt: skip
ACTS = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.ReLU)


class Network(nn.Module):
    """Layers by a recipe of (kind, number, number): each may use what those before it have made."""

    def __init__(self, recipe):
        super().__init__()
        self.layers, self.passes, width = nn.ModuleList(), [], INPUTS
        for kind, a, b in recipe:
            width = getattr(self, f"_{kind}")(width, a, b)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        h = x
        for each in self.passes:
            h = each(h) if isinstance(each, nn.Module) else each(self, x, h)
        return self.head(h)

    def _add(self, layer):
        self.layers.append(layer)
        return layer

    def _alike(self, kind, *shape):
        """The layers so far of a kind and the shape of their weight."""
        return [
            layer for layer in self.layers if type(layer) is kind and layer.weight.shape == shape
        ]

    def _linear(self, width, a, b):
        out = WIDTHS[a % len(WIDTHS)]
        self.passes.append(self._add(nn.Linear(width, out, bias=bool(b % 3))))
        return out

    def _again(self, width, a, b):
        same = [
            layer
            for layer in self.layers
            if type(layer) is nn.Linear and layer.in_features == width
        ]
        layer = same[b % len(same)] if same else self._add(nn.Linear(width, width))
        self.passes.append(layer)
        return layer.out_features

    def _tied(self, width, a, b):
        out = WIDTHS[a % len(WIDTHS)]
        layer = nn.Linear(width, out)
        for kind in (nn.Embedding, nn.Linear):
            for twin in self._alike(kind, out, width)[:1]:
                layer.weight = twin.weight
        self.passes.append(self._add(layer))
        return out

    def _act(self, width, a, b):
        self.passes.append(ACTS[a % len(ACTS)]())
        return width

    def _norm(self, width, a, b):
        same = self._alike(nn.LayerNorm, width)
        if a % 3 == 0 and width in (4, 6):  # PyTorch refuses a batch with one number a group
            self.passes.append(self._add(nn.GroupNorm(2, width)))
        elif a % 3 == 1 and same:
            self.passes.append(same[b % len(same)])
        else:
            self.passes.append(self._add(nn.LayerNorm(width, bias=bool(b % 2))))
        return width

    def _frozen(self, width, a, b):
        self.passes.append(self._add(nn.Linear(width, width).requires_grad_(False)))
        return width

    def _conv2d(self, width, a, b):
        conv = nn.Conv2d(
            2 if width % 2 == 0 else 1,
            2,
            (1, 1 + a % 2),
            padding=(0, 1),
            groups=1,
            bias=bool(b % 2),
        )
        shape = (conv.in_channels, 1, width // conv.in_channels)
        self.passes.append(nn.Sequential(nn.Unflatten(1, shape), self._add(conv), nn.Flatten()))
        return 2 * (shape[2] + 2 - a % 2)

    def _prelu(self, width, a, b):
        self.passes.append(self._add(nn.PReLU()))
        return width

    def _scale(self, width, a, b):
        name = f"scale{len(self.passes)}"
        setattr(self, name, nn.Parameter(torch.tensor(1.5) if a % 2 else torch.ones(1, width)))
        self.passes.append(lambda net, x, h: h * getattr(net, name))
        return width

    def _shift(self, width, a, b):
        name = f"shift{len(self.passes)}"
        setattr(self, name, nn.Parameter(torch.rand(width)))
        self.passes.append(lambda net, x, h: h + getattr(net, name).abs())
        return width

    def _embed(self, width, a, b):
        same = [layer for layer in self.layers if type(layer) is nn.Embedding]
        table = (
            same[0]
            if same and a % 2
            else self._add(nn.Embedding(TOKENS, 4, padding_idx=0 if b % 2 else None))
        )
        self.passes.append(
            lambda net, x, h: torch.cat(
                [h, table((2 * x[:, :2]).abs().long().clamp(max=5)).mean(1)], 1
            )
        )
        return width + 4

    def _transposed(self, width, a, b):
        same = [
            layer
            for layer in self.layers
            if type(layer) is nn.Linear and layer.out_features == width
        ]
        if not same:
            return width
        layer = same[b % len(same)]
        self.passes.append(lambda net, x, h: F.linear(h, layer.weight.t()))
        return layer.in_features

    def _residual(self, width, a, b):
        same = self._alike(nn.Linear, width, width)
        layer = same[0] if same and a % 2 else self._add(nn.Linear(width, width))
        self.passes.append(lambda net, x, h: h + torch.tanh(layer(h)))
        return width

    def _halves(self, width, a, b):
        if width % 2:
            return width
        layer = self._add(nn.Linear(width // 2, 2))
        self.passes.append(
            lambda net, x, h: torch.cat([layer(half).tanh() for half in h.chunk(2, 1)], 1)
        )
        return 4

    def _alias(self, width, a, b):
        if not len(self.layers):
            return width
        setattr(self, f"alias{len(self.passes)}", self.layers[a % len(self.layers)])
        return width

    def _unused(self, width, a, b):
        self._add(nn.Linear(2, 2))
        return width

    def _constant(self, width, a, b):
        name = f"constant{len(self.passes)}"
        self.register_buffer(name, torch.rand(width))
        self.passes.append(lambda net, x, h: h + getattr(net, name))
        return width

    def _read(self, width, a, b):
        """A weight is read beside its layer."""
        same = [layer for layer in self.layers if type(layer) is nn.Linear]
        if same:
            self.passes.append(lambda net, x, h: h * same[a % len(same)].weight.mean().cos())
        return width

    def _rows(self, width, a, b):
        """Several rows an example."""
        if width % 2:
            return width
        layer, norm = self._add(nn.Linear(width // 2, 3)), self._add(nn.LayerNorm(3))
        self.passes.append(lambda net, x, h: norm(layer(h.unflatten(1, (2, -1)))).flatten(1))
        return 6

    def _across(self, width, a, b):
        """The axis of examples is not the first."""
        if width % 2:
            return width
        layer = self._add(nn.Linear(width // 2, 2))
        self.passes.append(
            lambda net, x, h: (
                layer(h.unflatten(1, (2, -1)).transpose(0, 1)).transpose(0, 1).flatten(1)
            )
        )
        return 4

    def _conv1d(self, width, a, b):
        conv = self._add(nn.Conv1d(1, 2, 1))
        self.passes.append(lambda net, x, h: conv(h[:, None]).flatten(1))
        return 2 * width

    def _mixing(self, width, a, b):
        if a % 3 == 0:
            self.passes.append(lambda net, x, h: h - h.mean(0))
        return width

    def _keeps(self, width, a, b):
        def keep(net, x, h):
            net.last = h * net.head.weight.mean()
            return net.last + h

        self.passes.append(keep)
        return width


def line(recipe):
    """The same as an nn.Sequential, of layers that may stand in it more than once."""
    network = Network(recipe)
    return nn.Sequential(*network.passes, network.head)


@st.composite
def studies(draw):
    """A network, clients, and the terms of their objective."""
    number = st.integers(0, 5)
    in_line = draw(st.booleans())
    kinds = st.sampled_from(LINE if in_line else GRAPH)
    recipe = draw(st.lists(st.tuples(kinds, number, number), max_size=6))
    sizes = draw(st.lists(st.integers(0, 6), min_size=2, max_size=4))
    terms = draw(st.sets(st.sampled_from(["h", "mu", "mask", "fixed"])))
    return (
        in_line,
        recipe,
        sizes,
        terms,
        draw(st.integers(2, 4)),
        draw(st.integers(1, 2)),
        draw(st.booleans()),
    )


EXAMPLES = settings(
    max_examples=int(os.environ.get("FEDLAB_EXAMPLES", 500)),
    derandomize="FEDLAB_RANDOM" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def check(study, optimizer):
    in_line, recipe, sizes, terms, batch_size, epochs, two_starts = study
    task = Task((lambda: line(recipe)) if in_line else (lambda: Network(recipe)), cross_entropy, {})
    local = Local(**{"lr": 0.1, "batch_size": batch_size, "epochs": epochs} | optimizer)
    draw = np.random.default_rng(len(recipe))
    parts = np.split(
        draw.permutation(len(X))[: min(sum(sizes), len(X))], np.cumsum(sizes[:-1]).clip(max=len(X))
    )
    m, w, names = len(parts), initial(task, 0, X), list(task.shapes)
    like = lambda *shape: torch.from_numpy(draw.normal(size=shape))  # noqa: E731
    terms_of_run = Terms(
        h=0.1 * like(m, len(w)) if "h" in terms else None,
        mu=0.5 if "mu" in terms else 0.0,
        mask=(like(m, len(w)) > -0.5).double() if "mask" in terms else None,
        fixed=names[::3] if "fixed" in terms else (),
        start=(lambda w: w + 0.1 * like(m, len(w))) if two_starts else None,
    )
    work = assign(w, parts, [local] * m, plan(parts, 0, 1, local, len(X)), terms_of_run, names)
    both = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*train one after another")
        for engine in (sequential, batched):
            try:
                both.append(engine(task, X, Y, work))
            except ValueError as error:
                both.append(str(error))
    slow, fast = both
    if isinstance(slow, str):
        assert fast == slow
        return
    # AdamW makes steps of up to 1e-9 of the rounding in a gradient of 0 (a norm of one number).
    near = 1e-8 if local.optimizer == "adamw" else 1e-8 * max(1e-3, slow.delta.abs().max().item())
    torch.testing.assert_close(fast.delta + 0, slow.delta, atol=near, rtol=0)
    torch.testing.assert_close(fast.loss, slow.loss, atol=1e-8, rtol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_both_engines_give_the_same_on_random_networks(name):
    EXAMPLES(given(studies())(lambda study: check(study, OPTIMIZERS[name])))()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("terms", ["", "h", "mu", "h mu mask fixed"])
@pytest.mark.parametrize(
    "recipe",
    [
        [("halves", 0, 0)],
        [("linear", 2, 0), ("again", 0, 0), ("again", 0, 0)],
        [("linear", 2, 0), ("tied", 2, 0), ("act", 0, 0), ("tied", 2, 0), ("transposed", 0, 0)],
        [("embed", 0, 0), ("linear", 2, 1), ("tied", 3, 0)],
        [("residual", 0, 0), ("alias", 0, 0), ("scale", 1, 0), ("unused", 0, 0)],
        [("linear", 1, 0), ("read", 0, 0), ("norm", 0, 0)],
        [("embed", 0, 1), ("conv1d", 0, 0)],
    ],
    ids=["halves", "again", "tied", "table", "alias", "read", "pads"],
)
def test_shared_layers(recipe, terms, name):
    check((False, recipe, [7, 0, 3, 5], set(terms.split()), 2, 2, False), OPTIMIZERS[name])

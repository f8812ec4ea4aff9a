"""Layers for many clients at once: each client has its own parameters, and the backward pass takes the step.

The client axis is folded into the batch, ``[a * B, ...]`` for ``a`` clients: whatever works example by example needs no
change, and a layer with parameters unfolds it.  ``forward(x) -> (y, saved)``; ``backward(saved, grad, wanted)`` moves the
parameters and gives the gradient of the input if it is wanted.  The gradient that arrives is scaled as ``Step`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import Tensor, nn

from fedlab.client.sequential import BETAS, EPSILON
from fedlab.core.params import per_row

Add = Callable[
    [Tensor, int], object
]  # add(into, sign): adds sign times the gradient to a tensor, in place


class Sgd(NamedTuple):
    """One parameter of the clients at work: ``w <- w - lr (fade w + pull) - lr g``, in place, with lr in all the terms."""

    p: Tensor  # [a, *shape]
    fade: Tensor | None  # [a], lr (mu + weight decay)
    pull: Tensor | None  # [a, *shape], lr (h - mu w_t)

    def step(self, add: Add) -> None:
        if self.fade is not None:
            self.p.mul_(per_row(1 - self.fade, self.p))
        if self.pull is not None:
            self.p.sub_(self.pull)
        add(self.p, -1)


class Momentum(NamedTuple):
    """``v <- rho v + lr (g + fade w + pull)``, ``w <- w - v``: the usual form, for a rate that stays."""

    p: Tensor
    fade: Tensor | None
    pull: Tensor | None
    v: Tensor  # [a, *shape]
    rho: Tensor  # [a]

    def step(self, add: Add) -> None:
        self.v.mul_(per_row(self.rho, self.v))
        if self.fade is not None:
            self.v.addcmul_(per_row(self.fade, self.p), self.p)
        if self.pull is not None:
            self.v.add_(self.pull)
        add(self.v, 1)
        self.p.sub_(self.v)


class AdamW(NamedTuple):
    """Loshchilov & Hutter 2019, Algorithm 2; its gradient arrives without lr."""

    p: Tensor
    fade: Tensor | None  # [a], mu
    pull: Tensor | None  # [a, *shape], h - mu w_t
    m: Tensor
    v: Tensor
    seen: Tensor  # [a], steps taken
    lr: Tensor  # [a]
    decay: Tensor  # [a]

    def step(self, add: Add) -> None:
        (b1, b2), g = BETAS, torch.zeros_like(self.p)
        if self.fade is not None:
            g.addcmul_(per_row(self.fade, self.p), self.p)
        if self.pull is not None:
            g.add_(self.pull)
        add(g, 1)
        self.seen.add_(1)
        self.m.lerp_(g, 1 - b1)
        self.v.mul_(b2).addcmul_(g, g, value=1 - b2)
        m_hat = self.m / per_row(1 - b1**self.seen, g)
        v_hat = self.v / per_row(1 - b2**self.seen, g)
        self.p.mul_(per_row(1 - self.lr * self.decay, g))
        self.p.addcmul_(m_hat / v_hat.sqrt_().add_(EPSILON), per_row(-self.lr, g))


class Fixed(NamedTuple):
    """A parameter that stays as it is."""

    p: Tensor

    def step(self, add: Add) -> None:
        pass


Step = Sgd | Momentum | AdamW | Fixed


class Gathered:
    """A parameter that a pass may read several times, or never: it takes one step, with the sum of its gradients."""

    def __init__(self, mover: Step):
        self.mover, self.p = mover, mover.p
        self.reads, self.sum, self.moved = 0, None, False

    def step(self, add: Add) -> None:
        if self.reads == 1:  # nobody else needs the parameter as it was, nor has a gradient of it
            self.mover.step(add)
            self.moved = True
            return
        self.sum = torch.zeros_like(self.p) if self.sum is None else self.sum
        add(self.sum, 1)

    def finish(self) -> None:
        """End a step of training."""
        if not self.moved:
            self.mover.step(self._add)
        self.reads, self.sum, self.moved = 0, None, False

    def _add(self, to: Tensor, sign: int) -> None:
        if self.sum is not None:
            to.add_(self.sum, alpha=sign)


class Linear:
    """``y = x Wᵀ + b``."""

    def __init__(self, layer: nn.Linear, steps: dict[str, Step]):
        self.weight, self.bias = steps["weight"], steps.get("bias")
        self.across = self.weight.p.mT  # [a, in, out]
        self.shift = None if self.bias is None else self.bias.p[:, None]

    def forward(self, x):
        rows = x.reshape(len(self.across), -1, x.shape[-1])  # [a, B..., in]
        y = (
            torch.bmm(rows, self.across)
            if self.shift is None
            else torch.baddbmm(self.shift, rows, self.across)
        )
        return y.view(*x.shape[:-1], -1), rows

    def backward(self, rows, grad, wanted):
        g = grad.reshape(len(rows), -1, grad.shape[-1])  # [a, B..., out]
        down = (
            torch.bmm(g, self.weight.p).view(*grad.shape[:-1], -1) if wanted else None
        )  # W as it was in the forward pass
        self.weight.step(lambda to, sign: to.baddbmm_(g.mT, rows, alpha=sign))
        if self.bias is not None:
            self.bias.step(lambda to, sign: to.add_(g.sum(1), alpha=sign))
        return down


class Conv2d:
    """Each client's convolution is a group of channels of one large one."""

    def __init__(self, layer: nn.Conv2d, steps: dict[str, Step]):
        self.layer, self.weight, self.bias = layer, steps["weight"], steps.get("bias")

    def forward(self, x):
        a, w = len(self.weight.p), self.weight.p.flatten(0, 1)
        channels = self._side_by_side(x)
        bias = None if self.bias is None else self.bias.p.reshape(-1)
        layer = self.layer
        y = F.conv2d(
            channels, w, bias, layer.stride, layer.padding, layer.dilation, a * layer.groups
        )
        return self._apart(y), channels

    def backward(self, channels, grad, wanted):
        layer, a = self.layer, len(self.weight.p)
        w, g = self.weight.p.flatten(0, 1), self._side_by_side(grad)
        down, dw, db = torch.ops.aten.convolution_backward(
            g, channels, w, [len(w)], layer.stride, _padding(layer), layer.dilation, False, [0, 0], a * layer.groups,
            [wanted, True, self.bias is not None],
        )  # fmt: skip
        self.weight.step(lambda to, sign: to.add_(dw.view_as(to), alpha=sign))
        if self.bias is not None:
            self.bias.step(lambda to, sign: to.add_(db.view_as(to), alpha=sign))
        return self._apart(down) if wanted else None

    def _side_by_side(self, x):  # [a * B, C, H, W] -> [B, a * C, H, W]
        return x.unflatten(0, (len(self.weight.p), -1)).transpose(0, 1).flatten(1, 2)

    def _apart(self, y):  # and back
        return y.unflatten(1, (len(self.weight.p), -1)).transpose(0, 1).flatten(0, 1)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        return tuple(
            dilation * (size - 1) // 2
            for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    return layer.padding


class Embedding:
    """Row ``x`` of the table of each client."""

    def __init__(self, layer: nn.Embedding, steps: dict[str, Step]):
        self.layer, self.weight = layer, steps["weight"]

    def forward(self, x):
        a, size = self.weight.p.shape[:2]
        rows = (
            x.reshape(a, -1) + size * torch.arange(a, device=x.device)[:, None]
        )  # of all tables, one under the other
        rows = rows.masked_fill(
            (x < 0).logical_or_(x >= size).view(a, -1), -1
        )  # and nobody reads in another's
        return F.embedding(rows, self.weight.p.flatten(0, 1)).view(*x.shape, -1), (x, rows)

    def backward(self, saved, grad, wanted):
        x, rows = saved
        g = grad.reshape(rows.numel(), -1)
        if self.layer.padding_idx is not None:
            g = g * (x.reshape(-1, 1) != self.layer.padding_idx)
        self.weight.step(
            lambda to, sign: to.flatten(0, 1).index_add_(0, rows.flatten(), g, alpha=sign)
        )


class Norm:
    """LayerNorm and GroupNorm: normalise as they do, then scale and shift by the client's own numbers."""

    def __init__(self, layer: nn.LayerNorm | nn.GroupNorm, steps: dict[str, Step]):
        self.layer, self.weight, self.bias = layer, steps["weight"], steps.get("bias")

    def forward(self, x):
        x = x.contiguous()
        if isinstance(self.layer, nn.GroupNorm):
            spatial = x[0, 0].numel()
            normed, mean, rstd = torch.native_group_norm(
                x, None, None, len(x), x.shape[1], spatial, self.layer.num_groups, self.layer.eps
            )
        else:
            normed, mean, rstd = torch.native_layer_norm(
                x, self.layer.normalized_shape, None, None, self.layer.eps
            )
        y = self._rows(normed) * self._spread(self.weight.p, x)
        if self.bias is not None:
            y = y + self._spread(self.bias.p, x)
        return y.view_as(x), (x, normed, mean, rstd)

    def backward(self, saved, grad, wanted):
        x, normed, mean, rstd = saved
        g, down = self._rows(grad), None
        if wanted:
            g_normed = (g * self._spread(self.weight.p, x)).view_as(x)
            down = self._down(g_normed, x, mean, rstd)
        self.weight.step(
            lambda to, sign: to.add_(self._gather(g * self._rows(normed), x), alpha=sign)
        )
        if self.bias is not None:
            self.bias.step(lambda to, sign: to.add_(self._gather(g, x), alpha=sign))
        return down

    def _down(self, grad, x, mean, rstd):
        layer, mask = self.layer, [True, False, False]
        if isinstance(layer, nn.GroupNorm):
            sizes = (len(x), x.shape[1], x[0, 0].numel(), layer.num_groups)
            return torch.ops.aten.native_group_norm_backward(
                grad, x, mean, rstd, None, *sizes, mask
            )[0]
        return torch.ops.aten.native_layer_norm_backward(
            grad, x, layer.normalized_shape, mean, rstd, None, None, mask
        )[0]

    def _rows(self, x):  # [a * B, ...] -> [a, B, ...]
        return x.reshape(len(self.weight.p), -1, *x.shape[1:])

    def _spread(self, p, x):  # [a, *shape] -> one that multiplies [a, B, ...]
        if isinstance(self.layer, nn.GroupNorm):
            return p.view(len(p), 1, -1, *[1] * (x.dim() - 2))
        return p.view(len(p), *[1] * (x.dim() - p.dim() + 1), *p.shape[1:])

    def _gather(self, rows, x):  # the sum over all that shares a number: the transpose of _spread
        shared = [
            i
            for i, size in enumerate(self._spread(self.weight.p, x).shape)
            if i and size == 1 != rows.shape[i]
        ]
        return (rows.sum(shared) if shared else rows).reshape(self.weight.p.shape)


class ReLU:
    """``y = max(x, 0)``, ``fresh`` where nobody else has x: then in place."""

    def __init__(self, fresh: bool):
        self.fresh = fresh

    def forward(self, x):
        y = x.relu_() if self.fresh else x.relu()
        return y, y

    def backward(self, y, grad, wanted):
        return torch.ops.aten.threshold_backward(grad, y, 0)


class Flatten:
    """Each example as one row."""

    def __init__(self, layer: nn.Flatten):
        self.layer = layer

    def forward(self, x):
        return self.layer(x), x.shape

    def backward(self, shape, grad, wanted):
        return grad.reshape(shape)


class Plain:
    """Any other layer in which nothing trains: autograd finds the way back."""

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def forward(self, x):
        x = x.detach().requires_grad_(x.is_floating_point())
        y = self.layer(x)
        return y.detach(), (x, y)

    def backward(self, saved, grad, wanted):
        x, y = saved
        return torch.autograd.grad(y, x, grad)[0]


Layer = Linear | Conv2d | Embedding | Norm

STACKED = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.Embedding: Embedding,
    nn.LayerNorm: Norm,
    nn.GroupNorm: Norm,
}


class NoForm(Exception):  # noqa: N818 - never leaves this folder
    """The model has something in it that this form does not know."""


class Leaf(NamedTuple):
    """A layer whose parameters train."""

    layer: nn.Module
    names: dict[str, str]  # what its parameters are called in the model, by what it calls them

    def stacked(self, movers: dict[str, Step | Gathered]) -> Layer:
        return STACKED[type(self.layer)](
            self.layer, {key: movers[name] for key, name in self.names.items()}
        )


def _once_a_model(find: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    """``find``, with its answers kept as long as their models are."""
    found: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    def lookup(model):
        if (
            type(model) in STACKED
        ):  # whose answer holds the model itself, and would keep it for ever
            return find(model)
        try:
            return found[model]
        except KeyError:
            return found.setdefault(model, find(model))

    return lookup


@_once_a_model
def leaves(model: nn.Module) -> list[Leaf]:
    """The layers that hold all that trains, each one that can be stacked."""
    found, names = (
        [],
        {p: name for name, p in model.named_parameters()},
    )  # one name for parameters that are tied
    for layer in model.modules():
        own = dict(layer.named_parameters(recurse=False, remove_duplicate=False))
        if any(p.requires_grad for p in own.values()):
            if not _is_known(layer, own):
                raise NoForm
            found.append(Leaf(layer, {key: names[p] for key, p in own.items()}))
    return found


def _is_known(layer: nn.Module, own: dict[str, nn.Parameter]) -> bool:
    """Whether a layer with parameters computes what its stacked form does, and nothing else."""
    if (
        type(layer) not in STACKED
        or _is_altered(layer)
        or not all(p.requires_grad for p in own.values())
    ):
        return False
    if isinstance(layer, nn.Embedding) and (layer.scale_grad_by_freq or layer.max_norm is not None):
        return False
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return False
    return "weight" in own and own.keys() <= {"weight", "bias"}


def _is_altered(layer: nn.Module) -> bool:
    """Whether something runs before or after the forward of its class, or in its place."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(layer)


@_once_a_model
def line(model: nn.Module) -> list[nn.Module | ReLU | Flatten | Plain]:
    """The layers of nested Sequentials, in order: those that train, and what stands for the others."""
    known = leaves(model)
    trained, layers, order = {leaf.layer for leaf in known}, [], _in_order(model)
    names = [name for leaf in known for name in leaf.names.values()]
    if len(set(names)) < len(names) or sum(layer in trained for layer in order) != len(trained):
        raise NoForm  # what is read twice in a pass needs its gradients added up
    for layer in order:
        if type(layer) is nn.ReLU and not _is_altered(
            layer
        ):  # what trains needs its input for the way back, not its output
            layers.append(ReLU(fresh=bool(layers) and isinstance(layers[-1], nn.Module)))
        elif layer in trained:
            layers.append(layer)
        else:
            layers.append(
                Flatten(layer)
                if type(layer) is nn.Flatten and not _is_altered(layer)
                else Plain(layer)
            )
    return layers


def is_plain(model: nn.Module) -> bool:
    """Return whether a model is a line of PyTorch's own layers, of which none looks at a batch's values."""
    try:
        line(model)
    except NoForm:
        return False
    layers = list(model.modules())
    return all(
        type(layer).__module__.startswith("torch.nn.") and not _is_altered(layer)
        for layer in layers
    )


def _in_order(model: nn.Module) -> list[nn.Module]:
    if not _is_sequence(model) or _is_altered(model):
        raise NoForm
    return [
        one for layer in model for one in (_in_order(layer) if _is_sequence(layer) else [layer])
    ]


def _is_sequence(model: nn.Module) -> bool:
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


class Line:
    """Layers one after another, forward and backward by hand, since autograd costs as much as small layers do.

    ``trained`` are those with parameters, by the layer of the ``model`` that each stands for.
    """

    def __init__(self, model: nn.Module, trained: dict[nn.Module, Any]):
        layers = line(model)
        self.trained, self.layers = trained, [trained.get(layer, layer) for layer in layers]
        self.by_hand = all(type(layer) is not Plain for layer in layers)  # without autograd
        self.first = min(
            k for k, layer in enumerate(layers) if layer in trained
        )  # nothing wants a gradient before it

    def forward(self, x: Tensor) -> tuple[Tensor, list]:
        """The output, and what each layer saved."""
        trail = []
        for layer in self.layers:
            x, saved = layer.forward(x)
            trail.append(saved)
        return x, trail

    def advance(self, x: Tensor, score: Any) -> None:
        """One step of everyone at work."""
        output, trail = self.forward(x)
        grad = score.slope(output)
        for k in range(len(self.layers) - 1, self.first - 1, -1):
            grad = self.layers[k].backward(trail[k], grad, k > self.first)

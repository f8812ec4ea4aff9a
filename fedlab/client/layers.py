"""Layers for many clients at once: each client has its own parameters.

The client axis is folded into the batch, ``[a * B, ...]`` for ``a`` clients.  Operations that
treat each example by itself need no change; a layer with parameters unfolds the axis.

``forward(x) -> (y, saved)`` returns the output and what the backward pass needs.
``backward(saved, grad, wanted)`` takes the optimizer's step, and returns the gradient of the input
if it is ``wanted``.  The gradient that arrives is scaled as ``fedlab.client.optimizers`` says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch users know
from torch import nn

from fedlab.client.optimizers import Gathered, Optimizer

LayerOptimizers = dict[str, Optimizer | Gathered]  # by the layer's own names: "weight", "bias"


class Linear:
    """``y = x Wᵀ + b``."""

    def __init__(self, layer: nn.Linear, optimizers: LayerOptimizers):
        self.weight, self.bias = optimizers["weight"], optimizers.get("bias")
        self.weight_t = self.weight.p.mT  # [a, in, out]
        self.bias_row = None if self.bias is None else self.bias.p[:, None]

    def forward(self, x):
        rows = x.reshape(len(self.weight_t), -1, x.shape[-1])  # [a, B..., in]
        y = (
            torch.bmm(rows, self.weight_t)
            if self.bias_row is None
            else torch.baddbmm(self.bias_row, rows, self.weight_t)
        )
        return y.view(*x.shape[:-1], -1), rows

    def backward(self, rows, grad, wanted):
        """Take the optimizer's step, and return the gradient of the input.

        Args:
            rows: Inputs as rows of each client, from the forward pass.
            grad: Gradient of the output.
            wanted: Whether the gradient of the input is wanted.
        """
        g = grad.reshape(len(rows), -1, grad.shape[-1])  # [a, B..., out]
        # Before the step: the forward pass had the old W.
        grad_input = torch.bmm(g, self.weight.p).view(*grad.shape[:-1], -1) if wanted else None
        self.weight.step(lambda to, sign: to.baddbmm_(g.mT, rows, alpha=sign))
        if self.bias is not None:
            self.bias.step(lambda to, sign: to.add_(g.sum(1), alpha=sign))
        return grad_input


class Conv2d:
    """A convolution per client, as the groups of channels of one large convolution."""

    def __init__(self, layer: nn.Conv2d, optimizers: LayerOptimizers):
        self.layer = layer
        self.weight, self.bias = optimizers["weight"], optimizers.get("bias")

    def forward(self, x):
        a, w = len(self.weight.p), self.weight.p.flatten(0, 1)
        channels = self._to_channels(x)
        bias = None if self.bias is None else self.bias.p.reshape(-1)
        layer = self.layer
        y = F.conv2d(
            channels, w, bias, layer.stride, layer.padding, layer.dilation, a * layer.groups
        )
        return self._to_batch(y), channels

    def backward(self, channels, grad, wanted):
        """Take the optimizer's step, and return the gradient of the input.

        Args:
            channels: Inputs as channels of the large convolution, from the forward pass.
            grad: Gradient of the output.
            wanted: Whether the gradient of the input is wanted.
        """
        layer, a = self.layer, len(self.weight.p)
        w, g = self.weight.p.flatten(0, 1), self._to_channels(grad)
        grad_input, dw, db = torch.ops.aten.convolution_backward(
            g, channels, w, [len(w)], layer.stride, _padding(layer), layer.dilation, False, [0, 0],
            a * layer.groups, [wanted, True, self.bias is not None],
        )  # fmt: skip
        self.weight.step(lambda to, sign: to.add_(dw.view_as(to), alpha=sign))
        if self.bias is not None:
            self.bias.step(lambda to, sign: to.add_(db.view_as(to), alpha=sign))
        return self._to_batch(grad_input) if wanted else None

    def _to_channels(self, x):  # [a * B, C, H, W] -> [B, a * C, H, W]
        return x.unflatten(0, (len(self.weight.p), -1)).transpose(0, 1).flatten(1, 2)

    def _to_batch(self, y):  # [B, a * C, H, W] -> [a * B, C, H, W]
        return y.unflatten(1, (len(self.weight.p), -1)).transpose(0, 1).flatten(0, 1)


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        return tuple(
            dilation * (size - 1) // 2
            for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    return layer.padding  # type: ignore[return-value]


class Embedding:
    """A lookup in the table of each client."""

    def __init__(self, layer: nn.Embedding, optimizers: LayerOptimizers):
        self.layer, self.weight = layer, optimizers["weight"]

    def forward(self, x):
        a, size = self.weight.p.shape[:2]
        # Rows of all tables, one table under the other.
        rows = x.reshape(a, -1) + size * torch.arange(a, device=x.device)[:, None]
        # An index outside its table must not read in another client's.
        rows = rows.masked_fill((x < 0).logical_or_(x >= size).view(a, -1), -1)
        return F.embedding(rows, self.weight.p.flatten(0, 1)).view(*x.shape, -1), (x, rows)

    def backward(self, saved, grad, wanted):
        """Take the optimizer's step; indices have no gradient.

        Args:
            saved: Indices, and their rows in the joint table, from the forward pass.
            grad: Gradient of the output.
            wanted: Ignored.
        """
        x, rows = saved
        g = grad.reshape(rows.numel(), -1)
        if self.layer.padding_idx is not None:
            g = g * (x.reshape(-1, 1) != self.layer.padding_idx)
        self.weight.step(
            lambda to, sign: to.flatten(0, 1).index_add_(0, rows.flatten(), g, alpha=sign)
        )


class Norm:
    """LayerNorm or GroupNorm: PyTorch's normalisation, then a scale and shift per client."""

    def __init__(self, layer: nn.LayerNorm | nn.GroupNorm, optimizers: LayerOptimizers):
        self.layer = layer
        self.weight, self.bias = optimizers["weight"], optimizers.get("bias")

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
        y = self._unfold(normed) * self._spread(self.weight.p, x)
        if self.bias is not None:
            y = y + self._spread(self.bias.p, x)
        return y.view_as(x), (x, normed, mean, rstd)

    def backward(self, saved, grad, wanted):
        """Take the optimizer's step, and return the gradient of the input.

        Args:
            saved: Input, normalised input, means and inverse deviations.
            grad: Gradient of the output.
            wanted: Whether the gradient of the input is wanted.
        """
        x, normed, mean, rstd = saved
        g, grad_input = self._unfold(grad), None
        if wanted:
            grad_normed = (g * self._spread(self.weight.p, x)).view_as(x)
            grad_input = self._grad_input(grad_normed, x, mean, rstd)
        self.weight.step(
            lambda to, sign: to.add_(self._gather(g * self._unfold(normed), x), alpha=sign)
        )
        if self.bias is not None:
            self.bias.step(lambda to, sign: to.add_(self._gather(g, x), alpha=sign))
        return grad_input

    def _grad_input(self, grad, x, mean, rstd):
        layer, mask = self.layer, [True, False, False]
        if isinstance(layer, nn.GroupNorm):
            sizes = (len(x), x.shape[1], x[0, 0].numel(), layer.num_groups)
            return torch.ops.aten.native_group_norm_backward(
                grad, x, mean, rstd, None, *sizes, mask
            )[0]
        return torch.ops.aten.native_layer_norm_backward(
            grad, x, layer.normalized_shape, mean, rstd, None, None, mask
        )[0]

    def _unfold(self, x):  # [a * B, ...] -> [a, B, ...]
        return x.reshape(len(self.weight.p), -1, *x.shape[1:])

    def _spread(self, p, x):
        """Shape ``p [a, *shape]`` so that it multiplies ``[a, B, ...]``."""
        if isinstance(self.layer, nn.GroupNorm):
            return p.view(len(p), 1, -1, *[1] * (x.dim() - 2))
        return p.view(len(p), *[1] * (x.dim() - p.dim() + 1), *p.shape[1:])

    def _gather(self, rows, x):
        """Sum over all places that share a parameter: the transpose of ``_spread``."""
        shared = [
            i
            for i, size in enumerate(self._spread(self.weight.p, x).shape)
            if i and size == 1 != rows.shape[i]
        ]
        return (rows.sum(shared) if shared else rows).reshape(self.weight.p.shape)


class ReLU:
    """``y = max(x, 0)``, in place if no other layer reads x."""

    def __init__(self, in_place: bool):
        self.in_place = in_place

    def forward(self, x):
        y = x.relu_() if self.in_place else x.relu()
        return y, y

    def backward(self, y, grad, wanted):
        """Return the gradient of the input.

        Args:
            y: Output of the forward pass.
            grad: Gradient of the output.
            wanted: Ignored: it costs little.
        """
        return torch.ops.aten.threshold_backward(grad, y, 0)


class Flatten:
    """Each example as one row."""

    def __init__(self, layer: nn.Flatten):
        self.layer = layer

    def forward(self, x):
        return self.layer(x), x.shape

    def backward(self, shape, grad, wanted):
        """Return the gradient of the input.

        Args:
            shape: Shape of the input, from the forward pass.
            grad: Gradient of the output.
            wanted: Ignored: it costs nothing.
        """
        return grad.reshape(shape)


class Untrained:
    """Any other layer without trainable parameters: autograd computes its backward pass."""

    def __init__(self, layer: nn.Module):
        self.layer = layer

    def forward(self, x):
        x = x.detach().requires_grad_(x.is_floating_point())
        y = self.layer(x)
        return y.detach(), (x, y)

    def backward(self, saved, grad, wanted):
        """Return the gradient of the input.

        Args:
            saved: Input and output of the forward pass.
            grad: Gradient of the output.
            wanted: Ignored: autograd computes it in any case.
        """
        x, y = saved
        return torch.autograd.grad(y, x, grad)[0]


StackedLayer = Linear | Conv2d | Embedding | Norm

STACKED: dict[type, type] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.Embedding: Embedding,
    nn.LayerNorm: Norm,
    nn.GroupNorm: Norm,
}

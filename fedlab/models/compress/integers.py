"""Weights as integers of a few bits: after training, or with training that anticipates them.

Only linear layers are quantised: ``unquantized_weights`` names the rest, such as convolutions and
GPT-2's layers, which are no ``nn.Linear``. ``quantize_weights`` needs torchao, whose import takes
some seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from fedlab.core import Task
from fedlab.core.bits import pack_bits
from fedlab.core.quiet import quiet
from fedlab.core.validate import check_whole


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """Round weights to 2^bits levels per output; gradients pass as if nothing were rounded.

    The step is ``s = max(max w / (2^(bits - 1) - 1), -min w / 2^(bits - 1))`` per output, so that
    no weight is clipped; codes are -2^(bits-1) to 2^(bits-1) - 1. The gradient is the
    straight-through estimator, Bengio et al. 2013.

    Args:
        weight: Weights ``[..., out, in]``.
        bits: Bits per weight.

    Returns:
        Rounded weights of the same shape.

    Example:
        >>> fake_quantize(torch.tensor([[-1.0, 0.1, 0.45]]), 2)
        tensor([[-1.0000,  0.0000,  0.5000]])
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    smallest, largest = (
        reach(-1, keepdim=True) for reach in (weight.detach().amin, weight.detach().amax)
    )
    step = torch.maximum(smallest.clamp(max=0) / low, largest.clamp(min=0) / high)
    step = step.clamp(min=torch.finfo(weight.dtype).smallest_normal)
    code = weight * (1 / step)
    return (code + (code.round() - code).detach()) * step


class FakeQuantized(nn.Linear):
    """A linear layer that computes with its rounded weights."""

    bits: int

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, fake_quantize(self.weight, self.bits), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


def quantization_aware(task: Task, bits: int) -> Task:
    """Train and evaluate with the weights of linear layers rounded to 2^bits levels.

    Updates stay floats: many small updates move a weight to the next level. ``quantize_weights``
    of the result gives a model with integers, and the same outputs. Jacob et al. 2018, section 3.

    Args:
        task: A task whose model has linear layers.
        bits: Bits per weight, 2 to 8.

    Raises:
        ValueError: If the model has no linear layer, or ``bits`` is out of range.

    Example:
        >>> from fedlab.data import load
        >>> from fedlab.models import logistic_regression
        >>> quantization_aware(logistic_regression(load("digits")), 4).model()
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): FakeQuantized(in_features=64, out_features=10, bias=True, bits=4)
        )
    """
    _check(task, bits)
    return Task(partial(build_quantization_aware, task.model, bits), task.loss, task.metrics)


def build_quantization_aware(model: Callable[[], nn.Module], bits: int) -> nn.Module:
    """Return ``model()`` with rounded weights in its linear layers."""
    built = model()
    for layer in _linear_layers(built):
        layer.__class__, layer.bits = FakeQuantized, bits
    return built


@torch.no_grad()
def quantize_weights(task: Task, w: Tensor, bits: int) -> nn.Module:
    """Return the model with integer weights in its linear layers, by torchao.

    Post-training quantisation of weights alone: inputs and sums are float32, even if ``w`` is
    float64. Each output has a scale. Without the kernels of certain devices an integer takes a
    byte in memory, whatever its bits; ``integer_bytes`` gives the size on disk.

    Args:
        task: A task whose model has linear layers.
        w: Trained row ``[d]``, such as ``result.w[0]``.
        bits: Bits per weight, 2 to 8.

    Raises:
        ValueError: If the model has no linear layer, or ``bits`` is out of range.
    """
    _check(task, bits)
    model = task.module(w).float()
    for layer in _linear_layers(model):
        layer.__class__ = nn.Linear
    dtype, ao = getattr(torch, f"int{bits}"), _torchao()
    mapping = ao.MappingType.SYMMETRIC_NO_CLIPPING_ERR
    ao.quantize_(model, ao.IntxWeightOnlyConfig(dtype, ao.PerAxis(0), mapping_type=mapping))
    return model.eval()


def integer_bytes(model: nn.Module) -> bytes:
    """Return a model of ``quantize_weights`` as a safetensors file with packed codes."""
    from safetensors.torch import save

    tensors = {}
    for name, p in model.named_parameters():
        if not hasattr(p, "qdata"):
            tensors[name] = p.detach().contiguous()
            continue
        bits = int(str(p.target_dtype).removeprefix("torch.int"))
        codes = (p.qdata.flatten().to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
        packed = bytearray(pack_bits(codes.numpy(force=True), bits))
        tensors |= {
            f"{name}.codes": torch.frombuffer(packed, dtype=torch.uint8),
            f"{name}.scale": p.scale.contiguous(),
        }
    return save(tensors)


def unquantized_weights(model: nn.Module) -> dict[str, int]:
    """Return names and sizes of the weights that ``quantize_weights`` leaves as floats.

    Biases and other vectors are not listed.

    Example:
        >>> unquantized_weights(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(8, 2)))
        {'0.weight': 36}
    """
    quantized = {id(layer.weight) for layer in _linear_layers(model)}
    return {
        name: p.numel()
        for name, p in model.named_parameters()
        if p.dim() > 1 and id(p) not in quantized
    }


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    # Subclasses may compute something else.
    return [layer for layer in model.modules() if type(layer) in (nn.Linear, FakeQuantized)]


def _check(task: Task, bits: int) -> None:
    check_whole(2, bits=bits)
    if bits > 8:
        raise ValueError(
            f"bits={bits} must be 2 to 8 (more bits gain nothing over 16-bit floats). Try bits=8"
        )
    if not _linear_layers(task.template(torch.empty(0))):
        raise ValueError(
            "the model must have a linear layer (no other layer is quantised). Try mlp or cnn"
        )


@lru_cache
def _torchao():
    with quiet():
        import torchao.quantization
    return torchao.quantization

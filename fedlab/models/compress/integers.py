"""Weights as whole numbers of a few bits: after training, and with training that knows of it.

Linear layers only: ``unquantized_weights`` names what is not, such as convolutions, and a GPT-2's layers, which are none of
PyTorch's.  Needs torchao, which takes some seconds to import.
"""

from __future__ import annotations

from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from fedlab.core import Task
from fedlab.core.bits import pack_bits
from fedlab.core.quiet import quiet
from fedlab.core.validate import check_whole


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits values a row of ``weight [..., out, in]``; to gradients, the weight itself.

    ``s = max(max w / (2^(bits - 1) - 1), -min w / 2^(bits - 1))`` for each output, so that no weight is out of reach, and
    codes from -2^(bits-1) to 2^(bits-1) - 1.  The straight-through estimator, Bengio et al. 2013.
    """
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    least, most = (
        reach(-1, keepdim=True) for reach in (weight.detach().amin, weight.detach().amax)
    )
    step = torch.maximum(least.clamp(max=0) / low, most.clamp(min=0) / high)
    step = step.clamp(min=torch.finfo(weight.dtype).smallest_normal)
    code = weight * (1 / step)
    return (code + (code.round() - code).detach()) * step


class FakeQuantized(nn.Linear):
    """A linear layer that computes with what its weights will be."""

    bits: int

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, fake_quantize(self.weight, self.bits), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


def quantization_aware(task: Task, bits: int) -> Task:
    """The same task, trained and judged with the weights of linear layers at 2^bits levels.  Jacob et al. 2018, section 3.

    The rows that clients send and the server adds are floats: many small updates move a weight to the next level.
    ``quantize_weights`` of the result gives the model with integers, and the same outputs.
    """
    _check(task, bits)
    return Task(partial(build_quantization_aware, task.model, bits), task.loss, task.metrics)


def build_quantization_aware(model, bits: int) -> nn.Module:
    """What ``model()`` builds, with its linear layers fake-quantised."""
    built = model()
    for layer in _linear(built):
        layer.__class__, layer.bits = FakeQuantized, bits
    return built


@torch.no_grad()
def quantize_weights(task: Task, w: Tensor, bits: int) -> nn.Module:
    """The model with the row ``w [d]``, whose linear layers hold integers of 2 to 8 bits and a scale an output, by torchao.

    Post-training, weights only: inputs and sums are floats of 32 bits, also where ``w`` has 64.  Without the kernels of some
    devices an integer takes a byte in memory, however few its bits are; ``integer_bytes`` says what it takes on disk.
    """
    _check(task, bits)
    model = task.module(w).float()
    for layer in _linear(model):
        layer.__class__ = nn.Linear
    kind = getattr(torch, f"int{bits}")
    ao = _torchao()
    reach = ao.MappingType.SYMMETRIC_NO_CLIPPING_ERR
    ao.quantize_(model, ao.IntxWeightOnlyConfig(kind, ao.PerAxis(0), mapping_type=reach))
    return model.eval()


def integer_bytes(model: nn.Module) -> bytes:
    """A model of ``quantize_weights`` as a safetensors file, with its codes at their bits, one after the other."""
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
    """Names and sizes of the weights, of two dimensions or more, that ``quantize_weights`` passes over."""
    taken = {id(layer.weight) for layer in _linear(model)}
    return {
        name: p.numel()
        for name, p in model.named_parameters()
        if p.dim() > 1 and id(p) not in taken
    }


def _linear(model: nn.Module) -> list[nn.Linear]:
    return [
        layer for layer in model.modules() if type(layer) in (nn.Linear, FakeQuantized)
    ]  # others compute otherwise


def _check(task: Task, bits: int) -> None:
    check_whole(2, bits=bits)
    if bits > 8:
        raise ValueError(
            f"bits={bits}: integers of 2 to 8 bits; above that there is nothing to gain over 16-bit floats"
        )
    if not _linear(task.template(torch.empty(0))):
        raise ValueError(
            "the model has no linear layer, and only these are quantised: use mlp or cnn"
        )


@lru_cache
def _torchao():
    with quiet():
        import torchao.quantization
    return torchao.quantization

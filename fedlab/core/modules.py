"""What a module must be so that a run can be repeated: a function of seed, weights and example, and of nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedlab.core.rng import seeded

DEEPEST = 5  # levels of containers and objects in which a module may keep something

COPY = "lambda: copy.deepcopy(net)"


def check_model(model: Any) -> None:
    """Raise ValueError for a task's ``model`` that is no function, such as a module itself."""
    if isinstance(model, nn.Module) or not callable(model):
        told = f"model={type(model).__name__} must be a function that builds a fresh module, since every run starts anew"
        raise ValueError(f"{told}. Try {COPY}")


def check_layers(model: Any) -> None:
    """Raise ValueError for layers whose output is not a matter of weights and example alone."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model() gave {type(model).__name__} and must give an nn.Module. Try lambda: MyModule()"
        )
    for name, layer in model.named_modules():
        where = f"{type(layer).__name__} at {name or 'the top'!r}"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (
            layer.training or layer.running_mean is None
        ):
            raise ValueError(
                f"{where} normalises by a client's batch: such statistics differ "
                "from client to client and do not average (Hsieh et al. 2020). Try nn.GroupNorm(2, channels), or its "
                "pretrained statistics as they are: layer.eval()"
            )
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
            raise ValueError(
                f"{where} has no shape until it sees an example. Try the layer without Lazy, with its sizes"
            )
        if isinstance(layer, nn.RReLU) and layer.lower != layer.upper:
            raise ValueError(f"{where} {_DRAWS}. Try nn.LeakyReLU")
        trains = any(p.requires_grad for p in layer.parameters())
        if isinstance(layer, nn.DataParallel) or (
            isinstance(layer, torch.jit.ScriptModule) and trains
        ):
            told = f"{where} takes no weights from outside, and each client has its own"
            raise ValueError(
                f"{told}. Try the module before torch.jit or nn.DataParallel, or requires_grad_(False)"
            )
        rate = "p" if isinstance(layer, nn.modules.dropout._DropoutNd) else "dropout"
        if isinstance(layer, _DROP) and layer.training and getattr(layer, rate) > 0:
            raise ValueError(
                f"{where} {_DRAWS}: set {rate}={getattr(layer, rate):g} to 0, or leave it out"
            )
        if getattr(layer, "max_norm", None) is not None and isinstance(
            layer, nn.Embedding | nn.EmbeddingBag
        ):
            told = f"{where} has max_norm={layer.max_norm:g}, with which a forward pass changes the weights"
            raise ValueError(
                f"{told}. Try without max_norm, and normalise its output: F.normalize(e(x), dim=-1)"
            )
    _check_parameters(model)


_DRAWS = "draws from PyTorch's global generator, so no run could be repeated"

_DROP = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)


def _check_parameters(model: nn.Module) -> None:
    """Raise ValueError for parameters that are no numbers of a row."""
    trained, places = {name: p for name, p in model.named_parameters() if p.requires_grad}, {}
    for name, p in trained.items():
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            told = f"the parameter {name!r} of {type(model).__name__} has a hook on its gradient, which would not be called"
            raise ValueError(
                f"{told}: each client has weights of its own. Try Terms(mask=...), or requires_grad_(False)"
            )
        if p.is_complex():
            told = f"the parameter {name!r} of {type(model).__name__} is of type {p.dtype}, and a row has real numbers"
            raise ValueError(
                f"{told}. Try nn.Parameter(torch.view_as_real(z)), with torch.view_as_complex in forward"
            )
        if p.numel() and places.setdefault((p.device, p.data_ptr()), name) != name:
            told = f"the parameters {places[p.device, p.data_ptr()]!r} and {name!r} of {type(model).__name__} lie in one place"
            raise ValueError(
                f"{told} and would be trained apart. Try to tie them as one nn.Parameter: a.weight = b.weight"
            )


class Builds(NamedTuple):
    """How two builds of a model under one seed go together."""

    share: bool  # modules, or parameters as objects: frozen ones, such as a pretrained network
    differ: bool  # in some attribute, which may be no matter


def check_builds(model: nn.Module, again: nn.Module) -> Builds:
    """Raise ValueError unless two builds under one seed are equal and share nothing that trains."""
    name, trained = type(model).__name__, [p for p in again.parameters() if p.requires_grad]
    kept = {
        (p.device, p.untyped_storage().data_ptr())
        for p in model.parameters()
        if p.requires_grad and p.numel()
    }
    if model is again or any(
        (p.device, p.untyped_storage().data_ptr()) in kept for p in trained if p.numel()
    ):
        told = f"model() gives the same {name}, or its weights, every time, so a run would start where the last one ended"
        raise ValueError(f"{told}. Try {COPY}")
    unlike = next(_differences(model, again), None)
    if unlike is not None:
        told = f"{unlike} of {name} is another one each time model() is called under one seed"
        raise ValueError(
            f"{told}, so no run could be repeated. Try torch's functions in place of NumPy's, Python's random or the time"
        )
    objects = {id(one) for one in (*model.modules(), *model.parameters())}
    share = any(id(one) in objects for one in (*again.modules(), *again.parameters()))
    return Builds(share, next(changes(state(model), state(again)), None) is not None)


def _differences(model: nn.Module, again: nn.Module) -> Iterator[str]:
    """Name what two modules do not have in common: layers, parameters, buffers."""
    one, other = (
        [f"{name} ({type(layer).__name__})" for name, layer in each.named_modules()]
        for each in (model, again)
    )
    if one != other:
        yield "the list of layers"
    for kind in ("parameter", "buffer"):
        one, other = (dict(getattr(each, f"named_{kind}s")()) for each in (model, again))
        for name in one.keys() | other.keys():
            if name not in one or name not in other or not equal(one[name], other[name]):
                yield f"the {kind} {name!r}"


def equal(a: Tensor, b: Tensor) -> bool:
    """Compare tensors bit for bit; NaN equals NaN."""
    if a is b or (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return a is b
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def check_forward(
    forward: Callable[[Tensor], Any],
    model: nn.Module,
    before: dict[str, Any],
    x: Tensor,
    other: Tensor,
) -> bool:
    """Raise ValueError where a pass over ``x`` draws, or is not the same again after one over ``other`` examples.

    Returns:
        Whether the model, whose ``state`` was ``before``, keeps something of a pass, which may not matter for the next.

    """
    name = type(model).__name__
    with seeded(0, "forward") as draws:
        first = forward(x)
    after = state(model)
    changed = next(
        (path for path in changes(before, after) if path in dict(model.named_buffers())), None
    )
    with seeded(1, "forward"):
        forward(other)
    with seeded(2, "forward"):
        again = forward(x)
    changed = changed or next(changes(after, state(model)), None)
    if draws.drawn is not None or _randomly(draws.others):
        told = f"the forward pass of {name} draws random numbers ({draws.drawn or _randomly(draws.others)})"
        raise ValueError(
            f"{told}, so no run could be repeated. Try it without: dropout 0, noise in the data"
        )
    if changed is not None:
        told = f"the forward pass of {name} changes {changed!r}: examples and clients would depend on those before"
        raise ValueError(
            f"{told}. Try nn.GroupNorm for running statistics, or to compute it anew in every pass"
        )
    if not same_outputs(first, again):
        told = (
            f"{name} gives other outputs for the same examples and weights when it is called again"
        )
        raise ValueError(
            f"{told}, so no run could be repeated. Try it without randomness and without state in forward"
        )
    return next(changes(before, after), None) is not None


def same_outputs(first: Any, again: Any) -> bool:
    """Compare the tensors in two outputs, to rounding."""
    one, other = (
        [leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)] for each in (first, again)
    )
    if [leaf.shape for leaf in one] != [leaf.shape for leaf in other]:
        return False
    for a, b in zip(one, other, strict=True):
        near = 1e-6 * a.abs().max().item() if a.is_floating_point() and a.numel() else 0
        if not (equal(a, b) or (near and torch.allclose(a, b, rtol=0, atol=near, equal_nan=True))):
            return False
    return True


def _randomly(calls: list[tuple[Any, tuple, dict]]) -> str | None:
    """Name the first of some calls that draws, going by what its arguments call the rate of dropout."""
    for func, args, kwargs in calls:
        names = [argument.name for argument in func._schema.arguments]
        named = dict(zip(names, args, strict=False)) | kwargs
        if (
            any(named.get(rate) for rate in ("p", "dropout_p", "dropout"))
            and named.get("train") is not False
        ):
            return func._schema.name.removeprefix("aten::")
    return None


def state(model: nn.Module) -> dict[str, Any]:
    """Return everything that a module holds beside what trains, by its path: buffers, attributes, what is frozen."""
    leaves: dict[str, Any] = {}
    seen: set[int] = set()
    for name, layer in model.named_modules():
        prefix = f"{name}." if name else ""
        for key, value in vars(layer).items():
            if key in ("_parameters", "_buffers"):
                for own, tensor in value.items():
                    _visit(leaves, seen, prefix + own, tensor, 0)
            elif key not in _INNER:
                _visit(leaves, seen, prefix + key, value, 0)
    return leaves


_INNER = set(vars(nn.Module())) - {"training"}


def _visit(leaves: dict[str, Any], seen: set[int], path: str, value: Any, depth: int) -> None:
    """Note a value, or those within it.  A tensor is noted with how often it was written, so that nothing is copied."""
    if isinstance(value, Tensor):
        leaves[path] = value, None if value.is_inference() else value._version
    elif isinstance(value, np.ndarray):
        leaves[path] = value.copy()
    elif value is None or isinstance(
        value, bool | int | float | complex | str | bytes | np.generic
    ):
        leaves[path] = value
    elif isinstance(value, Mapping | list | tuple | set | frozenset | deque):
        if id(value) in seen or depth == DEEPEST:
            return
        seen.add(id(value))
        leaves[f"{path} (length)"] = len(value)
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            _visit(leaves, seen, f"{path}.{key}", item, depth + 1)
    elif type(value).__module__.partition(".")[0] not in _FOREIGN and isinstance(
        vars_of := _vars(value), dict
    ):
        if id(value) in seen or depth == DEEPEST:
            return
        seen.add(id(value))
        for key, item in vars_of.items():
            _visit(leaves, seen, f"{path}.{key}", item, depth + 1)


_FOREIGN = {
    "builtins",
    "functools",
    "threading",
    "torch",
    "transformers",
    "peft",
    "fedlab",
    "numpy",
    "types",
}


def _vars(value: Any) -> Any:
    """Return the attributes of an object; None for classes and modules, which are visited otherwise or not at all."""
    return None if isinstance(value, type | nn.Module) else getattr(value, "__dict__", None)


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Name the paths at which two states differ."""
    for path, value in after.items():
        if path not in before or not _alike(before[path], value):
            yield path.removesuffix(" (length)")


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        (a, version), (b, later) = one, other
        return version == later if a is b else equal(a.detach(), b.detach())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(
            one, other, equal_nan=one.dtype.kind in "fc" and other.dtype.kind in "fc"
        )
    return type(one) is type(other) and (one == other or one != one)


class TableLookups(TorchDispatchMode):
    """Inside the block every look-up in a table is checked: OutOfTable is raised in place of a raw error, or of none.

    After ``last`` of them LookupsDone is raised, since what follows need not be computed.  ``early`` of the ``number`` came before
    the first product of matrices.  ``unmapped`` says that one has a gradient of its own, by padding or by frequency, which
    ``vmap`` leaves out without a word.
    """

    def __init__(self, last: int | None = None):
        super().__init__()
        self.last, self.number, self.early, self.unmapped, self._products = last, 0, 0, False, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if looked := list(self._looked_up(func._overloadpacket, args)):
            for size, rows, lowest in looked:
                outside = (rows < lowest) | (rows >= size)
                if outside.any():
                    raise OutOfTable(rows, outside, size)
            names = (argument.name for argument in func._schema.arguments)
            options = dict(zip(names, args, strict=False)) | (kwargs or {})
            self.unmapped |= options.get("padding_idx", -1) >= 0 or bool(
                options.get("scale_grad_by_freq")
            )
            self.number += 1
            self.early += not self._products
            if self.number == self.last:
                raise LookupsDone
        self._products += func._overloadpacket in _PRODUCTS
        return func(*args, **(kwargs or {}))

    def _looked_up(self, op: Any, args: tuple) -> Iterator[tuple[int, Tensor, int]]:
        """Name the sizes of tables with what is read of them and the lowest row that they have, for indices early ones."""
        if op in _TABLES:
            yield len(args[0]), args[1], 0
        elif op in _BY_AXIS and not self._products and args[0].dim():
            yield args[0].shape[args[1]], args[2], 0
        elif op is torch.ops.aten.index and not self._products:
            for size, rows in zip(args[0].shape, args[1], strict=False):
                if rows is not None and rows.dtype in (torch.int64, torch.int32):
                    yield size, rows, -size
                elif rows is not None and rows.dtype is torch.bool:
                    return  # takes as many axes as it has


_TABLES = {
    torch.ops.aten.embedding,
    torch.ops.aten._embedding_bag,
    torch.ops.aten._embedding_bag_forward_only,
}

_BY_AXIS = {torch.ops.aten.index_select, torch.ops.aten.gather}

_PRODUCTS = {
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.convolution,
}


class OutOfTable(Exception):  # noqa: N818 - never leaves fedlab
    """A look-up of numbers that a table does not have."""

    def __init__(self, rows: Tensor, outside: Tensor, size: int):
        super().__init__()
        self.rows, self.outside, self.size = rows, outside, size


class LookupsDone(Exception):  # noqa: N818 - never leaves fedlab
    """All look-ups of a pass are behind it."""

"""Weights of a few bits: clients train with the weights that torchao makes, to the bit."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerAxis

from fedlab.client import batched, sequential
from fedlab.data import load
from fedlab.engine import initial, run
from fedlab.models import classification, cnn, mlp
from fedlab.models.compress.integers import _torchao, fake_quantize
from fedlab.upload import integer_bytes, quantization_aware, quantize_weights, unquantized_weights

DIGITS = load("digits", 5)
TASK = mlp(DIGITS, hidden=(48, 24))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_values_are_those_of_torchao_and_gradients_pass_through(bits):
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(bits))
    weight[3], weight[4, 7], weight[5, 7] = 0, 50, -50
    layer = nn.Linear(30, 20)
    layer.weight.data = weight.clone()
    kind, reach = getattr(torch, f"int{bits}"), MappingType.SYMMETRIC_NO_CLIPPING_ERR
    _torchao().quantize_(layer, IntxWeightOnlyConfig(kind, PerAxis(0), mapping_type=reach))
    ours = weight.clone().requires_grad_()
    values = fake_quantize(ours, bits)
    assert torch.equal(layer.weight.dequantize(), values)
    assert all(len(row.unique()) <= 2**bits for row in values)
    largest = weight.abs().amax(1, keepdim=True)
    assert ((values - weight).abs() <= largest / (2 ** (bits - 1) - 1) / 2 * (1 + 1e-6)).all(), (
        "half a step"
    )
    values.backward(weight)
    torch.testing.assert_close(ours.grad, weight)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_model_with_integers_is_the_one_that_was_trained(bits):
    w, x = initial(TASK, 0), DIGITS.test[0]
    model = quantize_weights(TASK, w, bits)
    assert torch.equal(model(x), quantization_aware(TASK, bits).forward(w, x))
    for layer in model:
        if isinstance(layer, nn.Linear):
            assert len(layer.weight.qdata.unique()) <= 2**bits
    assert torch.equal(w, initial(TASK, 0)), "the row stays as it was"


def test_fewer_bits_are_further_away():
    w, x = initial(TASK, 0), DIGITS.test[0]
    apart = [
        (quantize_weights(TASK, w, bits)(x) - TASK.forward(w, x)).norm().item()
        for bits in (8, 4, 2)
    ]
    assert apart[0] < apart[1] / 5 < apart[2] / 10


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_file_has_the_bits_that_it_says(bits):
    w = initial(TASK, 0)
    model = quantize_weights(TASK, w, bits)
    data = integer_bytes(model)
    tensors = load_tensors(data)
    weights, rows = 64 * 48 + 48 * 24 + 24 * 10, 48 + 24 + 10
    assert (
        sum(t.numel() for name, t in tensors.items() if name.endswith("codes"))
        == weights * bits // 8
    )
    assert weights * bits / 8 + 8 * rows < len(data) < weights * bits / 8 + 8 * rows + 1000
    first = tensors["1.weight.codes"].numpy()
    codes = [
        (int.from_bytes(first[:bits].tobytes(), "little") >> bits * i) % 2**bits - 2 ** (bits - 1)
        for i in range(8)
    ]
    assert codes == model[1].weight.qdata.flatten()[:8].tolist()
    assert torch.equal(tensors["1.weight.scale"].flatten(), model[1].weight.scale.flatten())
    assert torch.equal(tensors["5.bias"], model[5].bias)


def test_rows_in_double_precision_become_floats_of_32_bits():
    w, x = initial(TASK, 0), DIGITS.test[0]
    assert torch.equal(quantize_weights(TASK, w.double(), 4)(x), quantize_weights(TASK, w, 4)(x))


def test_linear_layers_of_another_kind_stay_what_they_are():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    task = classification(lambda: nn.Sequential(nn.Flatten(), Doubled(64, 9), nn.Linear(9, 10)))
    w, x = initial(task, 0), DIGITS.test[0]
    model = quantize_weights(task, w, 8)
    assert unquantized_weights(model) == {"1.weight": 576}
    assert (model(x) - task.forward(w, x)).abs().max() < 0.02 < task.forward(w, x).abs().max()


def test_training_that_knows_of_it_in_both_engines(study):
    task = quantization_aware(study.task, 3)
    data = load("digits", 30).double()
    experiment = replace(study, task=task, data=data, rounds=2)
    fast, slow = (run(experiment, engine) for engine in (batched, sequential))
    torch.testing.assert_close(fast.w[0], slow.w[0], atol=1e-8, rtol=0)
    assert fast.rounds["loss"].iloc[-1] < fast.rounds["loss"].iloc[0]


def test_what_stays_in_floats_is_named():
    transformers = pytest.importorskip("transformers.pytorch_utils")
    assert unquantized_weights(TASK.model()) == {}
    assert unquantized_weights(cnn(DIGITS).model()) == {"1.weight": 800, "4.weight": 51200}
    gpt = nn.Sequential(nn.Embedding(9, 6), transformers.Conv1D(5, 6))
    assert unquantized_weights(gpt) == {"0.weight": 54, "1.weight": 30}
    model = quantize_weights(cnn(DIGITS), initial(cnn(DIGITS), 0), 8)
    assert unquantized_weights(model) == {"1.weight": 800, "4.weight": 51200}
    assert torch.isfinite(model(DIGITS.test[0][:3])).all()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: quantization_aware(TASK, 1), r"bits=1 must be a whole number of at least 2"),
        (lambda: quantize_weights(TASK, initial(TASK, 0), 16), r"bits=16 must be 2 to 8"),
        (
            lambda: quantization_aware(
                classification(lambda: nn.Sequential(nn.Flatten(), nn.GroupNorm(2, 64))), 8
            ),
            r"must have a linear layer",
        ),
    ],
)
def test_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()

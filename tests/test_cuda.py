"""On a GPU: the same numbers as on the CPU.  Runs where there is one, and nowhere else."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load as load_tensors
from test_contracts import ALGORITHMS, SHAPES, TRANSFORMS, N, cohort, having, rows_of

from fedlab.client import batched, sequential
from fedlab.core import Experiment, Local, Message
from fedlab.data import dirichlet, load, load_texts
from fedlab.engine import initial, run
from fedlab.models import (
    cache_activations,
    classifier,
    cnn,
    everything,
    head_only,
    hidden_units,
    lora,
    prompt,
    resnet,
    shrink,
    text_classification,
    tiny,
)
from fedlab.server import fedavg, uniform, weighted_mean
from fedlab.upload import (
    error_feedback,
    integer_bytes,
    quantization_aware,
    quantize_weights,
    top_k,
    unit_magnitude,
    wire,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def on_both(experiment, backend=batched):
    """A run on the GPU and one on the CPU; in double precision, where no ReLU flips by rounding."""
    on_gpu, on_cpu = (run(experiment, backend, device=device) for device in ("cuda", "cpu"))
    assert on_gpu.w[0].is_cuda
    torch.testing.assert_close(on_gpu.w[0].cpu(), on_cpu.w[0], atol=1e-8, rtol=0)
    pd.testing.assert_frame_equal(on_gpu.clients, on_cpu.clients, atol=1e-8, rtol=0)
    return on_gpu


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(study, name):
    local = (
        Local(0.05, batch_size=None, steps=1) if name == "fedsgd" else replace(study.local, lr=0.05)
    )
    experiment = replace(
        study, data=load("digits", 30, dirichlet(0.05)).double(), local=local, rounds=3
    )
    on_both(having(name, experiment, upload=error_feedback(top_k(0.1))))


def test_smaller_models(study):
    w = initial(study.task, 0).cuda()
    mask = unit_magnitude(study.task, w, 0.5)
    small, row = shrink(study.task, w * mask)
    cpu, same = shrink(study.task, w.cpu() * unit_magnitude(study.task, w.cpu(), 0.5))
    assert row.is_cuda
    assert hidden_units(small) == hidden_units(cpu)
    assert torch.equal(row.cpu(), same)


def test_integers(study):
    pytest.importorskip("torchao")
    w = initial(study.task, 0)
    on_gpu, on_cpu = (
        load_tensors(integer_bytes(quantize_weights(study.task, row, 4))) for row in (w.cuda(), w)
    )
    for name, p in on_cpu.items():
        torch.testing.assert_close(
            on_gpu[name], p, atol=0 if name.endswith("codes") else 1e-6, rtol=0
        )


@pytest.mark.parametrize(
    "model",
    [cnn, lambda data: resnet(data, width=4), lambda data: quantization_aware(cnn(data), 4)],
)
@pytest.mark.parametrize("backend", [batched, sequential])
def test_models(study, model, backend):
    data = load("digits", 30, dirichlet(0.3)).double()
    local = Local(0.01, batch_size=5, steps=3)
    on_both(replace(study, data=data, task=model(data), local=local, rounds=1), backend)


@pytest.mark.parametrize("trains", [everything(), lora(4), lora(4, last=1), prompt(3), head_only()])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_language_models(kind, trains):
    docs = load_texts("docs", 15)
    model = tiny(kind, docs.texts, width=32, depth=2, vocabulary=400)
    task = classifier(model, docs.classes, trains)
    task, data = cache_activations(
        task, text_classification(model, docs, 6, dirichlet(0.3), length=16), dtype=torch.float32
    )
    parts = Local(0.1, batch_size=4, steps=2), fedavg(), weighted_mean, uniform(4)
    on_gpu, on_cpu = (
        run(Experiment(data, task, *parts, rounds=2), device=device) for device in ("cuda", "cpu")
    )
    assert on_gpu.w[0].is_cuda
    torch.testing.assert_close(on_gpu.w[0].cpu(), on_cpu.w[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, masked):
    from fedlab.upload.chains import send, within_mask

    ids, seen = [0, 1, 5, 9], {}
    for device in ("cuda", "cpu"):
        rows = rows_of(ids, dtype=torch.float64).to(device)
        mask = (
            (torch.arange(rows.shape[1], device=device) % 3 > 0)[None].to(rows) if masked else None
        )
        state = TRANSFORMS[name].init(rows[0], SHAPES, N)
        message = Message(rows if mask is None else rows * mask, SHAPES, mask=mask)
        message = within_mask(send(TRANSFORMS[name], message, state, cohort(ids))[0])
        assert message.delta.device.type == device
        torch.testing.assert_close(wire.round_trip(message), message.delta, atol=0, rtol=0)
        seen[device] = message.delta.cpu(), wire.sizes(message)
    torch.testing.assert_close(seen["cuda"][0], seen["cpu"][0], atol=1e-9, rtol=1e-9)
    assert (seen["cuda"][1] == seen["cpu"][1]).all()

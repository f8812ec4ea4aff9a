"""Parts of models and different models: averaged where they overlap, and distilled together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedlab.core import Cohort, FederatedDataset, Local, Updates
from fedlab.data import dirichlet, load
from fedlab.engine import evaluate, initial, run, stream
from fedlab.models import classification, first_units, mlp, model_masks, side_by_side, unit_mask
from fedlab.server import feddf, federated_dropout, fjord, heterofl, mean, weighted_mean
from fedlab.server.distillation import distill
from fedlab.upload import quantize

RATES = [(1.0, 0.5, 0.25)[i % 3] for i in range(30)]


def who(ids, t=1, seed=0):
    return Cohort(np.array(ids), t, seed, 30)


def test_overlap_by_hand(study):
    """A weight is the mean over the clients that have it, by examples; others stay."""
    task = mlp(load("digits", 30), hidden=(4,))
    method = heterofl(task, [0.5 if i < 2 else 0.25 for i in range(30)])
    d = sum(shape.numel() for shape in task.shapes.values())
    large, small = (unit_mask(task, first_units(task, rate)) for rate in (0.5, 0.25))
    n = torch.tensor([3.0, 1, 4, 9])
    delta = torch.stack([1 * large, 2 * large, 3 * small, 100 * small])
    updates = Updates(delta, n, torch.tensor([1.0, 1, 1, 0]), n, n)
    cohort = who([0, 1, 5, 8])
    got, _ = method.step(
        torch.zeros(d), None, cohort, updates, weighted_mean(*method.contributions(updates, cohort))
    )
    wanted = torch.where(
        small == 1, (3 * 1 + 1 * 2 + 4 * 3) / 8, torch.where(large == 1, (3 * 1 + 1 * 2) / 4, 0)
    )
    torch.testing.assert_close(got, wanted)
    assert (got == 0).any()


def test_what_comes_from_outside_a_mask_has_no_say():
    """An upload that mixes numbers may put some where the client has none."""
    task = mlp(load("digits", 30), hidden=(4,))
    method = heterofl(task, [0.5] * 30)
    mask, n = unit_mask(task, first_units(task, 0.5)), torch.tensor([2.0, 1])
    delta = torch.stack([3 * mask, 6 * mask])
    junk = delta + 7 * (1 - mask)
    clean, dirty = (
        weighted_mean(*method.contributions(Updates(rows, n, n, n, n), who([0, 1])))
        for rows in (delta, junk)
    )
    assert torch.equal(clean, dirty)
    torch.testing.assert_close(clean, 4 * mask)


@pytest.mark.slow
def test_whole_models_are_fedavg(study):
    plain = run(study)
    for method in (
        heterofl(study.task, [1.0] * 30),
        federated_dropout(study.task, 1.0),
        fjord(study.task, [1.0] * 30, widths=[1]),
    ):
        whole = run(replace(study, algorithm=method))
        torch.testing.assert_close(whole.w[0], plain.w[0], atol=1e-6, rtol=0)


def test_dropped_units_differ_from_client_to_client_and_round_to_round(study):
    method = federated_dropout(study.task, 0.5)
    masks = method.local_objective(None, who([2, 5, 7])).mask
    assert len(set(masks.sum(1).tolist())) == 1, "all are equally large"
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(method.local_objective(None, who([5])).mask[0], masks[1]), (
        "whoever else takes part"
    )
    assert not torch.equal(method.local_objective(None, who([5], t=2)).mask[0], masks[1])
    assert not torch.equal(method.local_objective(None, who([5], seed=1)).mask[0], masks[1])
    drawn = torch.stack(
        [method.local_objective(None, who([5], t=t)).mask[0] for t in range(1, 200)]
    ).mean(0)
    assert (drawn[-10:] == 1).all(), "outputs stay"
    assert (drawn[:64] - 0.5).abs().max() < 0.15


def test_clients_have_what_they_can_bear(study):
    masks = heterofl(study.task, RATES).local_objective(None, who([0, 1, 2, 4])).mask
    for mask, rate in zip(masks, (1.0, 0.5, 0.25, 0.5), strict=True):
        assert torch.equal(mask, unit_mask(study.task, first_units(study.task, rate)))


def test_widths_are_drawn_up_to_what_a_client_can_bear(study):
    widths = (0.25, 0.5, 1.0)
    method = fjord(study.task, RATES, widths=widths)
    sizes = {
        rate: int(unit_mask(study.task, first_units(study.task, rate)).sum()) for rate in widths
    }
    for client, rate in enumerate((1.0, 0.5, 0.25)):
        drawn = [
            int(method.local_objective(None, who([client], t=t)).mask.sum()) for t in range(1, 100)
        ]
        assert set(drawn) == {sizes[width] for width in widths if width <= rate}


def test_bytes_are_those_of_each_ones_part(study):
    clients = run(replace(study, algorithm=heterofl(study.task, RATES))).clients
    for rate, of_rate in clients[clients["steps"] > 0].groupby(
        clients["client"].map(lambda i: RATES[i])
    ):
        size = 4 * int(unit_mask(study.task, first_units(study.task, rate)).sum())
        assert (of_rate[["up_values", "down_values"]] == size).all(axis=None)
        assert (of_rate[["up_indices", "down_indices"]] == 0).all(axis=None)


# Distillation


@pytest.fixture(scope="module")
def mixed():
    """Two models among 12 clients, and a fifth of the examples, without labels, at the server."""
    digits = load("digits", 12, dirichlet(0.3))
    public, rest = np.arange(0, len(digits.y), 5), set(np.arange(len(digits.y)) % 5 > 0)
    assert rest == {True, False}
    data = replace(digits, parts=[part[part % 5 > 0] for part in digits.parts])
    return data, side_by_side(mlp(data, hidden=(32,)), mlp(data, hidden=(16, 16))), digits.x[public]


def test_a_student_comes_nearer_to_what_it_is_told(mixed):
    data, _, x = mixed
    task = mlp(data, hidden=(16,))
    target = task.forward(3 * initial(task, 1), x).softmax(-1)
    w = initial(task, 0)
    batches = torch.from_numpy(np.random.default_rng(0).integers(len(x), size=(300, 32)))

    def apart(row):
        predicted = task.forward(row, x).log_softmax(-1)
        return torch.nn.functional.kl_div(predicted, target, reduction="batchmean")

    assert apart(distill(task, w, x, target, batches, lr=1e-2)) < 0.2 * apart(w)
    assert torch.equal(
        distill(task, w, x, target, batches[:3], lr=1e-2),
        distill(task, w, x, target, batches[:3], lr=1e-2),
    )


def test_distilling_is_adam_with_a_rate_that_falls_as_a_cosine(mixed):
    data, _, x = mixed
    task, steps = mlp(data, hidden=(6,)), 4
    w, target = initial(task, 0), task.forward(3 * initial(task, 1), x).softmax(1)
    batches = torch.arange(4 * 16).reshape(4, 16)
    v, m, s = w.clone(), 0, 0
    for t, batch in enumerate(batches):
        v.requires_grad_()
        loss = (
            -(target[batch] * task.forward(v, x[batch]).log_softmax(1)).sum() / 16
        )  # KL up to a constant
        (g,) = torch.autograd.grad(loss, v)
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        rate = 0.01 * (1 + np.cos(np.pi * t / steps)) / 2
        v = v.detach() - rate * (m / (1 - 0.9 ** (t + 1))) / (
            (s / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
        )
    torch.testing.assert_close(
        distill(task, w, x, target, batches, lr=0.01), v, atol=1e-6, rtol=1e-4
    )


def test_teachers_say_the_mean_of_their_logits(mixed, monkeypatch):
    data, _, x = mixed
    task = mlp(data, hidden=(6,))
    method, seen = feddf(task, x, steps=3), {}
    monkeypatch.setattr(
        "fedlab.server.distillation.distill",
        lambda task, w, x, target, batches, lr: seen.update(w=w, p=target) or w,
    )
    w, n = initial(task, 0), torch.tensor([5.0, 2, 9])
    delta = torch.stack([initial(task, seed) for seed in (1, 2, 3)])
    updates = Updates(delta, n, torch.tensor([1.0, 1, 0]), n, n)
    mean_update = weighted_mean(*method.contributions(updates, who([0, 1, 2])))
    method.step(w, None, who([0, 1, 2]), updates, mean_update)
    torch.testing.assert_close(seen["w"], w + (5 * delta[0] + 2 * delta[1]) / 7)
    logits = (
        task.forward(w + delta[0], x) + task.forward(w + delta[1], x)
    ) / 2  # who did not train is no teacher
    torch.testing.assert_close(seen["p"], logits.softmax(1))


def test_words_are_taught_as_numbers(study):
    """Examples that are whole numbers stay so."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randint(9, (60, 5), generator=draw), torch.randint(2, (60,), generator=draw)
    parts = list(np.arange(60).reshape(6, 10))
    words = FederatedDataset(x, y, parts, (x[:20], y[:20]), classes=("a", "b"))
    task = classification(lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2)))
    result = run(replace(study, data=words, task=task, algorithm=feddf(task, x, steps=3), rounds=2))
    assert result.w[0].isfinite().all()


@pytest.mark.slow
def test_of_different_models_each_is_averaged_over_its_owners_and_learns_from_all(study, mixed):
    data, both, x = mixed
    owners = [i % 2 for i in range(12)]
    parts = {
        "data": data,
        "task": both,
        "local": Local(0.1, 8, epochs=3),
        "rounds": 6,
        "eval_every": 6,
    }
    base = replace(study, **parts)
    masks, judged = model_masks(both), {}
    for steps, lr in ((1, 1e-30), (100, 3e-3)):  # none to speak of, and some
        method = feddf(both, x, owners, steps=steps, lr=lr)
        result = run(replace(base, algorithm=method), seeds=3)
        judged[steps] = [
            np.mean([evaluate(both, w * mask, data)["accuracy"] for w in result.w])
            for mask in masks
        ]
        sizes = {i: 4 * int(masks[owners[i]].sum()) for i in range(12)}
        sent = result.clients[result.clients["steps"] > 0]
        assert (sent["up_values"] == sent["client"].map(sizes)).all()
    assert min(judged[100]) > max(judged[1]), "both models gain"


def test_before_distillation_the_models_do_not_touch(study, mixed):
    data, both, x = mixed
    first = [0] * 12
    base = replace(study, data=data, task=both, rounds=2, eval_every=2)
    masks = model_masks(both)
    method = feddf(both, x, first, steps=1, lr=1e-30)
    w0, _, w1 = (runs[0].w for runs in stream(replace(base, algorithm=method)))
    assert torch.equal(w0[masks[1] == 1], w1[masks[1] == 1]), "nobody has the second"
    assert not torch.equal(w0[masks[0] == 1], w1[masks[0] == 1])


def test_one_model_for_all_is_fedavg_and_distillation(study, mixed):
    data, _, x = mixed
    base = replace(study, data=data, task=mlp(data, hidden=(16,)))
    plain, taught = run(base), run(replace(base, algorithm=feddf(base.task, x, steps=1, lr=1e-30)))
    torch.testing.assert_close(taught.w[0], plain.w[0], atol=1e-6, rtol=0)
    assert (plain.clients["bytes_up"] == taught.clients["bytes_up"]).all()


# Refused

REFUSED = {
    "too few rates": (
        lambda s: run(replace(s, algorithm=heterofl(s.task, [0.5]))),
        r"must have 30 entries, one per client .it has 1",
    ),
    "a rate of nothing": (lambda s: heterofl(s.task, [0.0] * 30), r"rate=0.0 must be above 0"),
    "a client that can bear no width": (
        lambda s: fjord(s.task, [0.1] * 30),
        r"rates=.* must be at least 0.2, the smallest of the widths .one is 0.1",
    ),
    "another aggregate": (
        lambda s: replace(s, algorithm=heterofl(s.task, RATES), aggregate=mean),
        r"aggregate=mean must be weighted_mean .parts are weighed parameter by parameter",
    ),
    "a compressed download": (
        lambda s: replace(s, algorithm=federated_dropout(s.task, 0.5), download=quantize(8)),
        r"download=quantize must be identity.*Try download=identity\(\)",
    ),
    "no such model": (
        lambda s: feddf(s.task, s.data(0).x, [0, 1]),
        r"must be from 0 to 0, the models of the task side by side .one is 1",
    ),
    "a negative model": (
        lambda s: feddf(s.task, s.data(0).x, [0, -1]),
        r"must be from 0 to 0, the models of the task side by side .one is -1",
    ),
    "examples of NumPy": (
        lambda s: feddf(s.task, s.data(0).x.numpy()),
        r"x must be a tensor .* and is ndarray of 1437",
    ),
    "no examples": (
        lambda s: feddf(s.task, s.data(0).x[:0]),
        r"x must be a tensor .* of one or more examples, and is Tensor of 0",
    ),
    "one rate for all": (lambda s: heterofl(s.task, 0.5), r"rates=0.5 must be a list of shares"),
    "no width": (
        lambda s: fjord(s.task, RATES, widths=[]),
        r"widths=\[\] must be a list of shares",
    ),
    "a rate above 1": (
        lambda s: fjord(s.task, [1.5] * 30),
        r"rate=1.5 must be above 0 and at most 1",
    ),
    "whose model is whose": (
        lambda s: feddf(side_by_side(s.task, s.task), s.data(0).x),
        r"models=None must name the model of each client .the task has 2 side by side",
    ),
    "no rate": (lambda s: feddf(s.task, s.data(0).x, lr=0), r"lr=0 must be above 0"),
    "no steps": (
        lambda s: feddf(s.task, s.data(0).x, steps=0),
        r"steps=0 must be a whole number of at least 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(study, name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        make(study)

"""Pruning: the smallest weights go and never return, and only the rest is sent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab.core import Cohort, Message, identity, params
from fedlab.data import iid, load
from fedlab.engine import initial, run, stream
from fedlab.models import cnn, hidden_units, mlp, shrink
from fedlab.server import fedadam, fedavg, fedavgm, heterofl, mimelite, scaffold, uniform
from fedlab.upload import (
    accumulate,
    chain,
    cubic,
    error_feedback,
    fetchsgd,
    lazy,
    lottery_ticket,
    magnitude,
    magnitude_per_layer,
    momentum,
    one_shot,
    power_sgd,
    pruned,
    qsgd,
    quantize,
    rate_within,
    top_k,
    top_k_within,
    unit_magnitude,
    wire,
)
from fedlab.upload.chains import within_mask


@pytest.fixture
def served(study):
    """Return a study of 20 clients, none of them empty, of which 5 take part."""
    data = load("digits", 20, iid())
    return replace(study, data=data, task=mlp(data, hidden=(32, 16)), rounds=12, eval_every=12)


def layers(task, row):
    return [p for p in params.views(row, task.shapes).values() if p.dim() > 1]


# Which


def test_the_smallest_weights_of_all_layers_go_and_biases_stay(served):
    task = served.task
    w = initial(task, 0)
    mask = magnitude(task, w, 0.9)
    weights, remaining = (
        torch.cat([p.flatten() for p in layers(task, row)]) for row in (w.abs(), mask)
    )
    assert remaining.sum() == round(0.1 * len(remaining))
    assert weights[remaining == 1].min() >= weights[remaining == 0].max()
    biases = [p for p in params.views(mask, task.shapes).values() if p.dim() == 1]
    assert all(bias.all() for bias in biases)
    shares = [p.mean().item() for p in layers(task, mask)]
    assert max(shares) > 3 * min(shares), "some layers have larger weights"


def test_the_smallest_of_each_layer_go(served):
    w = initial(served.task, 0)
    for p, remaining in zip(
        layers(served.task, w),
        layers(served.task, magnitude_per_layer(served.task, w, 0.75)),
        strict=True,
    ):
        assert remaining.sum() == round(0.25 * remaining.numel())
        assert p.abs()[remaining == 1].min() >= p.abs()[remaining == 0].max()


@pytest.mark.parametrize("model", [lambda data: mlp(data, hidden=(32, 16)), cnn])
def test_whole_units_go_and_the_model_is_truly_smaller(served, model):
    task = model(served.data)
    w = initial(task, 0) + 0.01
    mask = unit_magnitude(task, w, 0.75)
    small, row = shrink(task, w * mask)
    assert hidden_units(small) == tuple(units // 4 for units in hidden_units(task))
    assert len(row) == mask.sum() == sum(shape.numel() for shape in small.shapes.values())
    x = served.data.test[0][:20]
    torch.testing.assert_close(
        small.forward(row, x), task.forward(w * mask, x), atol=1e-5, rtol=1e-5
    )
    first = layers(task, w)[0].abs().flatten(1).sum(1)
    alive = layers(task, mask)[0].flatten(1).any(1)
    assert first[alive].min() >= first[~alive].max()


# When


def test_the_cubic_schedule_by_hand():
    s = cubic(0.8, start=10, end=30, every=5)
    assert [s(1), s(10), s(14)] == [0, 0, 0]
    assert s(15) == s(19) == pytest.approx(0.8 * (1 - 0.75**3))
    assert s(20) == pytest.approx(0.8 * (1 - 0.5**3))
    assert s(30) == s(1000) == 0.8
    assert cubic(0.9, start=1, end=2)(2) == 0.9
    assert cubic(0.5, start=1, end=10, every=4)(10) == 0.5, "the end is reached, whatever the steps"


def test_at_once():
    s = one_shot(0.8, round=4)
    assert [s(3), s(4), s(9)] == [0, 0.8, 0.8]


@pytest.mark.slow
@pytest.mark.parametrize("choose", [magnitude, magnitude_per_layer, unit_magnitude])
@pytest.mark.parametrize(
    "method", [fedavg(), fedadam(), scaffold()], ids=["fedavg", "fedadam", "scaffold"]
)
def test_what_went_does_not_come_back(served, method, choose):
    schedule = cubic(0.9, start=2, end=8, every=2)
    zeros = torch.zeros_like(initial(served.task, 0), dtype=torch.bool)
    for (result,) in stream(
        replace(served, algorithm=pruned(method, served.task, schedule, choose))
    ):
        gone = result.state[0] == 0
        assert (gone | ~zeros).all(), "a mask only loses"
        assert (result.w[gone] == 0).all()
        zeros = gone
    share = 1 - torch.cat([p.flatten() for p in layers(served.task, result.state[0])]).mean()
    assert share == pytest.approx(0.9, abs=1e-3) if choose is not unit_magnitude else share > 0.9
    assert (result.w[~zeros] != 0).float().mean() > 0.95


def test_nothing_pruned_is_the_algorithm_itself(served):
    plain, never = (
        run(served),
        run(replace(served, algorithm=pruned(fedavg(), served.task, one_shot(0.5, round=99)))),
    )
    assert torch.equal(plain.w[0], never.w[0])
    assert plain.clients.equals(never.clients)


@pytest.mark.parametrize("rewind", [0, 2])
def test_a_lottery_ticket_goes_back_to_where_it_was(served, rewind):
    method = lottery_ticket(fedadam(), served.task, share=0.5, every=4, times=2, rewind=rewind)
    rows = [runs[0].w for runs in stream(replace(served, algorithm=method))]
    plain = [runs[0].w for runs in stream(replace(served, algorithm=fedadam()))]
    assert all(torch.equal(a, b) for a, b in zip(rows[:4], plain[:4], strict=True))
    for done, left in {4: 0.5, 8: 0.25}.items():
        nonzero = rows[done] != 0
        assert torch.equal(rows[done][nonzero], plain[rewind][nonzero])
        weights = torch.cat([p.flatten() for p in layers(served.task, nonzero.float())])
        assert weights.mean() == pytest.approx(left, abs=2e-3)
    assert (rows[12] != rows[8]).any()
    expected = magnitude_per_layer(served.task, plain[4], 0.5)
    assert torch.equal(rows[4], plain[rewind] * expected), (
        "the largest after training, at their old values"
    )


def test_as_many_stay_as_were_asked_for_where_a_server_moves_what_is_gone(served):
    """Earlier momentum moves pruned weights, too; they return to 0 before the comparison."""
    method = pruned(fedavgm(0.9, server_lr=3.0), served.task, cubic(0.9, start=4, end=8))
    for (result,) in stream(replace(served, algorithm=method)):
        weights = torch.cat([p.flatten() for p in layers(served.task, result.state[0])])
        assert weights.sum() == round((1 - result.state[1].item()) * len(weights))


def test_a_ticket_starts_with_a_new_optimiser(served):
    method = lottery_ticket(fedadam(), served.task, every=4, times=1)
    after = {
        result.rounds[-1]["round"]: result.state[3]
        for (result,) in stream(replace(served, algorithm=method, rounds=5))
    }
    assert not after[4][0].any()
    assert after[3][0].any()
    assert after[5][0].any()


def test_a_pruned_model_trains_as_the_smaller_one(served):
    """A round of a masked row is, in double precision, a round of a row that is truly shorter."""
    data = served.data.double()
    task = mlp(data, hidden=(32, 16))
    study = replace(
        served,
        data=data,
        task=task,
        rounds=3,
        algorithm=pruned(fedavg(), task, one_shot(0.5, round=2), unit_magnitude),
    )
    runs = [(runs[0].w, runs[0].state[0]) for runs in stream(study)]
    small, row = shrink(task, runs[2][0])
    assert len(row) < 0.5 * len(runs[2][0])
    model = replace(small, model=lambda: small.module(row))
    after = run(replace(study, task=model, algorithm=fedavg(), rounds=3, sample=shifted(2)))
    nonzero = runs[2][1] > 0
    torch.testing.assert_close(after.w[0], runs[3][0][nonzero], atol=1e-10, rtol=0)


def shifted(rounds):
    """Return a sampler of no client for some rounds, and then of clients as usual."""

    def sample(sizes, t, draw):
        return uniform(5)(sizes, t, draw) if t > rounds else np.empty(0, dtype=int)

    return sample


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(served, tmp_path):
    for method in (
        pruned(scaffold(), served.task, cubic(0.9, start=1, end=9)),
        lottery_ticket(fedadam(), served.task, every=3, times=3),
    ):
        study, folder = (
            replace(served, algorithm=method),
            tmp_path / str(method.vectors_up + method.vectors_down),
        )
        whole = run(study)
        steps = stream(study, checkpoint=folder)
        for _ in range(6):
            next(steps)
        steps.close()
        again = run(study, checkpoint=folder)
        assert torch.equal(whole.w[0], again.w[0])
        assert whole.clients.equals(again.clients)
        assert whole.rounds["train_loss"].equals(again.rounds["train_loss"])


# Bytes


def really(transform, lengths):
    """Return the transform with messages packed to bytes, whose lengths are noted, and read."""

    def apply(message, state, cohort):
        message, state = transform.apply(message, state, cohort)
        message = within_mask(message)
        lengths.extend(len(wire.pack(message, i)) for i in range(len(cohort.ids)))
        return Message(wire.round_trip(message), message.shapes), state

    return transform._replace(apply=apply)


@pytest.mark.slow
@pytest.mark.parametrize(
    "upload", [identity(), error_feedback(chain(top_k(0.3), qsgd(6))), power_sgd(1)]
)
@pytest.mark.parametrize("parts", ["everyone's", "each one's"])
def test_a_run_over_real_bytes_is_the_same_to_the_bit_and_the_byte(served, upload, parts):
    task, lengths = served.task, []
    each = heterofl(task, [(1.0, 0.5, 0.2)[i % 3] for i in range(20)])
    method = each if parts == "each one's" else pruned(fedavg(), task, cubic(0.9, start=1, end=5))
    study = replace(served, algorithm=method, upload=upload)
    plain, packed = run(study), run(replace(study, upload=really(upload, lengths)))
    assert torch.equal(plain.w[0], packed.w[0])
    assert sorted(lengths) == sorted(plain.clients["bytes_up"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "few bits", "fed back", "low rank, whole rows"])
def test_only_what_is_left_travels(served, name):
    upload = {
        "whole": served.upload,
        "few bits": chain(top_k(0.5), qsgd(4)),
        "fed back": chain(momentum(), error_feedback(quantize(8))),
        "low rank, whole rows": error_feedback(power_sgd(2)),
    }[name]
    study = replace(
        served, upload=upload, algorithm=pruned(fedavg(), served.task, one_shot(0.9, round=1))
    )
    dense, sparse = run(replace(study, algorithm=fedavg())).clients, run(study).clients
    assert (
        sparse[sparse["round"] == 1]["bytes_up"] == dense[dense["round"] == 1]["bytes_up"]
    ).all()
    later = sparse["round"] > 1
    if name == "low rank, whole rows":
        assert (sparse["bytes_up"] == dense["bytes_up"]).all()
    else:
        assert (sparse[later]["bytes_up"] < 0.25 * dense["bytes_up"].max()).all()
        assert (sparse[later]["up_indices"] == 0).all() or name == "few bits"
    assert (sparse[later]["bytes_down"] < 0.25 * dense["bytes_down"].max()).all()


def test_places_travel_once_to_each_client_and_again_when_they_change(served):
    method = pruned(fedavg(), served.task, lambda t: 0.5 * (t >= 1) + 0.4 * (t >= 6))
    clients = run(replace(served, algorithm=method)).clients
    informed = set()
    for t, messages in clients.groupby("round"):
        if t in (2, 7):
            informed = set()
        for i, places in zip(messages["client"], messages["down_indices"], strict=True):
            assert (places > 0) == (t > 1 and i not in informed)
        informed |= set(messages["client"]) if t > 1 else set()
    *_, (result,) = stream(replace(served, algorithm=method))
    assert (
        clients[clients["round"] == 12]["down_values"] == 4 * result.state[0].sum().item()
    ).all()


@pytest.mark.slow
@pytest.mark.parametrize("upload", [identity(), top_k(0.1)])
def test_of_mimelite_the_gradient_is_masked_too(served, upload):
    plain, both = (
        run(
            replace(
                served, upload=upload, algorithm=pruned(method, served.task, one_shot(0.9, round=1))
            )
        ).clients
        for method in (fedavg(), mimelite())
    )
    later = plain["round"] > 1
    beside = both[later]["up_values"] - plain[later]["up_values"]
    assert (beside == plain[later]["down_values"].to_numpy()).all()


@pytest.mark.parametrize(
    "upload",
    [momentum(), accumulate(1), lazy(threshold=0.0)],
    ids=["momentum", "accumulate", "lazy"],
)
def test_rows_that_are_remembered_whole_travel_within_the_mask(served, upload):
    method = pruned(fedavg(), served.task, one_shot(0.9, round=1))
    clients = run(replace(served, upload=upload, algorithm=method)).clients
    later = clients[clients["round"] > 1]
    assert (later["up_values"] == later["down_values"]).all()
    assert (later["up_indices"] == 0).all()


def test_of_scaffold_both_rows_are_masked(served):
    clients = run(
        replace(served, algorithm=pruned(scaffold(), served.task, one_shot(0.9, round=1)))
    ).clients
    later = clients[clients["round"] > 1]
    assert (later["down_values"] == 2 * later["up_values"]).all()


def test_error_feedback_keeps_what_a_mask_does_not_let_through():
    x, mask = torch.tensor([[4.0, -3, 2, 1]]), torch.tensor([[1.0, 0, 0, 1]])
    shapes, who = {"x": torch.Size((4,))}, Cohort(np.array([2]), 1, 0, 5)
    feedback = error_feedback(top_k(0.5))
    state = feedback.init(x[0], shapes, 5)
    state[0][np.array([2])] = torch.tensor([[0.0, 7, 0, 0]])
    message, (residual, _) = feedback.apply(Message(x * mask, shapes, mask=mask), state, who)
    assert message.delta.tolist() == [[4, 0, 0, 0]]
    assert residual[np.array([2])].tolist() == [[0, 7, 0, 1]]


@pytest.mark.parametrize("make", [momentum, lambda: accumulate(1)], ids=["momentum", "accumulate"])
def test_what_is_remembered_outside_the_mask_is_not_sent(make):
    x, shapes, who = torch.ones(1, 4), {"x": torch.Size((4,))}, Cohort(np.array([2]), 1, 0, 5)
    mask, transform = torch.tensor([[1.0, 0, 0, 1]]), make()
    state = transform.init(x[0], shapes, 5)
    _, state = transform.apply(Message(x, shapes), state, who)
    if transform.apply.__qualname__.startswith("accumulate"):
        state[0][np.array([2])] = x  # as after a round that was not sent
    message, _ = transform.apply(Message(x * mask, shapes, mask=mask), state, who)
    assert (message.delta[0, 1:3] == 0).all()
    assert (message.delta[0, [0, 3]] != 0).all()


def test_what_an_upload_adds_outside_the_mask_is_not_remembered(served):
    shapes, who = served.task.shapes, Cohort(np.array([2]), 1, 0, 5)
    w = initial(served.task, 0)
    mask = magnitude(served.task, w, 0.9)[None]
    feedback = error_feedback(power_sgd(1))  # products of two vectors, which are 0 nowhere
    message, (residual, _) = feedback.apply(
        Message(w * mask, shapes, mask=mask), feedback.init(w, shapes, 5), who
    )
    assert (message.delta * (1 - mask) != 0).any()
    assert (residual[np.array([2])] * (1 - mask) == 0).all()
    assert (residual[np.array([2])] != 0).any()


# Refused

REFUSED = {
    "everything": (
        lambda task: one_shot(1.0, round=3),
        r"sparsity=1.0 must be above 0 and below 1",
    ),
    "no round": (
        lambda task: one_shot(0.5, round=0),
        r"round=0 must be a whole number of at least 1",
    ),
    "an end before its start": (
        lambda task: cubic(0.5, start=5, end=5),
        r"end=5 must be a whole number of at least 6",
    ),
    "sketches": (
        lambda task: pruned(fetchsgd(10, columns=50), task, one_shot(0.5, round=1)),
        r"pruned must have an algorithm of rows \(.* takes sketches of 5 x 50\)",
    ),
    "back too late": (
        lambda task: lottery_ticket(fedavg(), task, every=3, rewind=3),
        r"rewind=3 must be below every=3",
    ),
    "pruned twice": (
        lambda task: pruned(
            pruned(fedavg(), task, one_shot(0.5, round=1)), task, one_shot(0.6, round=2)
        ),
        r"pruned must have an algorithm without masks",
    ),
    "of sub-models": (
        lambda task: lottery_ticket(heterofl(task, [1.0]), task),
        r"lottery_ticket must have an algorithm without masks",
    ),
    "an algorithm that was not called": (
        lambda task: pruned(fedavg, task, one_shot(0.5, round=1)),
        r"pruned\(fedavg\) must have the result of a call",
    ),
    "no schedule": (
        lambda task: pruned(fedavg(), task, 0.5),
        r"schedule=0.5 must be the result of a call. Try cubic",
    ),
    "a schedule that was not called": (
        lambda task: pruned(fedavg(), task, cubic),
        r"schedule=cubic must be the result of a call",
    ),
    "more than everything": (
        lambda task: magnitude(task, initial(task, 0), 1.5),
        r"sparsity=1.5 must be at least 0 and below 1",
    ),
    "less than nothing": (
        lambda task: magnitude_per_layer(task, initial(task, 0), -0.5),
        r"sparsity=-0.5 must be at least 0",
    ),
    "a share of all": (
        lambda task: lottery_ticket(fedavg(), task, share=1.0),
        r"share=1.0 must be above 0 and below 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(served, name):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        make(served.task)


def test_a_pruned_model_goes_down_as_what_is_left(served):
    refusal = r"download=quantize must be identity\(\) .*Try download=identity\(\)"
    with pytest.raises(ValueError, match=refusal):
        replace(
            served,
            algorithm=pruned(fedavg(), served.task, one_shot(0.5, round=1)),
            download=quantize(8),
        )


def test_a_model_of_other_tensors_is_refused_before_training(served):
    second_task = mlp(served.data, hidden=(8,))
    for method in (
        pruned(fedavg(), second_task, one_shot(0.5, round=1)),
        lottery_ticket(fedavg(), second_task),
        heterofl(second_task, [1.0] * 20),
    ):
        with pytest.raises(
            ValueError,
            match=r"for a model of 610 parameters, and the experiment's has 2,778.* Try to",
        ):
            replace(served, algorithm=method)


def test_a_rate_for_an_algorithm_with_masks_is_not_promised(served):
    method = heterofl(served.task, [0.5] * 20)
    with pytest.raises(
        ValueError,
        match=r"algorithm must send whole updates .rate_within .* Try Experiment.budget=",
    ):
        rate_within("1 MB per client", replace(served, algorithm=method), top_k)


def test_a_budget_is_spent_evenly_by_parts_of_several_sizes(served):
    method = heterofl(served.task, [(1.0, 0.5, 0.25)[i % 3] for i in range(20)])
    study = replace(
        served,
        algorithm=method,
        upload=top_k_within("40 kB up per client", rounds=40),
        rounds=40,
        eval_every=40,
    )
    sent = run(study).rounds.set_index("round")["bytes_up"]
    early = sent[1:20].sum() / sent.sum()
    assert 0.4 < early < 0.6

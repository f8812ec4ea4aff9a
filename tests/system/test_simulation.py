"""Training by the clock is the real one, on the model that each client has fetched."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.client import assign, batched, plan, sequential, zeroth_order
from fedlab.client.sequential import loss_and_gradient
from fedlab.core import Cohort, Local, Updates
from fedlab.data import dirichlet, load
from fedlab.engine import Diverged, initial, run, storage
from fedlab.engine.run import Interrupted
from fedlab.models import mlp, random_subspace
from fedlab.server import (
    fedadam,
    fedavg,
    fedexp,
    fednova,
    fedprox,
    heterofl,
    mean,
    poisson,
    qfedavg,
    scaffold,
    uniform,
)
from fedlab.system import (
    draw_fleet,
    fedbuff,
    oort,
    simulate,
    stream_simulation,
    synchronous,
    training_flops,
    training_work,
)
from fedlab.system.policies import constant, fedasync, hinge, polynomial, tiered
from fedlab.system.selection import power_of_choice, tiers_of
from fedlab.system.trace import Trace
from fedlab.upload import chain, error_feedback, qsgd, quantize, top_k

N = 30
OVER = (
    "over_selection=-1 must be at least 0 (the share of clients asked in addition). "
    "Try 0.3, as the paper"
)
NO_DEADLINE = "deadline=0 must be a number of seconds above 0. Try 600, or leave it out for none"
FLEET = draw_fleet(N, seed=0).slower(1000)
AT_ONCE = FLEET._replace(
    **{name: np.full(N, np.inf) for name in ("flops", "up", "down")},
    **{name: np.zeros(N) for name in ("latency", "jitter")},
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [fedavg(), fedadam(), fedprox(0.1), scaffold(), fednova(), qfedavg()],
    ids=["FedAvg", "FedAdam", "FedProx", "SCAFFOLD", "FedNova", "q-FedAvg"],
)
@pytest.mark.parametrize(
    ("fleet", "policy"),
    [(AT_ONCE, synchronous(5)), (AT_ONCE, fedbuff(5, 5)), (FLEET, synchronous(5))],
    ids=["rounds without delay", "FedBuff without delay", "rounds by the clock"],
)
def test_rounds_and_a_buffer_of_a_cohort_without_delay_are_those_of_run(
    study, algorithm, fleet, policy
):
    varied = replace(study, algorithm=algorithm)
    want, got = run(varied, seeds=2), simulate(varied, fleet, policy, seeds=2)
    for row, expected in zip(got.w, want.w, strict=True):
        assert torch.allclose(row, expected, atol=1e-6)
    assert got.rounds["accuracy"].tolist() == want.rounds["accuracy"].tolist()


def test_uploads_are_those_of_rounds_and_their_bytes_are_real(study):
    compressed = replace(study, upload=error_feedback(chain(top_k(0.05), qsgd(5))))
    want, got = run(compressed), simulate(compressed, FLEET, synchronous(5))
    assert torch.allclose(got.w[0], want.w[0], atol=1e-6)
    assert got.rounds["bytes_up"].tolist() == want.rounds["bytes_up"].tolist()
    assert got.clients["bytes_up"].sum() == want.clients["bytes_up"].sum()


def replayed(study, clients, step):
    """Return the server's models by ``step``, trained one by one on the models of the clients."""
    data, local = study.data(0), study.local
    models = [initial(study.task, 0, data.x)]
    for _, used in clients[clients["outcome"] == "used"].groupby("round"):
        rows = []
        for client, version in zip(used["client"], used["version"], strict=True):
            parts = [data.parts[client]]
            batches = plan(parts, 0, version + 1, local, len(data.y))
            work = assign(models[version], parts, [local], batches)
            rows.append(
                (sequential(study.task, data.x, data.y, work).delta[0], len(parts[0]), version)
            )
        models.append(step(models, rows))
    return models


@pytest.mark.slow
def test_an_update_is_computed_on_the_model_that_the_client_had(study):
    longer = replace(study, rounds=25)
    got = simulate(longer, FLEET, fedasync(6, 0.5, staleness=polynomial(1.0)))

    def step(models, rows):
        (delta, n, version), version_now = rows[0], len(models) - 1
        if not n:  # clients without examples get weight 0
            return models[-1]
        a = 0.5 / (1 + version_now - version)
        return (1 - a) * models[-1] + a * (models[version] + delta)

    assert got.clients["version"].sub(got.clients["round"] - 1).min() < -2, "no update was stale"
    assert torch.allclose(got.w[0], replayed(longer, got.clients, step)[-1], atol=1e-5)


def test_a_buffer_counts_stale_updates_less(study):
    buffered = replace(study, rounds=8, aggregate=mean)
    got = simulate(buffered, FLEET, fedbuff(8, 3))

    def step(models, rows):
        version_now = len(models) - 1
        held = [(delta / (1 + version_now - version) ** 0.5, n) for delta, n, version in rows]
        return models[-1] + sum(delta for delta, _ in held) / max(sum(n > 0 for _, n in held), 1)

    assert torch.allclose(got.w[0], replayed(buffered, got.clients, step)[-1], atol=1e-5)


@pytest.mark.parametrize(
    "policy", [fedbuff(6, 3), fedbuff(4, 1), synchronous(5)], ids=["6, 3", "4, 1", "rounds"]
)
def test_a_control_variate_of_scaffold_is_the_mean_gradient_that_the_client_saw(study, policy):
    """The server's c may have moved while the client was out."""
    with_scaffold, seen = replace(study, algorithm=scaffold(), rounds=8), {}
    *_, (run,) = stream_simulation(with_scaffold, FLEET, policy, partial(noting, seen))
    c, c_i = run.state
    flights = pd.DataFrame(
        {name: np.concatenate([each[name] for each in run.clients]) for name in run.clients[0]}
    )
    last = (
        flights[(flights["outcome"] == "used") & (flights["steps"] > 0)]
        .groupby("client")["version"]
        .last()
    )
    assert len(last) > 2
    for client, version in last.items():
        want = seen[client, version + 1]
        assert (c_i[np.array([client])][0] - want).norm() < 1e-6 * want.norm().clamp(min=1)
    assert torch.allclose(c, c_i[np.arange(N)].mean(0), atol=1e-6)


def noting(seen, task, x, y, work):
    """Train with the readable engine, and note the mean of each client's gradients."""
    rows = []
    for k, (client, t) in enumerate(
        (client, cohort.round) for cohort in work.cohorts for client in cohort.ids
    ):
        gradients = []

        def gradient(*args, gradients=gradients):
            loss, g = loss_and_gradient(*args)
            gradients.append(g)
            return loss, g

        each = {
            "origin": work.origin[k : k + 1],
            "batches": work.batches[k : k + 1],
            "h": work.h[k : k + 1],
        }
        names = ("num_examples", "lr", "mu", "momentum", "weight_decay")
        each |= {name: getattr(work, name)[k : k + 1] for name in names}
        rows.append(sequential(task, x, y, work._replace(**each), gradient=gradient))
        if gradients:
            seen[int(client), t] = torch.stack(gradients).mean(0)
    return Updates(
        *(None if column[0] is None else torch.cat(column) for column in zip(*rows, strict=True))
    )


def test_tiers_are_averaged_with_the_slow_ones_weighing_more(study):
    short = replace(study, rounds=9)
    fleet = AT_ONCE._replace(flops=FLEET.flops, latency=np.full(N, 0.02))
    data, times, models_of_tiers = short.data(0), np.zeros(3), {}
    got = simulate(short, fleet, tiered(3, 4))
    clients, tier = got.clients, tiers_of(fleet.computing(np.arange(N), data.sizes), 3)
    models = [initial(short.task, 0, data.x)]
    for _, used in clients[clients["outcome"] == "used"].groupby("round"):
        (m,), (version,) = set(tier[used["client"]]), set(used["version"])
        parts = [data.parts[i] for i in sorted(used["client"])]
        batches = plan(parts, 0, version + 1, short.local, len(data.y))
        updates = sequential(
            short.task,
            data.x,
            data.y,
            assign(models[version], parts, [short.local] * len(parts), batches),
        )
        n = updates.num_examples
        times[m] += 1
        models_of_tiers[m] = models[version] + (n / n.sum().clamp(min=1)) @ updates.delta
        share = (times[::-1] + 1) / (times + 1).sum()
        models.append(sum(float(share[k]) * models_of_tiers.get(k, models[-1]) for k in range(3)))
    assert times.min() > 0
    assert times.max() > times.min()
    assert torch.allclose(got.w[0], models[-1], atol=1e-5)


@pytest.mark.slow
def test_seeds_and_policies_in_lockstep_are_as_each_alone(study):
    policies = {"rounds": synchronous(5, over_selection=0.4), "FedBuff": fedbuff(8, 4)}
    fleet = FLEET._replace(dropout=np.full(N, 0.2))
    both = simulate(study, fleet, policies, seeds=2)
    for j, (name, policy) in enumerate(policies.items()):
        alone = simulate(study, fleet, policy, seeds=[1])
        assert torch.allclose(alone.w[0], both.w[2 * j + 1], atol=1e-6)
        of_seed = both.clients[(both.clients["policy"] == name) & (both.clients["seed"] == 1)].drop(
            columns="policy"
        )
        pd.testing.assert_frame_equal(
            of_seed.reset_index(drop=True), alone.clients, rtol=1e-4, atol=1e-4
        )


def interrupted_at(call):
    """Return an engine that is stopped at this call, and counts its calls."""
    calls = []

    def backend(*args):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return batched(*args)

    return backend, calls


@pytest.mark.slow
@pytest.mark.parametrize(
    "policies",
    [
        {
            "rounds": synchronous(4, over_selection=0.5),
            "partial": synchronous(5, deadline=150, partial=True, select=oort()),
        },
        {"FedBuff": fedbuff(8, 3), "FedAsync": fedasync(6, 0.5, staleness=hinge())},
        {"FedAT": tiered(3, 3)},
    ],
    ids=lambda policies: " and ".join(policies),
)
def test_stopped_it_goes_on_to_the_same_numbers(study, tmp_path, monkeypatch, policies):
    monkeypatch.setattr(storage.checkpoint, "SAVE_INTERVAL", 0)
    monkeypatch.setattr(storage.checkpoint, "SAVE_TIME_SHARE", 1e9)
    fleet = FLEET._replace(
        dropout=np.full(N, 0.2), jitter=np.full(N, 1.0), online_for=np.full(N, 80000.0)
    )
    method = fedavg() if "FedAT" in policies else scaffold()
    varied = replace(study, algorithm=method, upload=error_feedback(top_k(0.1)), rounds=9)
    whole = simulate(varied, fleet, policies, seeds=2)
    for call in (1, 3, 4):
        backend, _ = interrupted_at(call)
        with pytest.raises(
            Interrupted,
            match=r"^stopped after step \d; the same call continues from about there, and ",
        ):
            simulate(varied, fleet, policies, backend, seeds=2, checkpoint=tmp_path)
    backend, calls = interrupted_at(0)
    for trained in (True, False):  # then it is only loaded
        got = simulate(varied, fleet, policies, backend, seeds=2, checkpoint=tmp_path)
        assert bool(calls) == trained
        calls.clear()
        assert all(torch.equal(a, b) for a, b in zip(got.w, whole.w, strict=True))
        pd.testing.assert_frame_equal(got.rounds, whole.rounds, check_exact=True)
        pd.testing.assert_frame_equal(got.clients, whole.clients, check_exact=True)


def test_a_checkpoint_of_another_fleet_or_policy_is_refused(study, tmp_path):
    short = replace(study, rounds=2)
    simulate(short, FLEET, fedbuff(5, 2), checkpoint=tmp_path)
    for fleet, policy, hours, message in (
        (FLEET.slower(2), fedbuff(5, 2), math.inf, "fleet.flops.checksum is "),
        (FLEET, fedbuff(5, 3), math.inf, "policy.buffer is 2 there and 3 here"),
        (FLEET, fedbuff(5, 2), 1.0, 'hours is "inf" there and 1.0 here'),
    ):
        with pytest.raises(
            ValueError, match=rf"belongs to another experiment: {re.escape(message)}"
        ):
            simulate(short, fleet, policy, hours=hours, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"belongs to another experiment: steps is 2 there and 3 here"
    ):
        simulate(replace(short, rounds=3), FLEET, fedbuff(5, 2), checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"belongs to another experiment: fleet is .* there and missing here"
    ):
        run(short, checkpoint=tmp_path)


@pytest.mark.slow
def test_tables_and_summaries_agree(study):
    fleet = FLEET._replace(dropout=np.full(N, 0.3))
    for policy in (synchronous(6, over_selection=0.5), fedbuff(10, 4), tiered(3, 3)):
        got = simulate(study, fleet, policy)
        for name in ("bytes_up", "bytes_down", "joules", "examples", "steps"):
            assert got.rounds[name].sum() == pytest.approx(got.clients[name].sum(), rel=1e-12)
        for outcome in ("used", "late", "lost"):
            assert got.rounds[outcome].sum() == (got.clients["outcome"] == outcome).sum()
        lost = got.clients[got.clients["outcome"] == "lost"]
        assert len(lost)
        assert (lost[["examples", "bytes_up"]] == 0).all(axis=None)


def test_who_is_lost_leaves_no_trace_in_the_memory_of_its_upload(study):
    """Error feedback keeps the error of updates that were sent, not of clients that dropped out."""
    fleet = FLEET._replace(dropout=np.full(N, 0.5))
    compressed = replace(study, upload=error_feedback(top_k(0.02)), rounds=4)
    *_, (running,) = stream_simulation(compressed, fleet, synchronous(6))
    table = running.traffic.upload_state[0]
    sent = {
        client for each in running.clients for client in each["client"][each["outcome"] == "used"]
    }
    held = set(np.flatnonzero(np.asarray(table.contents[0]) >= 0).tolist())
    assert held == {client for client in sent if len(running.data.parts[client])}


def test_who_is_lost_while_it_fetches_has_nothing_of_the_model(study):
    """A client that missed rounds fetches the differences, if it has the model before them."""
    fleet = AT_ONCE._replace(dropout=np.full(N, 0.3), down=np.full(N, 1000.0))
    got = simulate(replace(study, download=quantize(4), rounds=12), fleet, synchronous(10)).clients
    whole, lacking, shorter = got["bytes_down"].max(), set(range(N)), 0
    for flight in got.sort_values("began", kind="stable").itertuples():
        planned = flight.bytes_down if flight.outcome == "used" else whole
        if flight.client in lacking:
            assert planned == whole
        shorter += planned < whole
        lacking -= {flight.client}
        if flight.outcome == "lost" and not flight.computing:
            lacking |= {flight.client}
    assert shorter > 10


def test_who_comes_too_late_leaves_no_trace_there_either(study):
    compressed = replace(study, upload=error_feedback(top_k(0.02)), rounds=5)
    *_, (running,) = stream_simulation(compressed, FLEET, synchronous(4, over_selection=1.0))
    flights = pd.DataFrame(
        {
            name: np.concatenate([each[name] for each in running.clients])
            for name in running.clients[0]
        }
    )
    trained = flights[flights["steps"] > 0]
    used = set(trained.loc[trained["outcome"] == "used", "client"])
    in_vain = (
        set(trained["client"]) - used - set(trained.loc[trained["outcome"] == "flying", "client"])
    )
    assert in_vain
    memory = running.traffic.upload_state[0]
    assert not memory[np.array(sorted(in_vain))].any()
    assert memory[np.array(sorted(used))].any(1).all()


def test_a_trace_by_the_clock(study):
    """Each is online for four windows of 15 s; no update is used after the client's window."""
    begins = 20.0 * np.arange(N)[:, None] + 1000.0 * np.arange(4)
    fleet = FLEET.with_trace(Trace(begins, begins + 15))
    compressed = replace(study, upload=error_feedback(top_k(0.1)), rounds=6)
    got = simulate(compressed, fleet, fedbuff(4, 2))
    assert set(got.clients["reason"]) >= {"", "window"}
    for flight in got.clients.itertuples():
        client = np.array([flight.client])
        assert fleet.is_online(client, flight.began)[0]
        assert flight.ended <= fleet.offline_at(client, flight.began)[0] + 1e-9
        assert (flight.reason != "") == (flight.outcome == "lost")
    assert torch.equal(got.w[0], simulate(compressed, fleet, fedbuff(4, 2)).w[0])


def test_no_step_before_the_deadline_is_the_reason_of_a_loss(study):
    fleet = AT_ONCE._replace(flops=np.where(np.arange(N) % 2, 1e6, 1e3))
    got = simulate(
        replace(study, rounds=2), fleet, synchronous(N, deadline=2, partial=True)
    ).clients
    assert set(got.loc[got["outcome"] == "lost", "reason"]) == {"no step"}


def test_fedexp_takes_no_longer_step_because_updates_are_stale(study):
    """A step grows with the disagreement of clients; if they agree, it is FedAvg's step."""
    data = study.data(0)
    alike = replace(data, parts=[np.arange(40)] + [np.arange(40) + 40 * i for i in range(1, N)])
    x, y = data.x.clone(), data.y.clone()
    for part in alike.parts:
        x[part], y[part] = data.x[:40], data.y[:40]
    shifted = replace(
        study, data=replace(alike, x=x, y=y), local=Local(0.1, None, steps=1), rounds=6
    )
    got, want = (
        simulate(replace(shifted, algorithm=method), FLEET, fedbuff(6, 2))
        for method in (fedexp(), fedavg())
    )
    assert got.rounds["staleness"].max() > 1
    assert torch.allclose(got.w[0], want.w[0], atol=1e-6)


@pytest.mark.slow
def test_partial_work_takes_the_steps_that_fit(study):
    fleet = AT_ONCE._replace(flops=np.where(np.arange(N) % 2, 1e6, 1e5))
    whole = simulate(study, fleet, synchronous(N)).clients
    whole = whole[whole["round"] == 1]
    deadline = whole["ended"].quantile(0.6)
    got = simulate(study, fleet, synchronous(N, deadline=deadline, partial=True)).clients
    first = got[got["round"] == 1].set_index("client")
    used = first[(first["outcome"] == "used") & (first["steps"] > 0)]
    full = whole.set_index("client").loc[used.index]
    assert (used["ended"] <= deadline).all()
    fewer = used[used["steps"] < full["steps"]]
    assert len(fewer) > 3
    largest = (
        full.loc[fewer.index, "computing"]
        / full.loc[fewer.index, "examples"]
        * study.local.batch_size
    )
    assert (fewer["ended"] + largest > deadline).all(), "one more step would have fitted"


def test_partial_work_on_a_part_of_the_model_takes_its_part_of_the_time(study):
    fleet = AT_ONCE._replace(flops=np.where(np.arange(N) % 2, 1e6, 1e5))
    single_round = replace(study, rounds=1, algorithm=heterofl(study.task, [0.25] * N))
    data = study.data(0)
    share = (
        single_round.algorithm.local_objective(None, Cohort(np.arange(N), 1, 0, N))
        .mask.mean(1)
        .numpy()
    )
    got = simulate(single_round, fleet, synchronous(N, deadline=0.5, partial=True)).clients
    used = got[got["outcome"] == "used"]
    assert (used["steps"] < 2 * -(-data.sizes[used["client"]] // 8)).any(), "nobody was cut short"
    each = training_flops(single_round.task, data.x, data.y) * share[used["client"]]
    assert used["computing"].to_numpy() == pytest.approx(
        used["examples"] * each / fleet.flops[used["client"]]
    )
    first = int(used.loc[used["computing"].idxmax(), "client"])
    assert (
        used["computing"].max()
        > 0.5 - 8 * each[list(used["client"]).index(first)] / fleet.flops[first]
    )


def test_a_run_ends_with_its_hours_and_is_evaluated_there(study):
    whole = simulate(study, FLEET, synchronous(5))
    half = whole.rounds["seconds"].sum() / 2
    sparse = replace(study, eval_every=10)
    got = simulate(sparse, FLEET, synchronous(5), hours=half / 3600)
    assert 0 < got.rounds["round"].iloc[-1] < study.rounds
    same = whole.rounds.loc[got.rounds["round"].iloc[-1]]
    assert got.rounds["accuracy"].iloc[-1] == same["accuracy"]
    assert (got.clients["outcome"] == "flying").any()
    assert got.clients["ended"].max() == pytest.approx(half)


def test_what_is_chosen_by_loss_changes_who_takes_part(study):
    shares = {}
    for name, select in {
        "oort": oort(),
        "power": power_of_choice(15),
        "random": synchronous(5).select,
    }.items():
        shares[name] = tuple(
            simulate(study, FLEET, synchronous(5, select=select)).clients["client"]
        )
    assert len(set(shares.values())) == 3


def test_staleness_functions_are_the_papers():
    late = np.array([0, 1, 4, 5, 8])
    assert constant(late).tolist() == [1] * 5
    assert polynomial(0.5)(late) == pytest.approx([1, 2**-0.5, 5**-0.5, 6**-0.5, 1 / 3])
    assert hinge(10, 4)(late) == pytest.approx([1, 1, 1, 1 / 11, 1 / 41])


def test_ctrl_c_keeps_the_steps_so_far(study, monkeypatch):
    seen, real = [], training_work.aggregate_and_step

    def interrupting(*args):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(training_work, "aggregate_and_step", interrupting)
    with pytest.raises(Interrupted) as error:
        simulate(study, FLEET, synchronous(5))
    assert error.value.result.rounds["round"].tolist() == [0, 1, 2, 3]


def test_divergence_keeps_the_history(study):
    with pytest.raises(Diverged) as error:
        simulate(replace(study, local=Local(1e30, steps=5)), FLEET, fedbuff(6, 3))
    assert len(error.value.result.rounds)


def test_what_does_not_go_together_is_refused(study):
    several = fedbuff(4, 2)
    few = partial(load, "digits", 10, dirichlet(1.0))
    cases = [
        (
            replace(study, budget="1 MB in all"),
            several,
            "budget='1 MB in all' must be None (a simulation ends by its rounds or hours). Try ",
        ),
        (
            replace(study, download=quantize(8)),
            several,
            "download must be identity() with this policy (only rounds have a last broadcast to ",
        ),
        (
            replace(study, algorithm=heterofl(study.task, [1.0] * N)),
            several,
            "the algorithm has masks, which change by rounds. Try synchronous(5) as policy",
        ),
        (
            replace(study, algorithm=fednova()),
            fedasync(4),
            "the algorithm does not go with this policy (its step ",
        ),
        (
            replace(study, algorithm=fedexp()),
            tiered(2, 3),
            "the algorithm does not go with this policy (its step ",
        ),
        (
            replace(study, sample=poisson(0.1)),
            several,
            "sample=poisson must be uniform (the policy chooses the clients by the ",
        ),
        (
            study,
            fedbuff,
            "policy=fedbuff must be the result of a call. Try synchronous(5) or fedbuff(10, 5)",
        ),
        (study, {}, "policy={} must have a policy at least. Try "),
        (
            {"other": study},
            {"rounds": several},
            "experiment has the labels ['other'], and must have those of policy, ['rou",
        ),
        (
            replace(study, data=few, task=mlp(few(0)), sample=uniform(2)),
            several,
            "the fleet has 30 devices and must have one per client of the data, 10. Try "
            "draw_fleet(10)",
        ),
    ]
    for experiment, policy, message in cases:
        with pytest.raises(ValueError, match=r".") as error:
            simulate(experiment, FLEET, policy)
        assert str(error.value).startswith(message)
    for discount in (lambda late: -1.0 - late, lambda late: 0.5, lambda late: late * math.nan):
        with pytest.raises(
            ValueError, match=r"^discount gave .* and must give a number from 0 to 1 for each"
        ):
            simulate(replace(study, rounds=2), FLEET, fedbuff(4, 2, discount=discount))
    for hours in (0, -1, math.nan, True, "24"):
        with pytest.raises(
            ValueError, match=r"^hours=.* must be a number above 0, after which the clock stops"
        ):
            simulate(study, FLEET, several, hours=hours)
    with pytest.raises(
        ValueError, match=r"^fleet is a dict and must be a Fleet, or a function of the seed for one"
    ):
        simulate(study, {}, several)


POLICIES = (
    partial(synchronous, 3),
    partial(fedbuff, 5, 2),
    partial(fedasync, 5),
    partial(tiered, 2, 5),
)
CALLED = "staleness=polynomial must be the result of a call. Try polynomial(0.5)"
FORGOTTEN = (
    "select=oort must be the result of a call (it is called as "
    "select(available, wanted, stats, generator)). Try select=oort(), or at_random"
)


@pytest.mark.parametrize("shares", [-1.0, 1.5, math.nan], ids=str)
def test_staleness_counts_from_0_to_1(study, shares):
    for name, policy in {
        "staleness": fedasync(4, staleness=lambda late: late * 0 + shares),
        "discount": fedbuff(4, 2, discount=lambda late: late * 0 + shares),
    }.items():
        with pytest.raises(
            ValueError,
            match=rf"^{name} gave .* and must give a number from 0 to 1 for each\. Try poly",
        ):
            simulate(replace(study, rounds=2), FLEET, policy)
    with pytest.raises(ValueError, match=r"^staleness gave 0\.5 for the staleness"):
        simulate(replace(study, rounds=2), FLEET, fedasync(4, staleness=lambda late: 0.5))


def test_a_fleet_of_no_seed_is_refused(study):
    with pytest.raises(
        ValueError, match=r"^fleet=<lambda> must be a function of the seed\. Try lambda seed: draw_"
    ):
        simulate(study, lambda: FLEET, synchronous(3))


def test_zeroth_order_takes_the_time_of_two_passes_forward(study):
    data = study.data(0)
    forward_only = replace(
        study,
        data=data,
        task=random_subspace(mlp(data, hidden=(32,)), 4),
        rounds=1,
        local=Local(0.1, 8),
    )
    back, forth = (
        simulate(forward_only, FLEET, synchronous(3), backend).clients["computing"]
        for backend in (sequential, zeroth_order)
    )
    np.testing.assert_allclose(forth / back, 9472 / 10112)


@pytest.mark.slow
def test_simulate_imports_no_compiler():
    """Ctrl-C during the import of a compiler would leave PyTorch half imported."""
    code = """
import sys
from fedlab.data import load
from fedlab.models import mlp
from fedlab.core import Experiment, Local
from fedlab.server import fedavg, uniform, weighted_mean
from fedlab.system.fleet import draw_fleet
from fedlab.system.policies import synchronous
from fedlab.system.simulation import simulate

data = load("digits", 6)
study = Experiment(data, mlp(data), Local(0.1), fedavg(), weighted_mean, uniform(2), rounds=1)
simulate(study, draw_fleet(6), synchronous(2))
print([m for m in ("torch._dynamo", "sympy") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synchronous(0), "cohort_size=0 must be a whole number of at least 1. Try 1"),
        (
            lambda: synchronous(5, over_selection=-1),
            OVER,
        ),
        (
            lambda: synchronous(5, deadline=0),
            NO_DEADLINE,
        ),
        (
            lambda: synchronous(5, partial=True),
            "partial=True must have a deadline (at which partial work ends). Try deadline=600",
        ),
        (lambda: fedbuff(5, 0), "buffer=0 must be a whole number of at least 1. Try 1"),
        (
            lambda: fedasync(5, 2),
            "alpha=2 must be above 0 and at most 1 (the share of the client's model). "
            "Try 0.6, as the paper",
        ),
        (lambda: tiered(1, 5), "tiers=1 must be a whole number of at least 2. Try 2"),
        (
            lambda: hinge(0),
            "a=0, b=4.0: a must be above 0 and b at least 0. Try 10 and 4, as the paper",
        ),
        (
            lambda: synchronous(3, select="oort"),
            "select='oort' must be a function that chooses clients. Try select=oort(), or "
            "at_random",
        ),
        *((lambda make=make: make(select=oort), FORGOTTEN) for make in POLICIES),
        (
            lambda: fedasync(5, staleness=polynomial),
            CALLED,
        ),
        (
            lambda: fedbuff(5, 2, discount=hinge),
            CALLED.replace("staleness=polynomial", "discount=hinge"),
        ),
        (lambda: polynomial(-1), "a=-1 must be an exponent of at least 0. Try 0.5, as the paper"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=r".") as error:
        make()
    assert str(error.value) == message

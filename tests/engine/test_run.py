import io
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from torch import nn

from fedlab.client import batched, sequential
from fedlab.core import Algorithm, Experiment, Local, Stage, Terms
from fedlab.data import dirichlet, load
from fedlab.engine import Diverged, collect_result, evaluate, evaluate_models, initial, run, stream
from fedlab.engine.run import Interrupted
from fedlab.models import classification, mlp
from fedlab.server import fedavg, qfedavg, scaffold, uniform, weighted_mean
from fedlab.study import compare
from fedlab.upload import error_feedback
from fedlab.upload.chains import stateless


def same(a, b):
    pd.testing.assert_frame_equal(a.rounds, b.rounds)
    pd.testing.assert_frame_equal(a.clients, b.clients)
    assert all(torch.equal(u, v) for u, v in zip(a.w, b.w, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_batched_equals_sequential_after_20_rounds_on_ragged_clients(alpha):
    split = partial(load, "digits", 100, dirichlet(alpha))
    parts = fedavg(), weighted_mean, uniform(10)
    study = Experiment(split, mlp(split(0)), Local(0.1, batch_size=5), *parts, rounds=20)
    slow, fast = run(study, sequential, seeds=2), run(study, batched, seeds=2)
    for a, b in zip(slow.w, fast.w, strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=0)
    sizes = slow.clients["num_examples"]
    assert sizes.max() > 5 * max(1, sizes.min()), "the clients are ragged"
    pd.testing.assert_frame_equal(slow.rounds, fast.rounds, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_in_double_precision_long_local_work_changes_nothing():
    """60 steps per round at a large rate: in single precision a flipped ReLU parts the engines."""
    data = load("digits", 20, dirichlet(0.3)).double()
    parts = fedavg(), weighted_mean, uniform(5)
    study = Experiment(
        data, mlp(data, hidden=(64,)), Local(0.3, batch_size=5, epochs=4), *parts, rounds=10
    )
    slow, fast = run(study, sequential), run(study, batched)
    assert slow.w[0].dtype == fast.w[0].dtype == torch.float64
    torch.testing.assert_close(fast.w[0], slow.w[0], atol=1e-10, rtol=0)
    sent = fast.clients[fast.clients["steps"] > 0]
    assert (sent["up_values"] == 8 * len(fast.w[0])).all(), "eight bytes a value"


def test_a_run_is_reproducible(short):
    same(run(short, seeds=2), run(short, seeds=2))


def test_lockstep_changes_nothing(short):
    """Three seeds together give what each gives alone, to rounding."""
    together, alone = run(short, seeds=3), [run(short, seeds=[seed]) for seed in range(3)]
    for j, single in enumerate(alone):
        torch.testing.assert_close(together.w[j], single.w[0], atol=1e-6, rtol=0)
        of_seed = together.rounds[together.rounds["seed"] == j].reset_index(drop=True)
        pd.testing.assert_frame_equal(of_seed, single.rounds, atol=1e-4, rtol=0)


def test_everyone_with_one_full_batch_is_gradient_descent(study):
    data = study.data(0)
    whole = replace(
        study, data=data, local=Local(0.3, batch_size=None), sample=uniform(30), rounds=3
    )
    w = initial(study.task, 0)
    for _ in range(3):
        w = w.detach().requires_grad_()
        loss = study.task.loss(study.task.forward(w, data.x), data.y).mean()
        w = (w - 0.3 * torch.autograd.grad(loss, w)[0]).detach()
    torch.testing.assert_close(run(whole).w[0], w, atol=1e-5, rtol=0)


def test_tables_say_what_happened(short):
    result = run(short, seeds=[4, 7])
    rounds, clients = result.rounds, result.clients
    assert list(rounds["round"]) == [0, 1, 2, 3] * 2
    assert list(rounds["seed"]) == [4] * 4 + [7] * 4
    assert (rounds.loc[rounds["round"] == 0, "bytes_up"] == 0).all()
    d = len(result.w[0])
    assert (rounds.loc[rounds["round"] > 0, "down_values"] == 5 * 4 * d).all()
    columns = ["examples", "steps", "bytes_up", "bytes_down"]
    by_round = clients.groupby(["seed", "round"], as_index=False)[columns].sum()
    trained = rounds[rounds["round"] > 0].reset_index(drop=True)
    assert (by_round[columns] == trained[columns]).all(axis=None)
    assert (rounds.loc[rounds["round"] == 0, columns] == 0).all(axis=None)
    data = short.data(4)
    of_seed = clients[clients["seed"] == 4]
    assert (of_seed["num_examples"] == data.sizes[of_seed["client"]]).all()
    assert (of_seed["examples"] == 2 * of_seed["num_examples"]).all(), "visited in two epochs"
    assert (of_seed["steps"] == 2 * np.ceil(data.sizes[of_seed["client"]] / 8)).all()
    assert (of_seed.loc[of_seed["steps"] == 0, "bytes_up"] == 0).all()
    assert (of_seed.loc[of_seed["steps"] > 0, "up_values"] == 4 * d).all()
    assert of_seed["loss"].isna().eq(of_seed["steps"] == 0).all()


def test_final_reports_the_last_round_of_the_global_model(short):
    result = run(short, seeds=2)
    final = result.final()
    assert list(final["round"]) == [3, 3]
    for j, accuracy in enumerate(final["accuracy"]):
        assert accuracy == evaluate(short.task, result.w[j], short.data(j))["accuracy"]


def test_a_test_set_of_any_size_is_evaluated_piece_by_piece(short, monkeypatch):
    data, w = short.data(0), initial(short.task, 0)
    whole = evaluate(short.task, w, data)
    assert whole["accuracy"] == pytest.approx(
        short.task.metrics["accuracy"](short.task.forward(w, data.test[0]), data.test[1])
        .mean()
        .item()
    )
    monkeypatch.setattr(sys.modules["fedlab.engine.evaluation"], "EVALUATED_AT_ONCE", 100)
    assert evaluate(short.task, w, data) == pytest.approx(whole)


class Doubled(nn.Sequential):
    """A line of layers, and not what they give."""

    def forward(self, x):
        return 2 * super().forward(x)


MODELS = {
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10, bias=False)
    ),
    "others between": lambda: nn.Sequential(
        nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10), nn.ReLU()
    ),
    "pictures": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10)
    ),
    "a forward of its own": lambda: Doubled(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)),
    "not a line": lambda: nn.Linear(64, 10),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_evaluated_side_by_side_are_each_as_alone(study, name):
    task, data = classification(MODELS[name]), study.data(0).double()
    rows = torch.stack([initial(task, seed, data.x) for seed in range(9)])
    x, y = data.test
    for scores, w in zip(evaluate_models(task, rows, data), rows, strict=True):
        output = task.module(w)(x)
        assert scores == pytest.approx(
            {
                name: score(output, y).mean().item()
                for name, score in {"loss": task.loss, **task.metrics}.items()
            }
        )
        assert scores == pytest.approx(evaluate(task, w, data))


def test_seeds_with_test_sets_of_their_own_are_evaluated_on_them(study):
    data = study.data(0)
    halves = [replace(data, test=tuple(both[k::2] for both in data.test)) for k in range(2)]
    result = run(replace(study, data=lambda seed: halves[seed], rounds=2), seeds=2)
    for half, w, (_, rounds) in zip(halves, result.w, result.rounds.groupby("seed"), strict=True):
        assert rounds["loss"].iloc[-1] == pytest.approx(evaluate(study.task, w, half)["loss"])


def test_eval_every(study):
    result = run(replace(study, rounds=5, eval_every=2))
    assert result.rounds["accuracy"].notna().tolist() == [True, False, True, False, True, True]


def test_compare_pairs_seeds_and_adds_a_column(short):
    methods = {"FedAvg": fedavg(), "half steps": fedavg(0.5)}
    both = compare(short, seeds=2, algorithm=methods)
    assert both.rounds.columns[0] == both.clients.columns[0] == "algorithm"
    for j, (name, method) in enumerate(methods.items()):
        single = run(replace(short, algorithm=method), seeds=2)
        of_seed = (
            both.rounds[both.rounds["algorithm"] == name]
            .drop(columns="algorithm")
            .reset_index(drop=True)
        )
        pd.testing.assert_frame_equal(of_seed, single.rounds, atol=1e-4, rtol=0)
        torch.testing.assert_close(both.w[2 * j], single.w[0], atol=1e-6, rtol=0)
    start = both.rounds[both.rounds["round"] == 0].groupby("seed")["accuracy"].nunique()
    assert (start == 1).all(), "paired: both start from the same model"


def test_compare_different_models_and_lengths(short):
    wide = mlp(short.data(0), hidden=(16,))
    grid = compare(short, task={"32": short.task, "16": wide}, rounds={"short": 1, "long": 2})
    assert [len(w) for w in grid.w] == [len(initial(short.task, 0))] * 2 + [
        len(initial(wide, 0))
    ] * 2
    assert grid.final()["round"].tolist() == [1, 2, 1, 2]
    alone = run(replace(short, task=wide, rounds=2))
    torch.testing.assert_close(grid.w[3], alone.w[0], atol=1e-6, rtol=0)


def test_compare_wants_labels(short):
    with pytest.raises(TypeError, match="must be a dict of label: value"):
        compare(short, algorithm=fedavg())


def test_a_cohort_of_empty_clients_changes_nothing(short):
    data = short.data(0)
    hollow = replace(data, parts=[np.arange(len(data.y)), *[np.array([], dtype=int)] * 4])
    nobody = replace(short, data=hollow, sample=lambda sizes, t, generator: np.array([1, 3]))
    result = run(nobody)
    assert torch.equal(result.w[0], initial(short.task, 0))
    assert result.rounds["bytes_up"].sum() == 0
    assert result.rounds["clients"].sum() == 0


def test_algorithms_receive_their_terms(short):
    """FedProx out of the four functions: with a huge mu nobody moves, with none it is FedAvg."""

    def fedprox(mu):
        return fedavg()._replace(local_objective=lambda state, cohort: Terms(mu=mu))

    local = replace(short.local, lr=0.01)
    result = compare(replace(short, local=local), algorithm={mu: fedprox(mu) for mu in (0.0, 50.0)})
    free, held = ((w - initial(short.task, 0)).norm() for w in result.w)
    assert held < 0.7 * free
    same(run(short), run(replace(short, algorithm=fedprox(0.0))))


def test_linear_terms_of_some_runs_only(short):
    def pushed(state, cohort):
        return Terms(h=torch.full((len(cohort.ids), state), 0.1))

    push = Algorithm(lambda w, n: len(w), pushed, fedavg().contributions, fedavg().step)
    both = compare(short, algorithm={"FedAvg": fedavg(), "pushed": push})
    torch.testing.assert_close(both.w[0], run(short).w[0], atol=1e-6, rtol=0)
    assert (both.w[1] - both.w[0]).norm() > 1


def test_divergence_stops_and_keeps_the_history(study):
    wild = replace(study, local=Local(lr=1e30, batch_size=8))
    with pytest.raises(
        Diverged, match=r"client \d+ is not finite in round \d+ \(seed 0, lr=1e\+30\).*smaller"
    ) as caught:
        run(wild)
    history = caught.value.result.rounds
    assert history["round"].iloc[0] == 0
    assert np.isfinite(history["accuracy"]).all()


def test_a_server_that_overflows_is_caught_in_its_own_round(study):
    with pytest.raises(
        Diverged, match=r"the server's model is not finite after round 1 \(seed 0\).*server"
    ) as caught:
        run(replace(study, algorithm=fedavg(server_lr=1e300)))
    history = caught.value.result
    assert history.rounds["round"].tolist() == [0]
    assert history.w[0].isfinite().all(), "the last good model stays"


def test_a_server_that_overflows_leaves_the_runs_beside_it_where_it_is(short):
    with pytest.raises(Diverged, match="the server's model is not finite after round 1") as caught:
        compare(short, algorithm={"fine": fedavg(), "wild": fedavg(server_lr=1e300)})
    history = caught.value.result
    assert history.rounds["round"].tolist() == [0, 0]
    for w in history.w:
        assert torch.equal(w, initial(short.task, 0))


def test_whether_model_and_data_fit_is_asked_once_for_all_seeds(short):
    asked = []

    def counted(output, y):
        asked.append(len(y))
        return short.task.loss(output, y)

    wide = replace(
        short, data=short.data(0), task=replace(short.task, metrics={"loss again": counted})
    )
    run(wide, seeds=3)
    run(wide, seeds=2)
    assert asked.count(2) == 2, "and asked again, to see whether it is the same"
    with pytest.raises(ValueError, match="out of range"):
        run(replace(wide, data=replace(wide.data, y=wide.data.y + 1)))


def test_a_row_that_is_changed_in_place_is_another_model(study):
    data = study.data(0)
    w = initial(study.task, 0)
    trained = run(replace(study, data=data)).w[0]
    first = evaluate(study.task, w, data)
    w.copy_(trained)
    assert evaluate(study.task, w, data) == evaluate(study.task, trained, data)
    assert evaluate(study.task, w, data)["loss"] < first["loss"]


def test_results_do_not_keep_the_matrix_of_all_runs(short):
    for w in run(short, seeds=3).w:
        assert w.untyped_storage().nbytes() == w.nbytes


def test_ctrl_c_keeps_the_history(study):
    calls = 0

    def impatient(*args):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return batched(*args)

    with pytest.raises(Interrupted) as caught:
        run(study, impatient)
    assert caught.value.result.rounds["round"].tolist() == [0, 1, 2, 3]
    assert isinstance(caught.value, KeyboardInterrupt)


def test_a_stream_can_be_left_at_any_round(study):
    for runs in stream(study, seeds=2):
        if runs[0].rounds[-1]["round"] == 2:
            break
    pd.testing.assert_frame_equal(
        collect_result(runs).rounds, run(replace(study, rounds=2), seeds=2).rounds
    )


def test_what_does_not_fit_is_refused_before_training(study):
    with pytest.raises(ValueError, match=r"cohort_size=31 must be at most 30"):
        run(replace(study, sample=uniform(31)))
    with pytest.raises(ValueError, match=r"rounds=0"):
        replace(study, rounds=0)
    with pytest.raises(ValueError, match=r"nothing to run"):
        run(study, seeds=0)


WRONG_TASKS = {
    "inputs": (
        lambda task: mlp(load("breast_cancer")),
        r"the model Sequential does not take examples of shape \[64\] and type",
    ),
    "a mean": (
        lambda task: replace(task, loss=torch.nn.functional.cross_entropy),
        r"the loss of outputs \[2, 10\] of Sequential and labels \[2\] .* has the shape \[\] "
        r"and .*reduction='none'",
    ),
    "another loss": (
        lambda task: replace(task, loss=torch.nn.functional.binary_cross_entropy),
        r"the loss does not take outputs \[2, 10\] of Sequential and labels \[2\] of type "
        r"torch\.int64: \w+",
    ),
    "a loss that spreads": (
        lambda task: replace(task, loss=lambda output, y: (output[:, :1] - y) ** 2),
        r"the loss of outputs .* has the shape \[2, 2\] and must have one number per example",
    ),
    "a metric": (
        lambda task: replace(task, metrics={"top": lambda output, y: 1 / 0}),
        r"the top does not take .*division",
    ),
}


@pytest.mark.parametrize("name", WRONG_TASKS)
def test_a_task_that_does_not_fit_the_data_is_refused_in_a_line(short, name):
    change, message = WRONG_TASKS[name]
    with pytest.raises(ValueError, match=message) as caught:
        run(replace(short, task=change(short.task)), nobody_trains)
    assert "\n" not in str(caught.value)


def nobody_trains(*args):
    raise AssertionError("it was to be refused before")


def crowd(short, clients):
    data = short.data(0)
    parts = [np.arange(9)] + [np.arange(0)] * (clients - 1)
    return replace(short, data=replace(data, parts=parts), sample=uniform(clients), rounds=1)


def test_too_large_a_cohort_is_refused_before_it_starts(short):
    task = mlp(short.data(0), hidden=(1000,))
    d = len(initial(task, 0))
    clients = psutil.virtual_memory().total // (4 * d)  # their updates alone fill the memory
    need = rf"{clients:,} clients at a time with {d:,} parameters take about [\d.,]+ GB"
    message = rf"{need}, and [\d.,]+ GB are free\. .*smaller"
    with pytest.raises(MemoryError, match=message):
        run(replace(crowd(short, clients), task=task), nobody_trains)


@pytest.mark.parametrize(("method", "rows"), [(fedavg(), 2), (qfedavg(), 3), (scaffold(), 5)])
def test_what_a_round_takes(short, monkeypatch, method, rows):
    """Seeds of 1,000 clients need rows for training, and SCAFFOLD's row for each client."""
    study = replace(crowd(short, 1000), algorithm=method)
    room = 2 * 1000 * rows * 4 * len(initial(short.task, 0))
    monkeypatch.setattr(sys.modules["fedlab.engine.memory"], "MIN_CHECKED", 0)
    monkeypatch.setattr(
        sys.modules["fedlab.engine.memory"], "_free_bytes", lambda device: 1.1 * room
    )
    assert len(next(stream(study, seeds=2))) == 2
    with pytest.raises(MemoryError, match=r"3,000 clients at a time"):
        next(stream(study, seeds=3))
    monkeypatch.setattr(
        sys.modules["fedlab.engine.memory"], "_free_bytes", lambda device: 0.9 * room
    )
    with pytest.raises(MemoryError, match=r"2,000 clients at a time"):
        next(stream(study, seeds=2))


@pytest.mark.slow
def test_a_bar_shows_the_time_left(short, tmp_path, monkeypatch):
    """After two seconds, and from where a checkpoint stood."""

    def slow(*args):
        time.sleep(0.3)
        return batched(*args)

    run(replace(short, rounds=4), checkpoint=tmp_path)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    run(replace(short, rounds=13), slow, checkpoint=tmp_path)
    shown = re.findall(r"(\d+)/13 \[\d\d:\d\d<\d\d:\d\d,", sys.stderr.getvalue())
    assert shown
    assert int(shown[0]) > 5


@pytest.mark.slow
def test_digits_reach_085_by_round_100():
    """FedAvg, digits, 100 clients, Dirichlet 1.0, 10 per round, 2NN, batch 5, lr 0.1, 5 seeds."""
    split = partial(load, "digits", 100, dirichlet(1.0))
    task = mlp(split(0), hidden=(200, 200))
    parts = fedavg(), weighted_mean, uniform(10)
    study = Experiment(split, task, Local(0.1, batch_size=5), *parts, rounds=100, eval_every=100)
    assert run(study, seeds=5).final()["accuracy"].mean() >= 0.85


@pytest.mark.slow
def test_two_threads_may_run_the_same_study(study):
    """A panel trains in its own thread while the notebook's cells go on."""
    with ThreadPoolExecutor(2) as pool:
        expected = pool.submit(
            run, study, sequential
        ).result()  # where panels were, this thread may count cores otherwise
        both = [pool.submit(run, study, sequential) for _ in range(2)]
        for future in both:
            same(future.result(), expected)


def drawing(place):
    """An experiment, one function of which draws from NumPy's global generator."""
    digits = load("digits", 10)
    plain = Experiment(
        digits, mlp(digits, hidden=()), Local(0.1), fedavg(), weighted_mean, uniform(3), rounds=2
    )
    noise = lambda like: torch.from_numpy(np.random.normal(size=like.shape)).to(like)  # noqa: E731
    algorithm = fedavg()

    def noisy_step(w, state, cohort, updates, mean):
        return w + mean + noise(w), state

    def noisy_rows(updates, cohort):
        delta, weights = algorithm.contributions(updates, cohort)
        return delta + noise(delta), weights

    def noisy(message, state, cohort):
        return replace(message, values=message.values + noise(message.values)), state

    return {
        "data": replace(plain, data=lambda seed: load("digits", 10, seed=np.random.randint(10**6))),
        "sample": replace(plain, sample=lambda sizes, t, draw: np.random.permutation(10)[:3]),
        "aggregate": replace(
            plain, aggregate=lambda delta, weights: delta.mean(0) + noise(delta[0])
        ),
        "the algorithm's step": replace(plain, algorithm=algorithm._replace(step=noisy_step)),
        "the algorithm's contributions": replace(
            plain, algorithm=algorithm._replace(contributions=noisy_rows)
        ),
        "a transform": replace(plain, upload=error_feedback(stateless(noisy, Stage.DENSE))),
        "measure": replace(
            plain, task=replace(plain.task, measures={"luck": lambda outputs, y: np.random.rand()})
        ),
    }[place]


@pytest.mark.parametrize(
    "place",
    [
        "data",
        "sample",
        "aggregate",
        "the algorithm's step",
        "the algorithm's contributions",
        "a transform",
        "measure",
    ],
)
def test_functions_that_draw_elsewhere_are_refused(place):
    """Such a run could not be repeated or continued; the error comes every time it is tried."""
    study = drawing(place)
    np.random.seed(0)  # else one sample in 120 is the same when it is drawn again
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{place}.* again.* Try "):
            run(study)


def test_what_is_asked_again_does_not_write_twice():
    """In place, and by a seed of its own: nothing is refused, and every update is noisy once."""

    def noisy(message, state, cohort):
        torch.manual_seed(cohort.round)
        message.values.add_(torch.randn_like(message.values))
        return message, state

    def aggregate(delta, weights, cohort):
        torch.manual_seed(cohort.round)
        delta += torch.randn_like(delta)
        return weighted_mean(delta, weights)

    digits = load("digits", 10)
    study = Experiment(
        digits, mlp(digits, hidden=()), Local(0.1), fedavg(), weighted_mean, uniform(3), rounds=2
    )
    for change in ({"upload": stateless(noisy, Stage.DENSE)}, {"aggregate": aggregate}):
        first, again = (
            run(replace(study, **change)) for _ in range(2)
        )  # the second knows the function
        same(first, again)
    unseeded = stateless(
        lambda message, state, cohort: (noisy_in_place(message), state), Stage.DENSE
    )
    with pytest.raises(ValueError, match=r"^a transform draws .* again"):
        run(replace(study, upload=unseeded))


def noisy_in_place(message):
    message.values.add_(torch.randn_like(message.values))
    return message


def test_what_has_no_hash_or_copy_trains():
    """A frozen record with a list in it, and a state with a generator."""

    @dataclass(frozen=True)
    class Sizes:
        sizes: list

        def __call__(self, seed):
            return load("digits", self.sizes[0], seed=seed)

    digits, algorithm = (
        load("digits", 10),
        fedavg()._replace(
            init=lambda w, num_clients: {"numbers": (i for i in range(9))},
            step=lambda w, s, cohort, u, mean: (w + mean, s),
        ),
    )
    study = Experiment(
        Sizes([10]),
        mlp(digits, hidden=()),
        Local(0.1),
        algorithm,
        weighted_mean,
        uniform(3),
        rounds=2,
    )
    assert len(run(study, seeds=2).w) == 2


def test_functions_of_the_user_that_answer_alike_are_not_refused():
    """Draws from the right generators, in-place writes, a seed for NumPy's global one."""
    digits, algorithm = load("digits", 10), fedavg()

    def step(w, state, cohort, updates, mean):
        state["velocity"].mul_(0.9).add_(mean)
        return w + state["velocity"], state

    def data(seed):
        np.random.seed(seed)
        return load("digits", 10, seed=np.random.randint(10**6))

    def aggregate(delta, weights, cohort):
        return delta.mean(0) + 1e-3 * torch.from_numpy(
            cohort.generator("noise").normal(size=delta.shape[1])
        ).to(delta)

    study = Experiment(
        data,
        mlp(digits, hidden=()),
        Local(0.1),
        algorithm._replace(
            init=lambda w, num_clients: {"velocity": torch.zeros_like(w)}, step=step
        ),
        aggregate,
        lambda sizes, t, draw: draw.permutation(10)[:3],
        rounds=2,
    )
    same(run(study, seeds=2), run(study, seeds=2))

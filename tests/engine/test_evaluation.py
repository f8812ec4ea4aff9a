"""Scores of each client on its own examples, their summary, and measures over all examples."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.core import Task
from fedlab.data import dirichlet, load
from fedlab.engine import evaluate, evaluate_clients, initial, run, summarise_clients
from fedlab.engine.evaluation import example_scores
from fedlab.models import auc, balanced_accuracy, mlp
from fedlab.models.tabular import accuracy, cross_entropy
from fedlab.server import fedavg, scaffold, uniform, with_examples
from fedlab.study import compare, hold_out_clients, hold_out_examples


@pytest.fixture(scope="module")
def held():
    """Ten clients with a quarter of their examples held out: 3 has no other ones, 4 has none."""
    data = hold_out_examples(load("digits", 10, dirichlet(0.5)), share=0.25)
    parts, tests = list(data.parts), list(data.test_parts)
    parts[3], tests[4] = np.empty(0, int), np.empty(0, int)
    return replace(data, parts=parts, test_parts=tests)


def measured(task):
    return replace(task, measures={"auc": auc, "balanced": balanced_accuracy})


def test_each_client_is_tested_on_its_own_examples(held):
    task = measured(mlp(held, hidden=(16,)))
    w = initial(task, 0, held.x)
    table = evaluate_clients(task, w, held)
    assert list(table) == [
        "client",
        "num_examples",
        "test_examples",
        "loss",
        "accuracy",
        "auc",
        "balanced",
    ]
    x, y = held.test
    for i, part in enumerate(held.test_parts):
        row = table.iloc[i]
        assert (row["num_examples"], row["test_examples"]) == (len(held.parts[i]), len(part))
        if len(part) == 0:
            assert row[["loss", "accuracy", "auc", "balanced"]].isna().all()
            continue
        output = task.forward(w, x[part])
        assert row["loss"] == pytest.approx(cross_entropy(output, y[part]).mean().item(), rel=1e-5)
        assert row["accuracy"] == pytest.approx(accuracy(output, y[part]).mean().item())
        assert row["balanced"] == pytest.approx(
            balanced_accuracy(output.detach().numpy(), y[part].numpy())
        )
    assert (
        table["num_examples"][3] == 0 < table["test_examples"][3]
    )  # a client that never trains is tested, too


def test_a_row_per_client_is_each_clients_own_model(held):
    task = mlp(held, hidden=(16,))
    rows = torch.stack([initial(task, seed, held.x) for seed in range(10)])
    table = evaluate_clients(task, rows, held)
    for i in (0, 3, 9):
        alone = evaluate_clients(task, rows[i], held)
        assert table.iloc[i][["loss", "accuracy"]].tolist() == pytest.approx(
            alone.iloc[i][["loss", "accuracy"]].tolist()
        )
    same = evaluate_clients(task, rows[:1].expand(10, -1), held)
    pd.testing.assert_frame_equal(same, evaluate_clients(task, rows[0], held), rtol=1e-5)
    with pytest.raises(
        ValueError,
        match=r"w has the shape \[9, \d+\] and must be one model \[d\] or a row per client \[10,",
    ):
        evaluate_clients(task, rows[:9], held)


def test_the_mean_over_examples_is_the_pooled_score(held):
    task = mlp(held, hidden=(16,))
    w = initial(task, 1, held.x)
    whole = replace(
        held,
        test_parts=hold_out_examples(load("digits", 10, dirichlet(0.5)), share=0.25).test_parts,
    )
    summary = summarise_clients(evaluate_clients(task, w, whole))
    assert summary["mean_over_examples"] == pytest.approx(evaluate(task, w, whole)["accuracy"])
    scores, _ = example_scores(task, w, whole)
    assert scores["accuracy"].mean() == pytest.approx(summary["mean_over_examples"])


def test_the_summary_by_hand():
    table = pd.DataFrame(
        {
            "test_examples": [1, 1, 2, 6, 0],
            "accuracy": [0.0, 0.5, 0.5, 1.0, np.nan],
            "loss": [4, 3, 2, 1, np.nan],
        }
    )
    summary = summarise_clients(table, reference=np.array([0.1, 0.5, 0.4, 1.0, 0.9]))
    assert summary["clients"] == 4
    assert summary["mean_over_clients"] == 0.5
    assert summary["mean_over_examples"] == pytest.approx((0 + 0.5 + 1 + 6) / 10)
    assert summary["percentile_10"] == pytest.approx(np.percentile([0, 0.5, 0.5, 1], 10))
    assert summary["worst"] == 0
    assert (
        summary["share_below"] == 0.25
    )  # only the first does worse than its reference; equal is not below
    loss = summarise_clients(table, "loss", reference=2.5)
    assert (loss["worst"], loss["share_below"]) == (4, 0.5)  # of a loss, high is bad
    assert loss["percentile_10"] == pytest.approx(np.percentile([4, 3, 2, 1], 90))
    nobody = summarise_clients(table.iloc[4:], reference=0.5)
    assert nobody["clients"] == 0
    assert nobody.drop("clients").isna().all()
    with pytest.raises(ValueError, match=r"column='auc' must be a column of the table"):
        summarise_clients(table, "auc")
    with pytest.raises(
        ValueError,
        match=r"reference has the shape \[2\] and must be a number or one per client \[5\]",
    ):
        summarise_clients(table, reference=[0.1, 0.2])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda parts: None, "test_parts must say whose each test example is, and it is None"),
        (lambda parts: parts[:-1], "test_parts has 9 entries and must have one per client"),
        (
            lambda parts: [parts[0], *parts[:-1]],
            "is held by the clients 0 and 1: test_parts must be disjoint",
        ),
        (
            lambda parts: [np.array([99999]), *parts[1:]],
            "client 0 holds example 99999, and there are",
        ),
    ],
)
def test_whose_the_tests_are_is_checked(held, change, word):
    task = mlp(held, hidden=())
    wrong = replace(held, test_parts=change(held.test_parts))
    with pytest.raises(ValueError, match=word):
        evaluate_clients(task, torch.zeros(650), wrong)


def test_a_run_checks_whose_the_tests_are(held, short):
    study = replace(
        short, data=replace(held, test_parts=held.test_parts[:-1]), task=mlp(held, hidden=())
    )
    with pytest.raises(ValueError, match="test_parts has 9 entries"):
        run(study)


def test_held_out_examples_know_their_owner():
    whole = load("digits", 7, dirichlet(0.3))
    data = hold_out_examples(whole, 0.3, seed=2)
    holders = {int(e): i for i, part in enumerate(whole.parts) for e in part}
    x, y = data.test
    for i, part in enumerate(data.test_parts):
        for place in part:
            (e,) = [
                e
                for e in np.flatnonzero((whole.x == x[place]).flatten(1).all(1))
                if holders.get(int(e)) == i
            ][:1]
            assert e not in data.parts[i]
            assert whole.y[e] == y[place]


@pytest.mark.parametrize("tests", [False, True])
def test_held_out_clients_are_tested_on_all_they_have(tests):
    whole = load("digits", 8, dirichlet(0.3))
    whole = hold_out_examples(whole, 0.2) if tests else whole
    data = hold_out_clients(whole, 0.3, seed=1)
    away = [i for i in range(8) if len(whole.parts[i]) and not len(data.parts[i])]
    assert len(away) == 2
    for i in range(8):
        wanted = [] if whole.test_parts is None else [whole.test[0][whole.test_parts[i]]]
        wanted += [whole.x[whole.parts[i]]] if i in away else []
        assert torch.equal(data.test[0][data.test_parts[i]], torch.cat([whole.x[:0], *wanted]))
        if i not in away:
            assert data.parts[i] is whole.parts[i]
    assert sorted(np.concatenate(data.test_parts)) == list(
        range(len(data.test[1]))
    )  # every test example is someone's
    again = hold_out_clients(whole, 0.3, seed=1)
    assert torch.equal(again.test[1], data.test[1])
    for share in (0, 1, -0.1):
        with pytest.raises(ValueError, match=f"share={share} must be above 0 and below 1"):
            hold_out_clients(whole, share)
    with pytest.raises(ValueError, match=r"share=0.2 of 1 clients leaves none to train"):
        hold_out_clients(replace(whole, parts=whole.parts[:1], test_parts=None))


def test_clients_that_never_train_take_no_place(short):
    data = hold_out_clients(load("digits", 10), 0.4)
    study = replace(
        short, data=data, task=mlp(data, hidden=(16,)), sample=with_examples(uniform(6)), rounds=4
    )
    result = run(study)
    assert (result.rounds["clients"][1:] == 6).all()
    table = evaluate_clients(study.task, result.w[0], data)
    assert table.loc[data.sizes == 0, "accuracy"].notna().all()
    assert table.loc[data.sizes > 0, "accuracy"].isna().all()
    with pytest.raises(ValueError, match="cohort_size=7 must be at most 6"):
        run(replace(study, sample=with_examples(uniform(7))))
    with pytest.raises(ValueError, match="sample=uniform"):
        with_examples(uniform)


# -- measures in the tables of a run


def test_measures_stand_beside_the_metrics(short):
    with_measures = replace(short, task=measured(short.task), eval_every=2)
    result, plain = run(with_measures, seeds=2), run(replace(short, eval_every=2), seeds=2)
    assert result.rounds["auc"].notna().tolist() == result.rounds["loss"].notna().tolist()
    pd.testing.assert_frame_equal(result.rounds.drop(columns=["auc", "balanced"]), plain.rounds)
    for w, seed in zip(result.w, range(2), strict=True):
        data = short.data(seed)
        output = short.task.forward(w, data.test[0]).detach().numpy()
        last = result.rounds[(result.rounds["seed"] == seed)].iloc[-1]
        assert last["auc"] == pytest.approx(auc(output, data.test[1].numpy()), abs=1e-6)
    both = compare(with_measures, algorithm={"a": fedavg(), "b": scaffold()})
    assert both.final("auc")["auc"].notna().all()


def test_scikit_learns_scores_are_measures(short):
    from sklearn.metrics import f1_score

    def f1(outputs, y):
        return f1_score(y, outputs.argmax(1), average="macro")

    result = run(replace(short, task=replace(short.task, measures={"f1": f1}), rounds=1))
    assert result.rounds["f1"].between(0, 1).all()


@pytest.mark.parametrize(
    ("measure", "word"),
    [
        (
            lambda outputs, y: outputs.argmax(1) == y,
            r"measure 'it' must give one number.*on the test set it gave ndarray of shape \[360\]",
        ),
        (lambda outputs, y: None, "on the test set it gave None"),
        (
            lambda outputs: 1.0,
            r"measure 'it' does not take outputs \[360, 10\] and labels \[360\] of the test set",
        ),
        (lambda outputs, y: outputs.nothing, "measure 'it' does not take"),
    ],
)
def test_a_wrong_measure_is_told_before_training(short, measure, word):
    with pytest.raises(ValueError, match=word):
        run(replace(short, task=replace(short.task, measures={"it": measure})))


@pytest.mark.parametrize("kind", ["metrics", "measures"])
@pytest.mark.parametrize("name", ["loss", "round", "seed", "bytes_up", "train_loss", "client", 3])
def test_a_score_overwrites_no_column(kind, name):
    arguments = {"metrics": {}, "measures": {}} | {kind: {name: lambda output, y: output}}
    with pytest.raises(ValueError, match=f"{kind} must not be named {name!r}"):
        Task(lambda: torch.nn.Linear(2, 2), cross_entropy, **arguments)


def test_metrics_are_a_dict_of_functions():
    model = partial(torch.nn.Linear, 2, 2)
    with pytest.raises(
        ValueError, match=r"metrics=None must be a dict of name: function. Try metrics=\{\}"
    ):
        Task(model, cross_entropy, None)
    with pytest.raises(ValueError, match=r"metrics\['accuracy'\]=0.5 must be a function"):
        Task(model, cross_entropy, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="'a' must be a metric or a measure"):
        Task(model, cross_entropy, {"a": accuracy}, measures={"a": auc})


@pytest.mark.parametrize(
    "give", [lambda output, y: 0.5, lambda output, y: output.argmax(1).numpy() == y.numpy()]
)
def test_a_metric_gives_a_tensor_per_example(short, give):
    with pytest.raises(
        ValueError,
        match=r"the half of .* gave (float|ndarray) and must give a tensor.*Try Task\(measures=",
    ):
        run(replace(short, task=replace(short.task, metrics={"half": give})))


@pytest.mark.parametrize("kind", ["measure", "metric", "loss", "forward"])
def test_nothing_writes_to_the_data(short, kind):
    """A user's function that works in place would change the test set for every later run."""
    data, task = load("digits", 10), short.task

    def writes(output, y):
        y[y > 0] = 1
        return float(y.mean()) if kind == "measure" else cross_entropy(output, y)

    class Centred(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def forward(self, x):
            x -= x.mean(1, keepdim=True)  # the second time nothing changes
            return self.layer(x)

    changed = {
        "measure": lambda: replace(task, measures={"it": writes}),
        "metric": lambda: replace(task, metrics={"it": writes}),
        "loss": lambda: replace(task, loss=writes),
        "forward": lambda: Task(Centred, cross_entropy, {}),
    }[kind]()
    before = data.x.clone(), data.y.clone(), data.test[0].clone(), data.test[1].clone()
    with pytest.raises(ValueError, match=r"read-only|writes to its (outputs|examples)"):
        run(replace(short, data=data, task=changed))
    assert all(torch.equal(a, b) for a, b in zip(before, (data.x, data.y, *data.test), strict=True))


def test_a_variant_does_not_hide_a_metric(short):
    named = replace(short, task=replace(short.task, metrics={"algorithm": accuracy}))
    with pytest.raises(
        ValueError, match="the metric or measure 'algorithm' must have another name"
    ):
        compare(named, algorithm={"a": fedavg(), "b": scaffold()})


def recall(output, y):
    """The share of examples whose nearest neighbour among those beside it is of its class."""
    rows = torch.nn.functional.normalize(output, dim=1)
    nearest = (rows @ rows.T).fill_diagonal_(-2).argmax(1)
    return (y[nearest] == y).float()


@pytest.mark.parametrize(
    "metric", [recall, lambda output, y: (output.argmax(1) == y).float() * len(y)]
)
def test_a_metric_of_an_example_alone_or_none(short, metric):
    """Examples that are evaluated together depend on the number of runs; scores may not."""
    with pytest.raises(
        ValueError, match=r"the metric 'mine' gives an example another number .*Try Task\(measures="
    ):
        run(replace(short, task=replace(short.task, metrics={"mine": metric})), seeds=2)


class Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        return {"logits": self.layer(x)}


def test_measures_take_one_array(short):
    task = Task(
        Named, lambda output, y: cross_entropy(output["logits"], y), {}, measures={"auc": auc}
    )
    with pytest.raises(
        ValueError, match="measure 'auc' takes outputs as one array, and Named gives dict"
    ):
        run(replace(short, task=task))
    assert len(run(replace(short, task=replace(task, measures={}))).w) == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda task, w, data: (task, w.numpy(), data), "w is ndarray .*Try result.w"),
        (lambda task, w, data: (task, [w] * 10, data), "w is list .*torch.stack"),
        (lambda task, w, data: (task, w, lambda seed: data), "data is function .*Try data\\(0\\)"),
    ],
)
def test_what_is_no_model_and_no_data_is_told(held, change, word):
    task = mlp(held, hidden=())
    with pytest.raises(ValueError, match=word):
        evaluate_clients(*change(task, initial(task, 0, held.x), held))

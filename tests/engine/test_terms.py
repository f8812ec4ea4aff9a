"""Requests of custom algorithms and aggregates: a centre, phases, the cohort; and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab.client import batched, sequential
from fedlab.core import ClientTable, Experiment, Local, Phase, Terms, params
from fedlab.data import dirichlet, load
from fedlab.engine import run
from fedlab.engine.dispatch import dispatch, draw_cohort
from fedlab.engine.start import start_run
from fedlab.engine.training import train
from fedlab.models import mlp
from fedlab.server import fedavg, fedprox, uniform, weighted_mean


@pytest.fixture(scope="module")
def ragged():
    """Eight clients of uneven sizes, one of which holds nothing, in double precision."""
    data = load("digits", 8, dirichlet(0.3)).double()
    return replace(data, parts=[*data.parts[:7], np.empty(0, int)])


@pytest.fixture(scope="module")
def base(ragged):
    local = Local(0.1, batch_size=16, epochs=2)
    return Experiment(
        ragged, mlp(ragged, hidden=(12,)), local, fedavg(), weighted_mean, uniform(5), rounds=3
    )


def with_terms(terms, **fields):
    return fedavg()._replace(local_objective=terms, **fields)


def deltas(study, backend, t=1):
    """The updates of a round's cohort, and how it began."""
    start = start_run({}, study, 0, torch.device("cpu"))
    (begun,) = dispatch([start], [draw_cohort(study, start.data, 0, t)])
    return train([begun], backend)[0], begun


# -- the centre of the proximal term


def test_the_start_as_centre_is_fedprox(base):
    def terms(state, cohort):
        return Terms(mu=0.5, centre=state)

    algorithm = fedavg()._replace(init=lambda w, n: w.clone(), local_objective=terms)
    algorithm = algorithm._replace(
        step=lambda w, state, cohort, updates, mean: (w + mean, w + mean)
    )
    centred, prox = (
        run(replace(base, algorithm=algorithm)),
        run(replace(base, algorithm=fedprox(0.5))),
    )
    assert torch.allclose(centred.w[0], prox.w[0], atol=1e-12)


@pytest.mark.parametrize(
    "local",
    [Local(0.05, 16, 2), Local(0.05, 16, 2, momentum=0.9), Local(0.01, 16, optimizer="adamw")],
)
def test_the_centre_pulls_alike_in_both_engines(base, local):
    def terms(state, cohort):
        draw = torch.from_numpy(cohort.generator("centre").standard_normal((len(cohort.ids), d)))
        return Terms(mu=0.3, centre=0.1 * draw)

    d = sum(shape.numel() for shape in base.task.shapes.values())
    study = replace(base, algorithm=with_terms(terms), local=local)
    in_order, _ = deltas(study, sequential)
    many, _ = deltas(study, batched)
    assert torch.allclose(in_order.delta, many.delta, atol=1e-9)
    away, _ = deltas(replace(study, algorithm=fedprox(0.3)), sequential)
    assert not torch.allclose(in_order.delta, away.delta, atol=1e-3)  # the centre has a say


def test_a_strong_pull_ends_at_the_centre(base):
    """With mu far above the curvature, each client ends at its own centre, as in Ditto."""
    d = sum(shape.numel() for shape in base.task.shapes.values())
    centres = torch.linspace(-0.2, 0.2, 8, dtype=torch.float64)[:, None].expand(8, d)

    def terms(state, cohort):
        return Terms(mu=1e3, centre=centres[cohort.ids])

    study = replace(base, algorithm=with_terms(terms), local=Local(5e-4, None, 60))
    updates, begun = deltas(study, batched)
    ends = begun.model + updates.delta
    trained = updates.steps > 0
    assert torch.allclose(ends[trained], centres[begun.cohort.ids][trained], atol=2e-3)


def test_lockstep_keeps_centres_apart(base):
    """A run with a centre gives the same beside runs without one, also with a proximal term."""

    def terms(state, cohort):
        return Terms(mu=0.3, centre=state)

    algorithm = fedavg()._replace(init=lambda w, n: torch.zeros_like(w), local_objective=terms)
    studies = [replace(base, algorithm=each) for each in (algorithm, fedprox(0.3), fedavg())]
    runs = [start_run({}, study, 0, torch.device("cpu")) for study in studies]
    begun = dispatch(runs, [draw_cohort(base, run.data, 0, 1) for run in runs])
    for study, together in zip(studies, train(begun, batched), strict=True):
        assert torch.allclose(together.delta, deltas(study, batched)[0].delta, atol=1e-12)


# -- phases


def by_hand(base, begun, stages):
    """Train FedRep's clients by hand; a stage is (fixed tensors, epochs) and starts at the last."""
    names, task, ends = list(base.task.shapes), base.task, []
    for i, client in enumerate(begun.cohort.ids):
        w = begun.model.clone()
        batches = [b[b >= 0] for b in begun.work.batches[i] if (b >= 0).any()]
        per_epoch = -(-len(base.data.parts[client]) // base.local.batch_size)
        for fixed, epochs in stages:
            phase, batches = batches[: per_epoch * epochs], batches[per_epoch * epochs :]
            stays = torch.cat([torch.full((task.shapes[n].numel(),), n in fixed) for n in names])
            for batch in phase:
                at = w.clone().requires_grad_()
                loss = task.loss(task.forward(at, base.data.x[batch]), base.data.y[batch]).mean()
                w = torch.where(stays, w, w - base.local.lr * torch.autograd.grad(loss, at)[0])
        assert not batches
        ends.append(w)
    return torch.stack(ends) - begun.model


@pytest.mark.parametrize("backend", [sequential, batched])
def test_phases_are_fedreps(base, backend):
    names = list(base.task.shapes)
    body, head = names[:2], names[2:]
    algorithm = with_terms(lambda state, cohort: Terms(phases=(Phase(body, 2), Phase(head, 1))))
    updates, begun = deltas(replace(base, algorithm=algorithm), backend)
    expected = by_hand(base, begun, [(body, 2), (head, 1)])
    assert torch.allclose(updates.delta, expected, atol=1e-10)
    sizes = base.data.sizes[begun.cohort.ids]
    assert (
        updates.steps.numpy() == 3 * -(-sizes // 16)
    ).all()  # the phases' epochs, and not those of Local
    assert torch.equal(updates.num_examples.long(), torch.from_numpy(sizes))


def test_one_phase_is_a_plain_round(base):
    algorithm = with_terms(lambda state, cohort: Terms(phases=(Phase(epochs=2),)))
    phased, plain = run(replace(base, algorithm=algorithm)), run(base)
    assert torch.allclose(phased.w[0], plain.w[0], atol=1e-10)
    columns = ["train_loss", "examples", "steps", "bytes_up", "bytes_down"]
    np.testing.assert_allclose(phased.rounds[columns], plain.rounds[columns], rtol=1e-9)


def test_phases_with_every_term(base):
    """With all terms both engines agree, and the proximal term pulls to the round's start."""
    names = list(base.task.shapes)
    d = sum(shape.numel() for shape in base.task.shapes.values())

    def terms(state, cohort):
        draw = cohort.generator("terms")
        h = torch.from_numpy(draw.standard_normal((len(cohort.ids), d))) / 50
        mask = torch.from_numpy((draw.random(d) < 0.8).astype(float))
        return Terms(
            h=h,
            mu=0.4,
            mask=mask,
            fixed=names[1:2],
            phases=(Phase(names[:1], 1), Phase(names[2:], 2)),
        )

    study = replace(
        base,
        algorithm=with_terms(terms, partial_updates=True),
        local=replace(base.local, momentum=0.5),
    )
    in_order, begun = deltas(study, sequential)
    many, _ = deltas(study, batched)
    assert torch.allclose(in_order.delta, many.delta, atol=1e-10)
    still = params.views(in_order.delta + begun.work.start - begun.model, base.task.shapes)[
        names[1]
    ]
    assert (still == params.views(begun.work.start - begun.model, base.task.shapes)[names[1]]).all()


def test_private_heads_in_phases_run_in_lockstep(base):
    names = list(base.task.shapes)
    head = names[2:]

    def init(w, num_clients):
        return ClientTable(w, num_clients)

    def terms(state, cohort):
        personal = params.views(state[cohort.ids], base.task.shapes)

        def start(w):
            rows = w.expand(len(cohort.ids), -1).clone()
            for name, view in params.views(rows, base.task.shapes).items():
                if name in head:
                    view += personal[name]
            return rows

        return Terms(private=head, start=start, phases=(Phase(names[:2], 1), Phase(head, 1)))

    def step(w, state, cohort, updates, mean):
        state[cohort.ids] = state[cohort.ids] + updates.delta
        keep = torch.cat(
            [torch.full((base.task.shapes[n].numel(),), float(n not in head)) for n in names]
        )
        return w + keep * mean, state

    study = replace(
        base,
        algorithm=fedavg()._replace(
            init=init, local_objective=terms, step=step, partial_updates=True
        ),
    )
    together, alone = run(study, seeds=[3, 5]), run(study, seeds=[5])
    assert torch.allclose(together.w[1], alone.w[0], atol=1e-10)
    assert torch.allclose(run(study, sequential, seeds=[5]).w[0], alone.w[0], atol=1e-10)


@pytest.mark.parametrize(
    ("terms", "local", "word"),
    [
        (
            Terms(phases=(Phase(("nothing",), 1),)),
            {},
            r"a phase fixes 'nothing', and the model has no such tensor",
        ),
        (Terms(phases=(Phase(epochs=0),)), {}, "epochs=0"),
        (Terms(phases=(Phase(epochs=1),)), {"steps": 3}, r"Local\(steps=3\) must be left out"),
        (Terms(mu=-0.1), {}, "mu=-0.1 must be a number of at least 0"),
        (Terms(mu=float("nan")), {}, "mu=nan must be a number"),
        (Terms(lr=0.0), {}, "lr=0.0, which must be above 0"),
        (Terms(h=torch.zeros(3)), {}, r"have h of shape \[3\], which must be \[5, \d+\]"),
        (
            Terms(mask=torch.ones(2, 2)),
            {},
            r"have mask of shape \[2, 2\], which must be \[\d+\] or \[5, \d+\]",
        ),
        (Terms(mu=1.0, centre=torch.ones(5)), {}, r"have centre of shape \[5\]"),
        (None, {}, "the algorithm's terms gave NoneType and must give Terms"),
        (Terms(mu=1.0, centre=np.ones(5)), {}, "have centre as ndarray, which must be a tensor"),
        (Terms(mask=torch.tensor(0.5)), {}, r"have mask of shape \[\]"),
        (Terms(mask=torch.full((910,), 0.5)), {}, "a mask with other numbers than 0 and 1"),
        (Terms(phases=((("1.weight",), 1),)), {}, "which must be Phase records"),
    ],
)
def test_terms_are_checked(base, terms, local, word):
    study = replace(
        base, algorithm=with_terms(lambda state, cohort: terms), local=replace(base.local, **local)
    )
    with pytest.raises(ValueError, match=word):
        run(study)


# -- aggregates


def test_an_aggregate_may_take_the_cohort(base):
    seen = []

    def noisy(delta, weights, cohort):
        seen.append((cohort.round, cohort.seed, cohort.ids.tolist()))
        noise = torch.from_numpy(cohort.generator("noise").standard_normal(delta.shape[1]))
        return weighted_mean(delta, weights) + 1e-3 * noise

    study = replace(base, aggregate=noisy)
    single, again = run(study, seeds=[4]), run(study, seeds=[4, 2])
    assert torch.allclose(
        single.w[0], again.w[0], atol=1e-12
    )  # the noise is the round's, whoever else runs
    assert {(t, seed) for t, seed, _ in seen} == {(t, seed) for t in (1, 2, 3) for seed in (4, 2)}
    assert not torch.allclose(single.w[0], run(base, seeds=[4]).w[0], atol=1e-5)
    cohorts = [cohort for t, seed, cohort in seen if (t, seed) == (1, 4)]
    assert cohorts[0] == cohorts[1]


def test_an_aggregates_other_arguments_are_its_own(base):
    """A third parameter with a default is not given the cohort."""

    def trimmed(delta, weights, share=0.0):
        assert share == 0.0
        return weighted_mean(delta, weights)

    assert torch.equal(run(replace(base, aggregate=trimmed)).w[0], run(base).w[0])
    with pytest.raises(
        ValueError,
        match=r"aggregate=lonely must take \(delta, weights\) or \(delta, weights, cohort\)",
    ):
        replace(base, aggregate=lonely)


def lonely(delta):
    return delta.mean(0)


@pytest.mark.parametrize(
    ("aggregate", "word"),
    [
        (
            lambda delta, weights: delta.mean(),
            r"aggregate=<lambda> gave the shape \[\] and must give \[\d+\]",
        ),
        (lambda delta, weights: delta.mean()[None], r"gave the shape \[1\]"),
        (lambda delta, weights: delta, r"gave the shape \[5, \d+\]"),
        (
            lambda delta, weights: delta.mean(0).float(),
            "gave torch.float32 and must give torch.float64",
        ),
        (lambda delta, weights: delta.mean(0).numpy(), "gave ndarray and must give a tensor"),
        (lambda delta, weights: None, "gave NoneType and must give a tensor"),
    ],
)
def test_what_an_aggregate_gives_is_checked(base, aggregate, word):
    with pytest.raises(ValueError, match=word):
        run(replace(base, aggregate=aggregate))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (
            {"contributions": lambda u, c: (u.delta[0], u.num_examples)},
            r"the algorithm's contributions gave the shape \[\d+\] and must give \[5, ",
        ),
        (
            {"contributions": lambda u, c: (u.delta, u.num_examples[:2])},
            r"the algorithm's weights gave the shape \[2\] and must give \[5\]",
        ),
        (
            {"contributions": lambda u, c: (u.delta, u.num_examples.float())},
            "the algorithm's weights gave torch.float32",
        ),
        (
            {"contributions": lambda u, c: (u.delta, -u.num_examples)},
            r"client \d has the weight -\d+ in the algorithm's contributions",
        ),
        (
            {"step": lambda w, s, c, u, mean: (w[:, None] + mean, s)},
            r"the algorithm's step gave the shape",
        ),
        (
            {"step": lambda w, s, c, u, mean: w + mean},
            "the algorithm's step returned Tensor and must return two values",
        ),
        (
            {"step": lambda w, s, c, u, mean: ((w + mean).float(), s)},
            "the algorithm's step gave torch.float32",
        ),
    ],
)
def test_what_an_algorithm_gives_is_checked(base, fields, word):
    with pytest.raises(ValueError, match=word):
        run(replace(base, algorithm=fedavg()._replace(**fields)))


@pytest.mark.parametrize("aggregate", [None, "mean", 0.5])
def test_an_aggregate_is_a_function(base, aggregate):
    with pytest.raises(ValueError, match="aggregate="):
        replace(base, aggregate=aggregate)


# -- seeds


def test_seeds_of_any_integer_kind(base):
    two = run(replace(base, rounds=1), seeds=np.int64(2))
    assert two.rounds["seed"].tolist() == [0, 0, 1, 1]
    assert run(replace(base, rounds=1), seeds=np.array([7])).rounds["seed"].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("seeds", "word"),
    [
        ([0.5, 0.7], "must be whole numbers, and one is 0.5"),
        (["1"], "must be whole numbers, and one is '1'"),
        ([True, False], "one is True"),
        ([0, 0], "must differ, and 0 is listed twice"),
        ([], r"seeds=\[\] must be at least one"),
        (0, "seeds=0 must be at least one"),
        (-3, "seeds=-3 must be at least one"),
        (True, "seeds=True must be how many there are"),
        (2.0, "seeds=2.0 must be how many there are"),
        ("12", "seeds='12' must be how many there are"),
        (None, "seeds=None must be how many there are"),
    ],
)
def test_other_seeds_are_refused(base, seeds, word):
    with pytest.raises(ValueError, match=word):
        run(base, seeds=seeds)


@pytest.mark.parametrize("local", [0.1, [], [0.1], {"lr": 0.1}, None])
def test_local_is_one_or_a_list(base, local):
    with pytest.raises(ValueError, match="must be a Local, or a list with one per client"):
        replace(base, local=local)

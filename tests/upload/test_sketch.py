"""Count sketches are linear and unbiased; FetchSGD decodes their mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab.core import Cohort, Message, generator
from fedlab.engine import run
from fedlab.server import fedavg
from fedlab.upload import count_sketch, fetchsgd, identity, top_k
from fedlab.upload.sketch import sketch, unsketch

D = 2000


def rows(m=4):
    return torch.from_numpy(generator(0, "sketched").standard_normal((m, D)) ** 3)


def test_the_sketch_of_a_mean_is_the_mean_of_the_sketches():
    x, upload = rows(), count_sketch(100)
    message, _ = upload.apply(
        Message(x, {"x": torch.Size((D,))}), None, Cohort(np.arange(4), 3, 0, 9)
    )
    later, _ = upload.apply(
        Message(x.mean(0)[None], {"x": torch.Size((D,))}), None, Cohort(np.array([7]), 8, 0, 9)
    )
    torch.testing.assert_close(
        message.delta.mean(0), later.delta[0], msg="of all clients, in every round"
    )


def test_each_row_of_the_table_is_unbiased_and_the_median_finds_what_is_heavy():
    x, n = rows(1), 600
    x[0, 13] = 300.0
    alone = torch.stack([unsketch(sketch(x, key, 1, 200)[0], key, 1, 200, D) for key in range(n)])
    deviation = (alone - x).square().mean().sqrt()
    assert deviation == pytest.approx(float(x.norm()) / 200**0.5, rel=0.05), "|x| / sqrt(columns)"
    assert (alone.mean(0) - x[0]).square().mean().sqrt() == pytest.approx(
        float(deviation) / n**0.5, rel=0.1
    )
    estimate = unsketch(sketch(x, 5, 5, 200)[0], 5, 5, 200, D)
    assert estimate.abs().argmax() == 13
    assert estimate[13] == pytest.approx(300, rel=0.05)


def rounds_of_fetchsgd(momentum, server_lr, k, columns, depth, deltas):
    """The paper's Algorithm 1 as a loop of its own, on tables as matrices."""
    method = fetchsgd(k, columns=columns, depth=depth, momentum=momentum, server_lr=server_lr)
    w, state = (
        torch.zeros(D, dtype=torch.double),
        method.init(torch.zeros(D, dtype=torch.double), 9),
    )
    for t, delta in enumerate(deltas, 1):
        cohort = Cohort(np.arange(len(delta)), t, 0, 9)
        message, _ = count_sketch(columns, depth=depth).apply(
            Message(delta, {"x": torch.Size((D,))}), None, cohort
        )

        class Updates:
            steps = torch.ones(len(delta))

        w, state = method.step(w, state, cohort, Updates, message.delta.mean(0))
    return w


def test_with_a_table_as_wide_as_the_row_and_all_numbers_it_is_sgd():
    """In a wide table nothing is lost: without momentum w is the sum of the means."""
    deltas = [torch.from_numpy(generator(0, "few", t).standard_normal((3, D))) for t in range(3)]
    for delta in deltas:
        delta[:, 40:] = 0  # 40 numbers in 400 columns of 5 rows: the median is right
    w = rounds_of_fetchsgd(0.0, 1.0, D, 400, 5, deltas)
    torch.testing.assert_close(
        w[:40], sum(delta.mean(0) for delta in deltas)[:40], atol=1e-6, rtol=0
    )


def test_what_is_not_among_the_k_waits_at_the_server():
    """One number per round: in the end all numbers have moved the model, the largest first."""
    delta = torch.zeros(1, D, dtype=torch.double)
    delta[0, :5] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    deltas = [delta] + [0 * delta] * 4
    for n in (1, 3, 5):
        w = rounds_of_fetchsgd(0.0, 1.0, 1, 400, 5, deltas[:n])
        torch.testing.assert_close(w[:5], delta[0, :5] * (torch.arange(5) < n), atol=1e-9, rtol=0)


def test_momentum_goes_on_pushing_but_not_where_it_moved():
    """Two numbers, k = 1: where D moved, S_u is cleared; only the other number is left in it."""
    delta = torch.zeros(1, D, dtype=torch.double)
    delta[0, :2] = torch.tensor([4.0, 1.0])
    w = rounds_of_fetchsgd(0.5, 1.0, 1, 400, 5, [delta, 0 * delta, 0 * delta])
    torch.testing.assert_close(w[:2], torch.tensor([4.0, 1.0 + 0.5]).double(), atol=1e-9, rtol=0)


def test_it_learns_and_only_with_its_sketches(study):
    study = replace(study, rounds=30, eval_every=30)
    fetch = replace(
        study, upload=count_sketch(450), algorithm=fetchsgd(50, columns=450, momentum=0.0)
    )
    result = run(fetch)
    assert result.final()["accuracy"].iloc[0] > 0.4
    assert (result.clients.loc[result.clients["steps"] > 0, "up_values"] == 4 * 5 * 450).all()
    for wrong, message in (
        ({"upload": identity()}, "upload produces rows and must produce sketches of 5 x 450"),
        ({"upload": top_k(0.1)}, "upload produces rows"),
        ({"algorithm": fedavg()}, "upload produces sketches of 5 x 450 and must produce rows"),
        (
            {"upload": count_sketch(100)},
            "sketches of 5 x 100 and must produce sketches of 5 x 450",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            replace(fetch, **wrong)
    with pytest.raises(
        ValueError,
        match=r"count_sketch.2000, depth=5. has 10,000 .* at most the 2,410 .* Try columns=482",
    ):
        run(replace(fetch, upload=count_sketch(2000), algorithm=fetchsgd(100, columns=2000)))
    with pytest.raises(ValueError, match=r"momentum=1 must be at least 0 and below 1"):
        fetchsgd(3, columns=9, momentum=1)
    with pytest.raises(ValueError, match=r"server_lr=0 must be above 0"):
        fetchsgd(3, columns=9, server_lr=0)

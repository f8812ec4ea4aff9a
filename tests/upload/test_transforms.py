"""Transforms obey the laws of their papers, and refuse what cannot work."""

import math

import numpy as np
import pytest
import torch

from fedlab.core import Cohort, Message, generator, identity
from fedlab.upload import (
    accumulate,
    cast,
    chain,
    count_sketch,
    eden,
    error_feedback,
    kmeans,
    lazy,
    lossless,
    momentum,
    one_bit,
    power_sgd,
    qsgd,
    quantize,
    random_k,
    rotate,
    sign,
    terngrad,
    threshold,
    top_k,
    top_k_per_layer,
    wire,
)

SHAPES = {
    "a": torch.Size((24, 30)),
    "b": torch.Size((24,)),
    "c": torch.Size((6, 4, 3)),
    "d": torch.Size((6,)),
}
D = sum(shape.numel() for shape in SHAPES.values())


def rows(m=3, t=1, scale=1.0):
    """Rows with heavy tails, in double precision."""
    return torch.from_numpy(generator(0, "test rows", t).standard_normal((m, D)) ** 3) * scale


def cohort(m=3, t=1, ids=None):
    return Cohort(np.arange(m) if ids is None else np.array(ids), t, 0, 10)


def once(transform, x, t=1):
    """What the server has of rows that are sent for the first time."""
    message, _ = transform.apply(
        Message(x, SHAPES), transform.init(x[0], SHAPES, 10), cohort(len(x), t)
    )
    return message.delta


# Fewer numbers


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 1.0])
def test_top_k_keeps_the_largest_and_its_error_is_bounded(fraction):
    x = rows()
    got, k = once(top_k(fraction), x), max(1, round(fraction * D))
    for row, sent_row in zip(x, got, strict=True):
        nonzero = sent_row != 0
        assert nonzero.sum() == k
        assert torch.equal(sent_row[nonzero], row[nonzero])
        assert k == D or row[nonzero].abs().min() >= row[~nonzero].abs().max()
    assert ((x - got).square().sum(1) <= (1 - k / D) * x.square().sum(1) + 1e-12).all()


def test_top_k_of_everything_is_everything():
    assert torch.equal(once(top_k(1.0), rows()), rows())
    assert torch.equal(once(top_k_per_layer(1.0), rows()), rows())


def test_top_k_per_layer_leaves_none_out():
    """One layer's numbers are a thousand times larger; plain top-k would take all from there."""
    x = rows()
    x[:, : 24 * 30] *= 1000
    got, whole_row = once(top_k_per_layer(0.1), x), once(top_k(0.1), x)
    end = 0
    for shape in SHAPES.values():
        start, end = end, end + shape.numel()
        assert ((got[:, start:end] != 0).sum(1) == max(1, round(0.1 * shape.numel()))).all()
    assert (whole_row[:, 24 * 30 :] == 0).all()


def test_power_sgd_begins_anew_where_a_matrix_had_nothing():
    """An update has zeros in one matrix, and later rank 1 there, which one more round must find."""
    x, transform = rows(1), power_sgd(2)
    state = transform.init(x[0], SHAPES, 10)
    quiet = x.clone()
    quiet[:, : 24 * 30] = 0
    _, state = transform.apply(Message(quiet, SHAPES), state, cohort(1))
    x[:, : 24 * 30] = torch.outer(torch.arange(24.0) - 5, torch.arange(30.0)).double().flatten()
    message, state = transform.apply(Message(x, SHAPES), state, cohort(1, 2))
    torch.testing.assert_close(message.delta[:, : 24 * 30], x[:, : 24 * 30], atol=1e-8, rtol=0)


def test_32_bits_have_a_place_in_a_chain():
    x = rows().float()
    assert torch.equal(once(chain(top_k(0.1), quantize(32)), x), once(top_k(0.1), x))
    assert torch.equal(once(chain(rotate(), qsgd(32)), x), once(rotate(), x))


def test_a_threshold_keeps_what_reaches_it_however_much_that_is():
    x = rows()
    got = once(threshold(2.0), x)
    assert torch.equal(got, x * (x.abs() >= 2.0))
    assert len({int(n) for n in (got != 0).sum(1)}) > 1, "clients differ"
    assert (once(threshold(1e9), x) == 0).all()


def test_random_k_is_unbiased_and_no_place_travels():
    x, n = rows(1), 4000
    mean = sum(once(random_k(0.1), x, t) for t in range(n)) / n
    error = (mean - x).norm() / x.norm()
    assert error < 4 * math.sqrt(9 / n), "of one draw it is sqrt(d / k - 1) = 3"
    message, _ = random_k(0.1).apply(Message(x, SHAPES), None, cohort(1))
    assert wire.sizes(message)[0].tolist()[1:] == [0, 8 * round(0.1 * D)]


def test_random_k_differs_from_client_to_client_and_round_to_round():
    x = rows(1).expand(3, -1)
    places = [
        tuple(row.nonzero().flatten().tolist())
        for t in (1, 2)
        for row in once(random_k(0.05), x, t)
    ]
    assert len(set(places)) == 6


def test_power_sgd_at_full_rank_is_the_identity():
    torch.testing.assert_close(once(power_sgd(24), rows()), rows(), atol=1e-12, rtol=0)


def test_power_sgd_finds_a_matrix_of_its_rank_in_one_round_and_the_rest_is_whole():
    x = rows()
    low = torch.randn(
        3, 24, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)
    ) @ torch.randn(3, 4, 30, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    x[:, : 24 * 30] = low.flatten(1)
    x[:, 24 * 30 + 24 : -6] = (
        x[:, 24 * 30 + 24 : -6].reshape(3, 6, 12)[:, :1].expand(3, 6, 12).reshape(3, 72)
    )
    torch.testing.assert_close(once(power_sgd(4), x), x, atol=1e-9, rtol=0)
    message, _ = power_sgd(4).apply(
        Message(x, SHAPES), power_sgd(4).init(x[0], SHAPES, 10), cohort()
    )
    assert message.values.shape[1] == 4 * (24 + 30) + 24 + 72 + 6, (
        "6 x 12 is no smaller as its factors of rank 4"
    )


def test_power_sgd_comes_nearer_to_the_best_low_rank_matrix_as_it_remembers():
    x, transform = rows(), power_sgd(2)
    state, errors = transform.init(x[0], SHAPES, 10), []
    for t in range(1, 30):
        message, state = transform.apply(Message(x, SHAPES), state, cohort(3, t))
        errors.append((message.delta - x)[:, : 24 * 30].norm(dim=1))
    best = torch.linalg.svdvals(x[:, : 24 * 30].view(3, 24, 30))[:, 2:].norm(dim=1)
    assert (errors[0] > 1.02 * best).all()
    torch.testing.assert_close(errors[-1], best, rtol=1e-3, atol=0)


def test_a_rotation_keeps_lengths_and_is_undone():
    x = rows()
    message, _ = rotate().apply(Message(x, SHAPES), None, cohort())
    torch.testing.assert_close(message.values.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(message.delta, x, atol=1e-12, rtol=0)
    assert message.values.abs().max() < 0.5 * x.abs().max(), (
        "no number stands out as much as before"
    )


def test_rotated_numbers_quantise_better_where_some_stand_out():
    x = rows()
    error = {
        name: (once(t, x) - x).norm()
        for name, t in {"as is": quantize(4), "rotated": chain(rotate(), quantize(4))}.items()
    }
    assert error["rotated"] < 0.5 * error["as is"]


def test_a_cast_halves_the_bytes():
    x = rows().float()
    for dtype, digits in {"float16": 2**-11, "bfloat16": 2**-8}.items():
        message, _ = cast(dtype).apply(Message(x, SHAPES), None, cohort())
        assert wire.sizes(message)[0, 2] == 2 * D
        assert ((message.delta - x).abs() <= digits * x.abs() + 1e-7).all()


def test_entropy_pays_where_levels_are_few_and_never_costs():
    x = rows()
    for upload, ratio in {terngrad(): 0.75, quantize(8, bucket=64): 1.0, identity(): 1.0}.items():
        plain, packed = (
            wire.sizes(t.apply(Message(x, SHAPES), t.init(x[0], SHAPES, 10), cohort())[0])[
                :, 2
            ].sum()
            for t in (upload, chain(upload, lossless()))
        )
        assert packed <= ratio * plain


# What is remembered


@pytest.mark.parametrize(
    "inner",
    [
        top_k(0.05),
        top_k_per_layer(0.05),
        random_k(0.1, scale=1),
        threshold(2.0),
        power_sgd(2),
        one_bit(),
        sign(),
        quantize(3),
    ],
    ids=lambda transform: transform.apply.__qualname__.split(".")[0],
)
def test_error_feedback_telescopes(inner):
    """Everything sent, and the rest, add up to all updates."""
    transform, state = error_feedback(inner), None
    state, wanted, sent = transform.init(rows()[0], SHAPES, 10), 0, 0
    for t in range(1, 9):
        x = rows(3, t)
        message, state = transform.apply(Message(x, SHAPES), state, cohort(3, t))
        wanted, sent = wanted + x, sent + message.delta
    residual = state[0][np.arange(3)]
    torch.testing.assert_close(sent + residual, wanted, atol=1e-10, rtol=0)
    assert not torch.allclose(sent, wanted)


def test_error_feedback_of_top_k_is_exact_to_the_bit_and_waits_for_its_client():
    transform = error_feedback(top_k(0.1))
    state = transform.init(rows().float()[0], SHAPES, 10)
    sent_message, state = transform.apply(
        Message(rows().float(), SHAPES), state, cohort(ids=[2, 5, 7])
    )
    left = rows().float() - sent_message.delta
    _, state = transform.apply(Message(rows(1, 2).float(), SHAPES), state, cohort(1, 2, [4]))
    again, state = transform.apply(Message(rows(1, 3).float(), SHAPES), state, cohort(1, 3, [5]))
    assert torch.equal(state[0][np.array([2, 7])], left[[0, 2]]), (
        "those who were not there keep theirs"
    )
    assert torch.equal(again.delta + state[0][np.array([5])], rows(1, 3).float() + left[[1]])


def test_momentum_is_the_running_mean_of_what_a_client_has_seen():
    transform = chain(momentum(0.5), top_k(1.0))
    state = transform.init(rows()[0], SHAPES, 10)
    first, state = transform.apply(Message(rows(), SHAPES), state, cohort())
    second, state = transform.apply(Message(rows(3, 2), SHAPES), state, cohort(3, 2))
    torch.testing.assert_close(first.delta, 0.5 * rows())
    torch.testing.assert_close(second.delta, 0.25 * rows() + 0.5 * rows(3, 2))


def test_who_has_no_news_sends_nothing_and_its_last_row_counts_again():
    transform = lazy(quantize(8), threshold=0.01)
    state, x = transform.init(rows()[0], SHAPES, 10), rows()
    first, state = transform.apply(Message(x, SHAPES), state, cohort())
    x[1] = rows(1, 2)[0]
    second, state = transform.apply(Message(1.01 * x, SHAPES), state, cohort(3, 2))
    assert torch.equal(second.delta[[0, 2]], first.delta[[0, 2]])
    assert not torch.equal(second.delta[1], first.delta[1])
    total = wire.sizes(second).sum(1)
    assert total[0] == total[2] == 8 < total[1], "a frame that says so"
    assert wire.unpack(wire.pack(second, 0), SHAPES) is None
    third, state = transform.apply(Message(2 * x[[0]], SHAPES), state, cohort(1, 3))
    assert not torch.equal(third.delta[0], first.delta[0]), "enough news"


def test_skipped_rounds_are_made_up_for():
    transform = accumulate(3)
    state, sent = transform.init(rows()[0], SHAPES, 10), []
    for t in range(1, 7):
        message, state = transform.apply(Message(rows(2, t), SHAPES), state, cohort(2, t, [3, 8]))
        sent.append(message.delta)
        assert (wire.sizes(message).sum(1) == 8).all() == bool(t % 3)
    assert all((row == 0).all() for t, row in enumerate(sent, 1) if t % 3)
    torch.testing.assert_close(sent[2], sum(rows(2, t) for t in (1, 2, 3)))
    torch.testing.assert_close(sent[5], sum(rows(2, t) for t in (4, 5, 6)))


# What does not go together


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: chain(quantize(4), top_k(0.1)),
            "top_k must not follow quantize .it needs numbers, and codes .*. Try the order",
        ),
        (lambda: chain(qsgd(4), rotate()), "rotate must not follow qsgd .it needs numbers"),
        (
            lambda: chain(qsgd(4), quantize(2)),
            "quantize must not follow qsgd .it needs numbers, and codes are only the names of",
        ),
        (
            lambda: chain(qsgd(4), threshold(1.0)),
            "threshold must not follow qsgd .it needs numbers",
        ),
        (lambda: chain(qsgd(4), lazy()), "lazy must not follow qsgd .it needs numbers"),
        (lambda: chain(sign(), cast()), "cast must not follow sign .it needs numbers"),
        (lambda: chain(lossless(), top_k(0.1)), "top_k must not follow lossless .it needs numbers"),
        (
            lambda: chain(lossless(), lossless()),
            "lossless must not follow lossless .it compresses bytes, and once is enough",
        ),
        (
            lambda: chain(top_k(0.1), error_feedback(sign())),
            "error_feedback must not follow top_k .it needs whole updates",
        ),
        (
            lambda: chain(rotate(), power_sgd(2)),
            "power_sgd must not follow rotate .it needs whole updates",
        ),
        (
            lambda: chain(top_k(0.1), terngrad()),
            "terngrad must not follow top_k .it needs whole updates",
        ),
        (
            lambda: chain(top_k(0.1), top_k_per_layer(0.1)),
            "top_k_per_layer must not follow top_k .it needs whole updates",
        ),
        (
            lambda: chain(threshold(1.0), rotate()),
            "rotate must not follow threshold .it needs equally many numbers per client",
        ),
        (
            lambda: chain(threshold(1.0), quantize(4)),
            "quantize must not follow threshold .it needs equally many numbers per client",
        ),
        (
            lambda: chain(threshold(1.0), kmeans(4)),
            "kmeans must not follow threshold .it needs equally many",
        ),
        (
            lambda: chain(threshold(1.0), one_bit()),
            "one_bit must not follow threshold .it needs equally many",
        ),
        (
            lambda: chain(lazy(), quantize(8)),
            "quantize must not follow lazy .it cannot tell which clients send.. Try putting it",
        ),
        (
            lambda: chain(accumulate(2), top_k(0.1)),
            "top_k must not follow accumulate .it cannot tell which clients send.. Try putting",
        ),
        (
            lambda: chain(accumulate(2), momentum()),
            "momentum must not follow accumulate .it cannot tell which clients send",
        ),
        (
            lambda: chain(rotate(), rotate()),
            "rotate must not be in a chain 2 times .once is enough",
        ),
        (
            lambda: chain(top_k(0.1), count_sketch(9)),
            "count_sketch must not follow top_k .it needs whole updates",
        ),
        (
            lambda: lazy(count_sketch(9)),
            "lazy must not contain count_sketch .a silent client .*, and this makes sketches",
        ),
        (
            lambda: accumulate(2, count_sketch(9)),
            "accumulate must not contain count_sketch .a silent client",
        ),
        (
            lambda: lazy(threshold=1),
            "threshold=1 must be at least 0 and below 1 .where no client would ever send",
        ),
        (
            lambda: count_sketch(9, depth=4),
            "depth=4 must be odd .the median is one of the rows.. Try 5",
        ),
        (lambda: chain(), "chain.. must have a transform.* Try identity"),
        (
            lambda: error_feedback(error_feedback(top_k(0.1))),
            "error_feedback must not contain error_feedback: it has a memory of errors already",
        ),
        (
            lambda: error_feedback(random_k(0.1)),
            "error_feedback must not contain random_k: its numbers are 10 times too large",
        ),
        (
            lambda: error_feedback(momentum()),
            "error_feedback must not contain momentum: .* Try chain.momentum.., error_feedback",
        ),
        (
            lambda: error_feedback(lazy()),
            "error_feedback must not contain lazy: the update .* Try lazy.error_feedback",
        ),
        (
            lambda: error_feedback(count_sketch(9)),
            "error_feedback must not contain count_sketch: fetchsgd remembers",
        ),
        (lambda: top_k(0.0), r"fraction=0.0 must be above 0 and at most 1"),
        (lambda: top_k(2), r"fraction=2 must be above 0 and at most 1"),
        (lambda: random_k(0.1, scale=-1), r"scale=-1 must be above 0, or None"),
        (lambda: threshold(0), r"tau=0 must be above 0 .it is in the units of the updates"),
        (lambda: momentum(1.0), r"beta=1.0 must be at least 0 and below 1"),
        (lambda: power_sgd(0), r"rank=0 must be a whole number of at least 1"),
        (lambda: lazy(threshold=-1), r"threshold=-1 must be at least 0"),
        (lambda: accumulate(0), r"every=0 must be a whole number of at least 1"),
        (lambda: cast("float8"), r"dtype='float8' must be 'float16' or 'bfloat16'"),
        (lambda: qsgd(1), r"bits=1 must be a whole number of at least 2"),
        (lambda: qsgd(17), r"bits=17 must be 2 to 16, or 32"),
        (lambda: qsgd(4, norm="l1"), r"norm='l1' must be 'l2' or 'max'"),
        (lambda: quantize(4, bucket=0), r"bucket=0 must be a whole number of at least 1"),
        (lambda: eden(9), r"bits=9 must be at most 8"),
        (lambda: terngrad(0), r"clip=0 must be above 0"),
    ],
)
def test_what_cannot_be_says_why(make, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        make()


def test_a_memory_needs_the_result_of_a_call():
    with pytest.raises(
        ValueError, match=r"^transform=top_k must be the result of a call .*Try top"
    ):
        error_feedback(top_k)

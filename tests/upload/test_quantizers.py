"""Quantizers: unbiased where the paper says so, within its bound, at its bits."""

import itertools
import math

import numpy as np
import pytest
import torch

from fedlab.core import Cohort, Message, generator
from fedlab.upload import (
    accumulate,
    cast,
    chain,
    eden,
    error_feedback,
    identity,
    kmeans,
    lazy,
    lloyd_max,
    momentum,
    one_bit,
    power_sgd,
    qsgd,
    quantize,
    random_k,
    rotate,
    scaled_sign,
    sign,
    terngrad,
    threshold,
    top_k,
    top_k_per_layer,
    top_k_within,
    wire,
)
from fedlab.upload.codes import in_buckets

SHAPES = {"a": torch.Size((30, 40)), "b": torch.Size((30,))}
D = 1230
DRAWS = 2000


def row():
    return torch.from_numpy(generator(0, "row").standard_normal(D)) * torch.linspace(
        0.1, 2, D, dtype=torch.double
    )


def many(transform, x, n=DRAWS):
    """Decode the same row from ``n`` clients, each with its own draws: ``[n, d]``."""
    x = x.expand(n, -1)
    message, _ = transform.apply(
        Message(x, SHAPES), transform.init(x[0], SHAPES, n), Cohort(np.arange(n), 1, 0, n)
    )
    return message.delta


def one(transform, x):
    return many(transform, x, 1)[0]


QSGD = [
    (bits, bucket, norm)
    for bits in (2, 3, 4, 8)
    for bucket in (None, 100)
    for norm in ("l2", "max")
]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "bucket", "norm"), QSGD)
def test_qsgd_is_unbiased_and_within_its_bound(bits, bucket, norm):
    x, s = row(), 2 ** (bits - 1) - 1
    got = many(qsgd(bits, bucket=bucket, norm=norm), x)
    n = bucket or D
    bound = min(n / s**2, math.sqrt(n) / s)
    error = (got - x).square().sum(1) / x.square().sum()
    assert error.mean() <= bound
    assert (got.mean(0) - x).norm() / x.norm() < 4 * math.sqrt(error.mean() / DRAWS), (
        "the mean of many draws goes to x"
    )
    parts = x.split(n)
    step = (
        torch.cat([(p.norm() if norm == "l2" else p.abs().max()).expand(len(p)) for p in parts]) / s
    )
    levels = got / step
    torch.testing.assert_close(levels, levels.round(), atol=1e-9, rtol=0)
    assert (levels.round().abs() <= s).all()
    assert ((levels.round() - x / step).abs() < 1 + 1e-9).all(), "the level below or the one above"


def test_qsgd_by_hand():
    """|x| = (3, 4, 0) has the norm 5 and, with 3 levels, l = 1.8, 2.4 and 0."""
    x = torch.tensor([3.0, -4.0, 0.0]).double()
    transform, shapes = qsgd(3, bucket=None, norm="l2"), {"x": torch.Size((3,))}
    cohort = Cohort(np.arange(5000), 1, 0, 5000)
    message, _ = transform.apply(Message(x.expand(5000, -1), shapes), None, cohort)
    levels = (message.delta * 3 / 5).round()
    assert {tuple(row) for row in levels.tolist()} == {
        (a, b, 0.0) for a in (1.0, 2.0) for b in (-2.0, -3.0)
    }
    shares = (levels[:, 0] == 2).double().mean(), (levels[:, 1] == -3).double().mean()
    assert shares[0] == pytest.approx(0.8, abs=0.03)
    assert shares[1] == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("make", [qsgd, quantize])
def test_32_bits_are_the_identity(make):
    assert make(32).is_identity
    assert torch.equal(one(make(32), row().float()), row().float())


@pytest.mark.parametrize(("bits", "share"), [(8, 0.281), (16, 0.531)])
def test_b_bits_and_a_sign_are_that_share_of_a_float(bits, share):
    d = 100_000
    x = torch.randn(1, d, generator=torch.Generator().manual_seed(0))
    shapes = {"x": torch.Size((d,))}
    bits_each = bits + 1 if bits < 16 else 16
    message, _ = qsgd(bits_each, bucket=None).apply(
        Message(x, shapes), None, Cohort(np.zeros(1, dtype=int), 1, 0, 1)
    )
    values = wire.sizes(message)[0, 2] - 4
    assert values / (4 * d) == pytest.approx(bits_each / 32, abs=1e-5)
    if bits == 8:
        assert values / (4 * d) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("bucket", [None, 100])
def test_quantize_is_within_half_a_step(bits, bucket):
    x = row()
    got = one(quantize(bits, bucket=bucket), x)
    for part, quantized in zip(x.split(bucket or D), got.split(bucket or D), strict=True):
        step = (part.max() - part.min()) / (2**bits - 1)
        assert (quantized - part).abs().max() <= step / 2 * (1 + 1e-9)
        assert len(quantized.unique()) <= 2**bits
        torch.testing.assert_close(quantized.min(), part.min())
        torch.testing.assert_close(quantized.max(), part.max())


def test_sign_and_scaled_sign():
    x = torch.tensor([3.0, -1.0, 0.0, -2.0])
    shapes, cohort = {"x": torch.Size((4,))}, Cohort(np.zeros(1, dtype=int), 1, 0, 1)

    def send(transform):
        return transform.apply(Message(x[None], shapes), None, cohort)[0].delta[0].tolist()

    assert send(sign()) == [1, -1, 1, -1]
    assert send(scaled_sign()) == [1.5, -1.5, 1.5, -1.5]
    assert send(scaled_sign(bucket=2)) == [2, -2, 1, -1]
    assert send(one_bit()) == [1.5, -1.5, 1.5, -1.5]
    assert send(one_bit(bucket=3)) == [1.5, -1, 1.5, -2]


def test_scaled_sign_is_a_contraction_of_the_papers_density():
    """|x - C(x)|^2 = (1 - |x|_1^2 / (d |x|_2^2)) |x|^2.  Karimireddy et al. 2019, Lemma 8."""
    x = row()
    density = x.abs().sum() ** 2 / (D * x.square().sum())
    torch.testing.assert_close(
        (one(scaled_sign(), x) - x).square().sum(), (1 - density) * x.square().sum()
    )


def test_one_bit_has_the_means_of_either_side_and_so_keeps_the_sum():
    x = row()
    for part, quantized in zip(x.split(512), one(one_bit(), x).split(512), strict=True):
        torch.testing.assert_close(
            quantized[part >= 0], part[part >= 0].mean().expand((part >= 0).sum())
        )
        torch.testing.assert_close(
            quantized[part < 0], part[part < 0].mean().expand((part < 0).sum())
        )


def test_terngrad_is_unbiased_with_three_levels_a_tensor():
    x = row()
    got = many(terngrad(math.inf), x)
    for part, quantized in zip(x.split([1200, 30]), got.split([1200, 30], 1), strict=True):
        s = part.abs().max()
        assert set(quantized.unique().tolist()) <= {-s.item(), 0.0, s.item()}
        assert (quantized.mean(0) - part).norm() < 4 * math.sqrt(
            (quantized - part).square().sum(1).mean() / DRAWS
        )


def test_terngrad_of_a_tensor_of_zeros_is_zeros():
    x = row()
    x[1200:] = 0
    for clip in (2.5, math.inf):
        assert (one(terngrad(clip), x)[1200:] == 0).all()


def test_levels_for_a_normal_distribution_are_right_at_8_bits_too():
    """The error of the best levels is about sqrt(3) pi / 2 / 4^b (Panter & Dite 1951)."""
    x = torch.randn(1, 500_000, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    shapes = {"x": torch.Size((500_000,))}
    message, _ = lloyd_max(8).apply(
        Message(x, shapes), None, Cohort(np.zeros(1, dtype=int), 1, 0, 1)
    )
    error = (message.delta - x).square().sum() / x.square().sum()
    assert error == pytest.approx(3**0.5 * math.pi / 2 / 4**8, rel=0.05)


def test_terngrad_clips_at_so_many_deviations():
    x = row()
    sigma = x[:1200].square().mean().sqrt()
    assert one(terngrad(), x)[:1200].abs().max() == pytest.approx(2.5 * sigma)
    clipped = x[:1200].clamp(-2.5 * sigma, 2.5 * sigma)
    mean = many(terngrad(), x)[:, :1200].mean(0)
    assert (mean - clipped).norm() < (mean - x[:1200]).norm()


def test_kmeans_is_better_than_even_levels_and_finds_levels_that_are_there():
    x = row() ** 3
    assert (one(kmeans(3), x) - x).norm() < 0.7 * (one(quantize(3), x) - x).norm()
    four = torch.tensor([-5.0, 0.1, 0.3, 9.0]).double()[
        torch.from_numpy(generator(0).integers(4, size=D))
    ]
    assert len(one(kmeans(4), four).unique()) == 4
    torch.testing.assert_close(one(kmeans(4), four), four, atol=1e-9, rtol=0)


NORMAL = {
    1: 0.3634,
    2: 0.1175,
    3: 0.03454,
    4: 0.009497,
}  # the least mean squared errors for N(0, 1), Max 1960, table I


@pytest.mark.parametrize("bits", NORMAL)
def test_lloyd_max_has_the_published_error_for_normal_numbers(bits):
    """Unbiased, its error is e / (1 - e) for the smallest error e: Vargaftik 2022, Theorem 2.3."""
    x = torch.randn(1, 200_000, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    shapes = {"x": torch.Size((200_000,))}
    message, _ = lloyd_max(bits).apply(
        Message(x, shapes), None, Cohort(np.zeros(1, dtype=int), 1, 0, 1)
    )
    error = (message.delta - x).square().sum() / x.square().sum()
    assert error == pytest.approx(NORMAL[bits] / (1 - NORMAL[bits]), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_eden_is_unbiased_whatever_the_row(bits):
    """Also where some numbers are many times larger than others, with the error for normal ones."""
    x = torch.from_numpy(generator(0, "blocks").standard_normal(2048)) ** 3
    shapes, cohort = {"x": torch.Size((2048,))}, Cohort(np.arange(DRAWS), 1, 0, DRAWS)
    message, _ = eden(bits).apply(Message(x.expand(DRAWS, -1), shapes), [None, None], cohort)
    got = message.delta
    error = (got - x).square().sum(1).mean() / x.square().sum()
    assert error == pytest.approx(NORMAL[bits] / (1 - NORMAL[bits]), rel=0.1)
    assert (got.mean(0) - x).norm() / x.norm() < 4 * math.sqrt(error / DRAWS) + 0.01


def test_rotating_makes_unbiased_quantising_more_exact():
    x = row() * 0.01
    x[7] = 3.0
    bits = {name: (many(t, x, 100) - x).square().sum() for name, t in _pairs().items()}
    assert bits["rotated"] < 0.2 * bits["as is"]


def _pairs():
    return {"as is": qsgd(3, bucket=None), "rotated": chain(rotate(), qsgd(3, bucket=None))}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_fewer_numbers_and_then_fewer_bits_are_both_counted(bits):
    x = row().float()
    message, _ = chain(top_k(0.1), qsgd(bits)).apply(
        Message(x[None], SHAPES), [None, None], Cohort(np.zeros(1, int), 1, 0, 1)
    )
    header, indices, values = wire.sizes(message)[0]
    assert values == -(-123 * bits // 8) + 4
    assert 0 < indices < 123
    assert header < 100
    dense, _ = identity().apply(Message(x[None], SHAPES), None, None)
    assert wire.sizes(dense)[0, 2] == 4 * D


@pytest.mark.parametrize(
    "sizes", [(4, 4, 4), (4, 4, 2), (5,), (5, 7), (7, 5), (3, 3, 8), (2, 9, 1), (1, 1, 1)]
)
def test_numbers_are_changed_bucket_by_bucket(sizes):
    x, each = torch.rand(3, sum(sizes)), torch.rand(3, len(sizes)) + 1
    wanted = x * each.repeat_interleave(torch.tensor(sizes), 1)
    changed = in_buckets(x, each, sizes, torch.Tensor.mul_)
    assert torch.equal(changed, wanted)
    assert torch.equal(x, wanted), "in place"


EVERYONE = {
    "whole": identity(),
    "top_k": top_k(0.3),
    "top_k_per_layer": top_k_per_layer(0.3),
    "threshold": threshold(0.5),
    "random_k": random_k(0.5),
    "power_sgd": power_sgd(1),
    "rotate": rotate(),
    "cast": cast(),
    "qsgd": qsgd(4),
    "qsgd l2": qsgd(4, norm="l2", bucket=None),
    "quantize": quantize(4),
    "quantize 16": quantize(16, bucket=3),
    "sign": sign(),
    "scaled_sign": scaled_sign(),
    "one_bit": one_bit(),
    "terngrad": terngrad(),
    "terngrad unclipped": terngrad(math.inf),
    "kmeans": kmeans(2),
    "lloyd_max": lloyd_max(2),
    "eden": eden(1),
    "feedback": error_feedback(chain(top_k(0.3), qsgd(4))),
    "momentum": momentum(),
    "lazy": lazy(),
    "accumulate": accumulate(1),
    "within": top_k_within("1 MB up per client", rounds=3),
}
MODELS = {
    "usual": [(3, 4), (3,)],
    "an empty tensor": [(3, 4), (0,), (3,)],
    "an empty matrix": [(0, 4), (2,)],
    "one number": [(1,)],
    "a tensor without dimensions": [(), (2, 2)],
    "no number at all": [(0,)],
}
ROWS = {
    "zeros": torch.zeros,
    "subnormal": lambda m, d: 1e-41 * torch.ones(m, d).cumsum(1),
    "all alike": lambda m, d: torch.full((m, d), 2.5),
    "one of zeros": lambda m, d: torch.ones(m, d).cumsum(1) * torch.arange(m)[:, None],
    "beyond a square": lambda m, d: 1e30 * (torch.arange(m * d).view(m, d) % 3 - 1),
    "huge": lambda m, d: 3e38 * (torch.arange(m * d).view(m, d) % 3 - 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYONE)
def test_rows_of_every_size_and_kind_come_out_alike_on_both_sides(name):
    """Numbers that do not fit in a float are non-finite, which both sides see."""
    transform = EVERYONE[name]
    for (model, sizes), (kind, rows), m in itertools.product(MODELS.items(), ROWS.items(), (1, 2)):
        shapes = {str(i): torch.Size(size) for i, size in enumerate(sizes)}
        x = rows(m, sum(shape.numel() for shape in shapes.values()))
        state = transform.init(torch.zeros(x.shape[1]), shapes, 3)
        message, _ = transform.apply(Message(x, shapes), state, Cohort(np.arange(m), 1, 0, 3))
        assert message.delta.shape == x.shape, (model, kind)
        if message.delta.isfinite().all():
            assert torch.equal(wire.round_trip(message), message.delta), (model, kind)
            assert wire.sizes(message).sum(1).tolist() == [
                len(wire.pack(message, i)) for i in range(m)
            ]
        else:
            assert kind in ("beyond a square", "huge"), (model, kind)
            with pytest.raises(wire.WireError, match="not finite"):
                wire.round_trip(message)

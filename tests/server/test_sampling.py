import numpy as np
import pytest

from fedlab.core import generator
from fedlab.server import by_availability, by_size, day_and_night, poisson, uniform
from fedlab.server.sampling import _inclusion

TEN = np.full(10, 7)
SIZES = np.array([40, 0, 3, 1, 12, 8, 0, 20, 6, 10])
DRAWS = 2500


def drawn(sampler, sizes, draws=DRAWS, round=1):
    """How often each client was drawn, ``[N]``, and how large the cohorts were, ``[draws]``."""
    cohorts = [sampler(sizes, round, generator(0, t)) for t in range(draws)]
    assert all((np.diff(ids) > 0).all() for ids in cohorts), "different clients, ascending"
    return np.bincount(np.concatenate(cohorts), minlength=len(sizes)), np.array(
        [len(ids) for ids in cohorts]
    )


def as_likely_as(counts, p, draws=DRAWS):
    """Counts of independent draws with probability ``p`` lie within 4.5 standard deviations."""
    return (np.abs(counts - draws * p) <= 4.5 * np.sqrt(draws * p * (1 - p)) + 1e-9).all()


def test_uniform_draws_everyone_alike():
    counts, sizes = drawn(uniform(3), TEN)
    assert (sizes == 3).all()
    assert as_likely_as(counts, np.full(10, 0.3))
    assert uniform(10)(TEN, 1, generator(0)).tolist() == list(range(10))


def test_uniform_draws_what_it_always_drew():
    """Committed numbers hang on these draws."""
    assert (
        uniform(3)(TEN, 1, generator(0, "cohort", 1)).tolist()
        == np.sort(generator(0, "cohort", 1).choice(10, 3, replace=False)).tolist()
    )


def test_poisson_draws_each_client_independently():
    counts, sizes = drawn(poisson(0.3), TEN)
    assert as_likely_as(counts, np.full(10, 0.3))
    assert sizes.min() == 0, "a cohort may be empty"
    assert abs(sizes.var() - 10 * 0.3 * 0.7) < 0.27, (
        "the variance of a binomial, which independence gives"
    )
    assert poisson(1.0)(TEN, 1, generator(0)).tolist() == list(range(10))


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_by_size_draws_in_proportion_to_the_sizes(k):
    counts, sizes = drawn(by_size(k), SIZES)
    assert (sizes == k).all()
    p = np.zeros(10)
    p[SIZES > 0] = _inclusion(SIZES[SIZES > 0].astype(float), k)
    assert as_likely_as(counts, p)


def test_who_is_too_large_for_a_proportion_is_always_taken():
    """By hand: 4 * 40 / 100 is over 1, and so is 3 * 20 / 60; the others share two by size."""
    p = _inclusion(np.array([40.0, 3, 1, 12, 8, 20, 6, 10]), 4)
    np.testing.assert_allclose(p, [1, 6 / 40, 2 / 40, 24 / 40, 16 / 40, 1, 12 / 40, 20 / 40])
    np.testing.assert_allclose(_inclusion(np.ones(5), 5), 1)
    assert by_size(8)(SIZES, 1, generator(0)).tolist() == np.flatnonzero(SIZES).tolist()


def test_by_size_and_the_plain_mean_are_unbiased_where_weights_by_size_count_them_twice():
    """Exactly, by the probabilities: the mean over cohorts of the aggregates of ``value``."""
    sizes, value, k = np.array([5.0, 1, 2, 2]), np.array([1.0, -3, 2, 8]), 2
    p = _inclusion(sizes, k)
    assert p @ value / k == pytest.approx(sizes @ value / sizes.sum())
    cohorts = [by_size(k)(sizes, 1, generator(1, t)) for t in range(DRAWS)]
    plain = np.mean([value[ids].mean() for ids in cohorts])
    twice = np.mean([np.average(value[ids], weights=sizes[ids]) for ids in cohorts])
    truth, error = sizes @ value / sizes.sum(), 4.5 * 3 / np.sqrt(DRAWS)
    assert abs(plain - truth) < error < abs(twice - truth)


def test_by_availability_draws_among_those_who_are_there():
    present = np.array([1.0, 1, 0, 0.5, 0, 0, 0, 0, 0, 0])
    counts, sizes = drawn(by_availability(2, present), TEN)
    assert counts[[2, *range(4, 10)]].sum() == 0
    assert (sizes == 2).all(), "two are always there"
    assert as_likely_as(
        counts[:4], np.array([0.5 + 0.5 * 2 / 3, 0.5 + 0.5 * 2 / 3, 0, 0.5 * 2 / 3])
    )
    _, sizes = drawn(by_availability(8, 0.3), TEN)
    assert sizes.min() == 0
    assert sizes.mean() == pytest.approx(3, abs=0.14), "all who are there, where they are fewer"


def test_day_and_night():
    rhythm = day_and_night(10, rounds_per_day=4, awake=0.9, asleep=0.1)
    for t in (1, 2, 5, 6):
        assert rhythm(t).tolist() == [0.9] * 5 + [0.1] * 5
    for t in (3, 4, 7, 8):
        assert rhythm(t).tolist() == [0.1] * 5 + [0.9] * 5
    sampler = by_availability(3, day_and_night(10))
    assert set(sampler(TEN, 12, generator(0))) <= set(range(5))
    assert set(sampler(TEN, 13, generator(0))) <= set(range(5, 10))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform(0), "cohort_size=0"),
        (lambda: by_size(0), "cohort_size=0"),
        (lambda: by_availability(0, 1.0), "cohort_size=0"),
        (lambda: uniform(2.5), "cohort_size=2.5 must be a whole number of at least 1"),
        (lambda: uniform(float("nan")), "cohort_size=nan must be a whole number of at least 1"),
        (lambda: by_size(2.5), "cohort_size=2.5"),
        (lambda: by_availability(2.5, 1.0), "cohort_size=2.5"),
        (lambda: poisson("0.1"), "rate='0.1' must be above 0 and at most 1 .a probability"),
        (lambda: day_and_night(-3), "num_clients=-3 must be a whole number of at least 1"),
        (
            lambda: day_and_night(10, rounds_per_day=float("nan")),
            "rounds_per_day=nan must be a whole number of at least 2",
        ),
        (
            lambda: uniform(11)(TEN, 1, generator(0)),
            "cohort_size=11 must be at most 10 .there are 10 clients.. Try 10",
        ),
        (
            lambda: by_size(9)(SIZES, 1, generator(0)),
            "cohort_size=9 must be at most 8 .there are 8 clients that hold examples",
        ),
        (lambda: poisson(0), "rate=0"),
        (lambda: poisson(1.1), "rate=1.1"),
        (lambda: poisson(float("nan")), "rate=nan"),
        (lambda: by_availability(2, 1.5), "present=1.5"),
        (lambda: by_availability(2, [0.5, float("nan")]), "present=nan"),
        (lambda: by_availability(2, "half"), "present=half"),
        (lambda: by_availability(2, None), "present=None"),
        (lambda: by_availability(2, lambda t: -0.5)(TEN, 1, generator(0)), "present=-0.5"),
        (
            lambda: by_availability(2, [0.5, 0.5])(TEN, 1, generator(0)),
            "must have 10 probabilities, one per client .it has 2",
        ),
        (lambda: day_and_night(10, rounds_per_day=1), "rounds_per_day=1"),
        (lambda: day_and_night(10, awake=2), "present=2"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

import numpy as np
import pytest
import torch

from fedlab.data import fcube, synthetic

SOME = {
    "synthetic": lambda seed: synthetic(1, 1, clients=8, seed=seed),
    "fcube": lambda seed: fcube(seed=seed),
}


@pytest.mark.parametrize("make", SOME.values(), ids=SOME)
def test_disjoint_complete_and_drawn_from_the_seed(make):
    data, again, second_seed = make(0), make(0), make(1)
    assert (np.concatenate(data.parts) == np.arange(len(data.y))).all()
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)
    assert data.x.shape[1:] == data.test[0].shape[1:]
    assert (data.counts().sum(1) == data.sizes).all()
    assert torch.equal(data.y, again.y)
    for a, b, c in [
        (data.x, again.x, second_seed.x),
        (data.test[0], again.test[0], second_seed.test[0]),
    ]:
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.slow
def test_sizes_follow_the_power_law_of_the_paper():
    data = synthetic(0, 0, clients=1000)
    assert data.sizes.min() >= 45  # 90 % of at least 50
    drawn = np.log(data.sizes / 0.9 - 50 + 0.5)
    large = drawn > 3  # there, rounding says little
    assert np.mean(large) == pytest.approx(0.6915, abs=0.03)  # P(N(4, 4) > 3)
    assert np.median(drawn) == pytest.approx(4, abs=0.15)
    assert np.quantile(drawn, 0.8413) == pytest.approx(6, abs=0.3)
    total = len(data.y) + len(data.test[1])
    assert len(data.y) / total == pytest.approx(0.9, abs=0.01)


def middles(data) -> np.ndarray:
    """The mean of the features at each client, ``[N, 60]``."""
    return np.stack([data.x[part].numpy().mean(0) for part in data.parts])


def test_features_have_the_variances_of_the_paper():
    data = synthetic(0, 0, clients=100)
    within = np.concatenate(
        [data.x[part].numpy() - mean for part, mean in zip(data.parts, middles(data), strict=True)]
    )
    np.testing.assert_allclose(within.var(0), np.arange(1, 61) ** -1.2, rtol=0.1)
    corner = np.corrcoef(within.T) - np.eye(60)
    assert abs(corner).max() < 5 / np.sqrt(len(within) / 10)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0, 1, 3])
def test_beta_is_the_standard_deviation_of_where_clients_lie(beta):
    v = middles(synthetic(0, beta, clients=400))
    b = v.mean(1)  # B_k, to within 1 / sqrt(60)
    assert b.var() == pytest.approx(beta**2 + 1 / 60, rel=0.3)
    assert (v - b[:, None]).std() == pytest.approx(np.sqrt(59 / 60), rel=0.05)


def test_alpha_shifts_every_logit_alike_and_so_no_label():
    """Alpha adds ``u_k (sum x + 1)`` to every logit: the clients' models differ for any alpha."""
    apart, alike = synthetic(5, 0, clients=5), synthetic(0, 0, clients=5)
    assert torch.equal(apart.x, alike.x)
    assert torch.equal(apart.y, alike.y)


def test_one_more_client_leaves_the_others_as_they_are():
    few, many = synthetic(1, 1, clients=3), synthetic(1, 1, clients=4)
    assert torch.equal(few.x, many.x[: len(few.x)])
    assert torch.equal(few.y, many.y[: len(few.y)])


def agreement(data, learn, judge) -> float:
    """Accuracy on the examples ``judge`` of a linear map fitted to the examples ``learn``."""
    w = torch.linalg.lstsq(data.x[learn], torch.eye(10)[data.y[learn]]).solution
    return ((data.x[judge] @ w).argmax(1) == data.y[judge]).float().mean().item()


def test_iid_clients_share_one_model_around_zero():
    data = synthetic(0, 0, iid=True, clients=20)
    assert abs(data.x.mean(0) / data.x.std(0)).max() < 5 / np.sqrt(len(data.x))
    # One linear model gives every client's labels, so a least-squares fit of the other clients
    # predicts those of the first far above chance.
    first, rest = data.parts[0], np.concatenate(data.parts[1:])
    assert agreement(data, rest, first) > 0.6
    apart = synthetic(0, 0, clients=20)
    assert agreement(apart, np.concatenate(apart.parts[1:]), apart.parts[0]) < 0.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: synthetic(-1, 0),
            (
                r"alpha=-1 must be a number from 0 to 1e\+06 \(it is a standard deviation\)\. "
                r"Try alpha=0, 0\.5 or 1, as in the paper"
            ),
        ),
        (lambda: synthetic(0, float("nan")), r"beta=nan"),
        (
            lambda: synthetic(0, 1e39),
            (
                r"beta=1e\+39 must be a number from 0 to 1e\+06 \(it is a standard "
                r"deviation\)\. Try beta=0, 0\.5 or 1, as in the paper"
            ),
        ),
        (lambda: synthetic(float("inf"), 0), r"alpha=inf"),
        (lambda: synthetic("1", 0), r"alpha='1'"),
        (lambda: synthetic(0, 0, clients=0), r"clients=0 must be a whole number of at least 1"),
        (lambda: synthetic(0, 0, clients=2.5), r"clients=2.5 must be a whole number of at least 1"),
        (lambda: fcube(8.0), r"clients=8.0 must be a whole number of at least 4"),
        (
            lambda: synthetic(1, 0, iid=True),
            (
                r"alpha=1 and beta=0 must be 0 with iid=True \(all clients have one model\)\. "
                r"Try alpha=0, beta=0"
            ),
        ),
        (
            lambda: fcube(5),
            (
                r"clients=5 must be a multiple of 4 up to 2000 \(four pairs of octants are "
                r"dealt out\)\. Try clients=4, as in the paper"
            ),
        ),
        (lambda: fcube(0), r"clients=0"),
        (lambda: fcube(2004), r"clients=2004"),
    ],
)
def test_wrong_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("clients", [4, 8, 2000])
def test_fcubes_clients_hold_two_octants_that_lie_opposite(clients):
    data = fcube(clients)
    assert data.x.shape == (4000, 3)
    assert data.test[0].shape == (1000, 3)
    assert (data.sizes == 4000 // clients).all()
    held = [np.unique(np.sign(data.x[part].numpy()), axis=0) for part in data.parts]
    for octants in held:
        assert octants.shape == (2, 3)
        assert (octants[0] == -octants[1]).all()
    assert len(np.unique(np.concatenate(held), axis=0)) == 8
    assert (data.counts() == 2000 // clients).all()  # labels are not skewed


def test_fcubes_points_fill_the_cube_and_the_first_coordinate_is_the_label():
    data = fcube()
    for x, y in ((data.x, data.y), data.test):
        assert abs(x).max() <= 1
        assert abs(abs(x).mean() - 0.5) < 0.02
        assert ((x[:, 0] > 0) == (y == 0)).all()
    assert len(np.unique(np.sign(data.test[0].numpy()), axis=0)) == 8

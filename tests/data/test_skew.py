from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlab.core import FederatedDataset, generator
from fedlab.data import contrast, dirichlet, noise, permute_labels, rotate, scale


def pictures(*shape: int, clients: int = 5, each: int = 8, classes: int = 4) -> FederatedDataset:
    """Random pictures of this shape, equally many per client, numbered client by client."""
    draw, n = generator(0, "pictures"), clients * each
    x = torch.from_numpy(draw.random((n, *shape), dtype=np.float32))
    y = torch.from_numpy(draw.integers(classes, size=n))
    test = torch.ones(3, *shape), torch.zeros(3, dtype=torch.long)
    return FederatedDataset(
        x, y, np.split(np.arange(n), clients), test, "pictures", tuple("abcdefgh"[:classes])
    )


SKEWS = {
    "noise": (noise, 0.5),
    "rotate": (rotate, 30.0),
    "scale": (scale, 2.0),
    "contrast": (contrast, 2.0),
    "permute_labels": (permute_labels, 0.5),
}
STRENGTHS = {name: skew for name, skew in SKEWS.items() if name != "permute_labels"}


@pytest.mark.parametrize("split", ["even", "with empty clients"])
@pytest.mark.parametrize(("skew", "strength"), SKEWS.values(), ids=SKEWS)
def test_seeded_and_nothing_else_touched(skew, strength, split):
    data = pictures(6, 6)
    if split != "even":
        parts = dirichlet(0.05)(data.y.numpy(), 9, generator(0))
        assert min(len(part) for part in parts) == 0
        data = replace(data, parts=parts)
    x, y, parts = data.x.clone(), data.y.clone(), [part.copy() for part in data.parts]
    skewed = skew(data, strength)
    assert torch.equal(data.x, x)
    assert torch.equal(data.y, y)
    assert all((a == b).all() for a, b in zip(data.parts, parts, strict=True))
    assert skewed.parts is data.parts
    assert skewed.test is data.test
    assert (skewed.x.shape, skewed.x.dtype, skewed.y.dtype) == (x.shape, x.dtype, y.dtype)
    again, second_seed = skew(data, strength), skew(data, strength, seed=1)
    assert torch.equal(skewed.x, again.x)
    assert torch.equal(skewed.y, again.y)
    assert not (torch.equal(skewed.x, second_seed.x) and torch.equal(skewed.y, second_seed.y))
    assert skew(data.double(), strength).x.dtype == torch.double


@pytest.mark.parametrize(
    ("skew", "idle"), [(noise, 0), (rotate, 0), (scale, 1), (contrast, 1), (permute_labels, 0)]
)
def test_without_strength_nothing_happens(skew, idle):
    data = pictures(6, 6)
    skewed = skew(data, idle)
    torch.testing.assert_close(skewed.x, data.x, atol=1e-6, rtol=0)
    assert torch.equal(skewed.y, data.y)


def test_examples_that_nobody_holds_stay():
    data = pictures(6, 6)
    subset = replace(data, parts=data.parts[1:])
    for skew, strength in STRENGTHS.values():
        torch.testing.assert_close(skew(subset, strength).x[:8], data.x[:8], atol=1e-6, rtol=0)
        assert not torch.allclose(skew(subset, strength).x[8:], data.x[8:], atol=1e-3)


def test_the_variance_of_noise_grows_linearly_with_the_client():
    data = pictures(30, 30, clients=4, each=50)
    z = noise(data, 0.8).x - data.x
    variances = [z[part].var().item() for part in data.parts]
    assert variances == pytest.approx([0.2, 0.4, 0.6, 0.8], rel=0.05)
    assert abs(z.mean()) < 0.01
    listed = noise(data, [0, 0, 9, 0]).x - data.x
    assert [listed[part].var().item() for part in data.parts] == pytest.approx(
        [0, 0, 9, 0], rel=0.05, abs=1e-9
    )


@pytest.mark.parametrize("shape", [(6, 6), (7, 7), (1, 6, 6), (3, 5, 5)])
def test_a_quarter_turn_is_exact(shape):
    data = pictures(*shape, clients=4)
    turned = rotate(data, [90, 180, -90, 360]).x
    for part, quarters in zip(data.parts, (1, 2, 3, 0), strict=True):
        torch.testing.assert_close(
            turned[part], torch.rot90(data.x[part], quarters, dims=(-2, -1)), atol=1e-5, rtol=0
        )


def test_squares_in_a_row_are_turned_as_pictures():
    data = pictures(8, 8)
    flat = replace(data, x=data.x.flatten(1))
    torch.testing.assert_close(rotate(flat, 40).x, rotate(data, 40).x.flatten(1))


def test_turning_keeps_the_sides_of_an_oblong_apart():
    """A point 4 to the right of the middle of a picture stands 4 above it after a turn by 90."""
    x = torch.zeros(2, 9, 13)
    x[:, 4, 10] = 1
    data = FederatedDataset(x, torch.zeros(2, dtype=torch.long), [np.arange(2)], (x, x), "", ("a",))
    assert (rotate(data, [90]).x[0] > 0.99).nonzero().tolist() == [[0, 6]]


def test_a_turn_back_restores_a_smooth_picture():
    side = torch.linspace(-1, 1, 41)
    blob = torch.exp(-8 * ((side[:, None] - 0.2) ** 2 + 2 * (side[None] + 0.1) ** 2))
    data = FederatedDataset(
        blob[None], torch.zeros(1, dtype=torch.long), [np.arange(1)], (blob, blob), "", ("a",)
    )
    rotated = rotate(data, [37])
    assert (rotated.x - data.x).abs().max() > 0.2
    torch.testing.assert_close(rotate(rotated, [-37]).x, data.x, atol=0.03, rtol=0)


def test_many_pictures_are_turned_as_few_are():
    data = pictures(4, 4, clients=5, each=1000)
    angles = [10, 20, 30, 40, 50]
    alone = replace(data, x=data.x[4000:], y=data.y[4000:], parts=[np.arange(1000)])
    torch.testing.assert_close(rotate(data, angles).x[4000:], rotate(alone, angles[4:]).x)


def test_gains_multiply():
    data = pictures(6, 6)
    gains = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    by_example = gains.repeat_interleave(8)[:, None, None]
    torch.testing.assert_close(scale(data, gains.tolist()).x, data.x * by_example)


def test_contrast_keeps_the_mean_and_scales_the_distance_from_it():
    data = pictures(6, 6)
    gains = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    x, new = data.x.flatten(1), contrast(data, gains.tolist()).x.flatten(1)
    torch.testing.assert_close(new.mean(1), x.mean(1))
    torch.testing.assert_close(new.std(1), x.std(1) * gains.repeat_interleave(8))


@pytest.mark.parametrize("skew", [scale, contrast])
def test_gains_are_spread_evenly_between_a_factor_and_its_inverse(skew):
    data = pictures(2, clients=3000, each=1)
    new = skew(data, 4.0).x - (0 if skew is scale else data.x.mean(1, keepdim=True))
    old = data.x - (0 if skew is scale else data.x.mean(1, keepdim=True))
    logs = (new / old)[:, 0].log() / np.log(4)
    assert logs.abs().max() < 1.01
    assert abs(logs.mean()) < 0.05
    assert logs.std().item() == pytest.approx(3**-0.5, rel=0.05)


def test_angles_are_spread_evenly_between_plus_and_minus():
    """A ramp that is turned by an angle rises along that angle."""
    side = torch.linspace(-1, 1, 21)
    ramp = side.expand(500, 21, 21)
    data = FederatedDataset(
        ramp,
        torch.zeros(500, dtype=torch.long),
        np.split(np.arange(500), 500),
        (ramp, ramp),
        "",
        ("a",),
    )
    new = rotate(data, 60).x[:, 8:13, 8:13]
    right, up = new[:, 2, 4] - new[:, 2, 0], new[:, 0, 2] - new[:, 4, 2]
    angles = torch.rad2deg(torch.atan2(up, right))
    assert angles.abs().max() < 60.1
    assert abs(angles.mean()) < 5
    assert angles.std().item() == pytest.approx(60 / 3**0.5, rel=0.06)


@pytest.mark.parametrize(
    ("share", "affected"), [(0.0, 0), (0.01, 1), (0.3, 3), (0.5, 5), (1.0, 10)]
)
def test_a_share_of_the_clients_permutes_its_labels(share, affected):
    data = pictures(2, clients=10, each=40)
    new = permute_labels(data, share)
    changed = [i for i, part in enumerate(data.parts) if (new.y[part] != data.y[part]).any()]
    assert len(changed) == affected
    for i in changed:
        assert (new.y[data.parts[i]] != data.y[data.parts[i]]).all(), "no class keeps its number"
    assert (np.sort(new.counts(), axis=1) == np.sort(data.counts(), axis=1)).all(), (
        "counts are permuted with the classes"
    )


@pytest.mark.parametrize("concepts", [1, 3, 10])
def test_concepts_are_shared_evenly(concepts):
    data = pictures(2, clients=10, each=200, classes=8)
    new = permute_labels(data, 1.0, concepts=concepts)
    maps = []
    for part in data.parts:
        pairs = {(int(a), int(b)) for a, b in zip(data.y[part], new.y[part], strict=True)}
        assert len(pairs) == 8, "one new number a class"
        assert len({b for _, b in pairs}) == 8, "and no two classes the same"
        maps.append(tuple(sorted(pairs)))
    times = sorted(maps.count(concept) for concept in set(maps))
    assert times == sorted(len(part) for part in np.array_split(np.arange(10), concepts))


def test_two_classes_change_places():
    data = pictures(2, classes=2)
    assert torch.equal(permute_labels(data, 1.0).y, 1 - data.y)


@pytest.mark.parametrize(("skew", "strength"), STRENGTHS.values(), ids=STRENGTHS)
def test_bad_strengths(skew, strength):
    data = pictures(6, 6)
    with pytest.raises(
        ValueError, match=r"=-1 must be at least [01] \(one number for all clients\)\. Try"
    ):
        skew(data, -1)
    for bad in (float("nan"), float("inf"), [1, 1, 1, 1, float("nan")], "0.5", None, ["1"] * 5):
        with pytest.raises(
            ValueError, match=r"must be finite, one number for all clients or one per client\. Try"
        ):
            skew(data, bad)
    with pytest.raises(
        ValueError,
        match=r"of shape \(3,\) must be one number, or one per client \(5\)\. Try \w+=1",
    ):
        skew(data, [1, 2, 3])
    with pytest.raises(
        ValueError, match=r"examples of type torch\.int64 must be real numbers for this skew"
    ):
        skew(replace(data, x=data.x.long()), strength)


@pytest.mark.parametrize(
    ("skew", "much"),
    [
        (noise, 1e80),
        (scale, 1e300),
        (contrast, 1e300),
        (contrast, [2, 2, 2, 2, -1e300]),
        (rotate, 1e300),
    ],
)
def test_too_much_for_single_precision(skew, much):
    """Examples that are non-finite in the data already are refused by a run, not here."""
    data = pictures(6, 6)
    with pytest.raises(
        ValueError,
        match=(
            r"=1e\+\d+ must be smaller \(examples go beyond 3\.4e\+38, where torch\.float32 ends\)"
            r"\. Try \w+=2"
        ),
    ):
        skew(data, much)
    assert skew(replace(data, x=data.x * torch.nan), 2).x.isnan().any()
    assert noise(data.double(), 1e80).x.isfinite().all()


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: noise(pictures(6), [0, 0, -1, 0, 0]),
            r"variance=-1 must be at least 0\. Try variance=0\.1",
        ),
        (
            lambda: scale(pictures(6), 0.5),
            (
                r"gain=0\.5 must be at least 1 \(one number for all clients\)\. Try gain=1, "
                r"or one number per client"
            ),
        ),
        (
            lambda: rotate(pictures(30), 10),
            (
                r"examples of shape \[30\] must be pictures to be turned: \[H, W\], \[C, H, "
                r"W\], or a square in a row, such as 64 = 8 x 8 numbers\. Try x\.reshape\(n, "
                r"H, W\)"
            ),
        ),
        (
            lambda: rotate(pictures(2, 2, 2, 2), 10),
            (
                r"examples of shape \[2, 2, 2, 2\] must be pictures to be turned: \[H, W\], "
                r"\[C, H, W\], or a square in a row, such as 64 = 8 x 8 numbers\. Try "
                r"x\.reshape\(n, H, W\)"
            ),
        ),
        (
            lambda: permute_labels(pictures(6), 1.5),
            (
                r"share=1\.5 must be between 0 and 1 \(it is a share of the clients\)\. Try "
                r"share=0\.5"
            ),
        ),
        (lambda: permute_labels(pictures(6), float("nan")), r"share=nan"),
        (
            lambda: permute_labels(pictures(6), "0.5"),
            (
                r"share='0\.5' must be between 0 and 1 \(it is a share of the clients\)\. Try "
                r"share=0\.5"
            ),
        ),
        (
            lambda: permute_labels(pictures(6), 0.5, concepts=float("inf")),
            r"concepts=inf must be a whole number",
        ),
        (
            lambda: permute_labels(pictures(6), 0.5, concepts=0),
            r"concepts=0 must be a whole number of at least 1",
        ),
        (
            lambda: permute_labels(pictures(6, classes=1), 0.5),
            (
                r"data must have at least 2 classes to permute \(1 are named\)\. Try data "
                r"with class labels"
            ),
        ),
        (
            lambda: permute_labels(replace(pictures(6), classes=("a",)), 1),
            (
                r"label 3 must be below 1 \(there are 1 classes, numbered from 0\)\. Try "
                r"np\.unique\(y, return_inverse=True\)\[1\], which numbers any labels"
            ),
        ),
    ],
)
def test_bad_values(act, message):
    with pytest.raises(ValueError, match=message):
        act()

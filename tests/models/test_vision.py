import pytest
import torch
from torch import nn

from fedlab.client import sequential
from fedlab.core import Experiment, FederatedDataset, Local
from fedlab.data import iid, load
from fedlab.engine import run
from fedlab.models import cnn, resnet
from fedlab.models.vision import Residual, convolutional, residual
from fedlab.server import fedavg, uniform, weighted_mean

SHAPES = {
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "digits": (64,),
    "odd": (2, 9, 7),
    "smallest": (1, 4, 4),
}
LEAVES = (
    nn.Conv2d,
    nn.GroupNorm,
    nn.Linear,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
)


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def built(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield convolutional(shape, 10)
        yield residual(shape, 10, width=16, blocks=1)


def test_sizes_that_must_come_out_exactly():
    assert count(convolutional((1, 28, 28), 10)) == 1_663_370  # McMahan et al. 2017
    assert (
        count(convolutional((3, 32, 32), 10))
        == 3 * 25 * 32 + 32 + 32 * 25 * 64 + 64 + 4096 * 512 + 512 + 5130
    )
    # He et al. 2016, section 4.2: 0.27 M for 20 layers without projections, which have 2,560
    # weights and 192 parameters of norms.
    plain, projections = 269_722, 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert count(residual((3, 32, 32), 10, width=16, blocks=3)) == plain + projections
    layers = [
        m
        for m in residual((3, 32, 32), 10, width=16, blocks=3).modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    assert len([m for m in layers if getattr(m, "kernel_size", None) != (1, 1)]) == 20


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_any_picture_gives_logits_and_none_looks_at_another(shape):
    x = pictures(5, *shape)
    for model in built(shape):
        together = model(x)
        assert together.shape == (5, 10)
        alone = torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(
            together, alone, atol=1e-5, rtol=1e-4
        )  # which BatchNorm would not give
        assert {type(m) for m in model.modules() if not list(m.children())} <= set(LEAVES)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_parameter_learns(shape):
    for model in built(shape):
        model(pictures(8, *shape)).pow(2).sum().backward()
        dead = [name for name, p in model.named_parameters() if not p.grad.abs().max() > 0]
        assert not dead


def test_a_residual_block_is_the_identity_where_its_path_is_zero():
    block, x = Residual(4, 4), pictures(2, 4, 6, 6)
    nn.init.zeros_(block.path[-1].weight)
    torch.testing.assert_close(block(x), x)
    assert Residual(4, 8, stride=2)(x).shape == (2, 8, 3, 3)


def test_squares_in_a_row_are_pictures():
    x = pictures(3, 64)
    for flat, square in zip(built((64,)), built((1, 8, 8)), strict=True):
        square.load_state_dict(
            dict(zip(square.state_dict(), flat.state_dict().values(), strict=True))
        )
        torch.testing.assert_close(flat(x), square(x.view(3, 1, 8, 8)))


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (
            cnn,
            (30,),
            r"examples must be images .* or flattened squares \(their shape is \[30\]\). Try mlp",
        ),
        (resnet, (8, 8), r"examples must be images .*\(their shape is \[8, 8\]\)"),
        (
            cnn,
            (1, 3, 8),
            r"images must have at least 4 x 4 pixels \(.* leave nothing of 3 x 8\). Try mlp",
        ),
        (
            lambda data: resnet(data, width=5),
            (64,),
            r"width=5, blocks=1 must be an even width, for two groups, and at least one block",
        ),
        (lambda data: resnet(data, blocks=0), (64,), r"width=16, blocks=0"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(make, shape, message):
    x, y = torch.zeros(4, *shape), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        make(FederatedDataset(x, y, [range(4)], (x, y), classes=("a", "b")))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "lr", "min_accuracy"), [(cnn, 0.4, 0.6), (resnet, 0.05, 0.8)])
def test_both_learn_the_digits_in_four_rounds(make, lr, min_accuracy):
    data = load("digits", 5, iid())
    local = Local(lr=lr, batch_size=16)
    study = Experiment(
        data, make(data), local, fedavg(), weighted_mean, uniform(2), rounds=4, eval_every=4
    )
    assert run(study, backend=sequential).final()["accuracy"].item() > min_accuracy

import copy

import pytest
import torch
from torch import nn

from fedlab.core import Task, params


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_views_are_the_parameters_in_order():
    net = model()
    w = params.flatten(net)
    views = params.views(w, params.shapes(net))
    assert w.shape == (3 * 4 + 4 + 4 * 2 + 2,)
    for name, p in net.named_parameters():
        assert torch.equal(views[name], p)
    views["0.bias"].fill_(7)
    assert (w[12:16] == 7).all(), "views share the row's memory"


def test_views_of_many_rows():
    net = model()
    rows = torch.stack([params.flatten(model()) for _ in range(5)])
    for name, view in params.views(rows, params.shapes(net)).items():
        assert view.shape == (5, *dict(net.named_parameters())[name].shape)
        assert torch.equal(view[3], params.views(rows[3], params.shapes(net))[name])


def test_views_of_a_number_have_no_axis():
    shapes = {"scale": torch.Size([]), "shift": torch.Size([2])}
    assert [tuple(view.shape) for view in params.views(torch.arange(3.0), shapes).values()] == [
        (),
        (2,),
    ]
    assert [tuple(view.shape) for view in params.views(torch.zeros(4, 3), shapes).values()] == [
        (4,),
        (4, 2),
    ]


def test_rows_of_one_matrix_are_together_without_a_copy():
    whole = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for rows in (list(whole), [row[None] for row in whole]):
        assert params.as_matrix(rows) is whole
    for rows in (
        [whole[1]],
        [whole[1], whole[0], whole[2]],
        list(whole[:2]),
        [*whole, whole[0]],
        list(whole.clone())[::-1],
    ):
        together = params.as_matrix(rows)
        assert torch.equal(together, torch.stack(rows))
        assert together is not whole
    assert torch.equal(params.as_matrix([whole[:2], whole[2:]]), whole)


def test_forward_is_the_module_with_the_row_in_it():
    net, second = model(), model()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    task = Task(lambda: copy.deepcopy(second), loss=torch.nn.functional.mse_loss, metrics={})
    torch.testing.assert_close(task.forward(params.flatten(net), x), net(x))


def test_frozen_parameters_do_not_count():
    net = model()
    net[0].requires_grad_(False)
    assert len(params.flatten(net)) == 4 * 2 + 2
    assert list(params.shapes(net)) == ["2.weight", "2.bias"]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"has 5 values and the model 26"):
        params.views(torch.zeros(5), params.shapes(model()))

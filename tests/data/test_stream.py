"""Replay of examples of earlier data."""

import numpy as np
import pytest
import torch

from fedlab.core.validate import check_parts
from fedlab.data import dirichlet, iid, load, replay


def test_each_client_has_its_own_and_some_of_the_old():
    old, new = load("digits", 10, dirichlet(0.3)), load("digits", 7, iid(), 1)
    both = replay(new, old, 5, seed=2)
    check_parts(both.parts, len(both.y))
    held = np.concatenate(old.parts)
    rows = {tuple(row.tolist()) for row in old.x[torch.from_numpy(held)]}
    for part, before in zip(both.parts, new.parts, strict=True):
        assert part[: len(before)].tolist() == before.tolist()
        assert len(part) == len(before) + 5
        assert all(tuple(row.tolist()) in rows for row in both.x[torch.from_numpy(part[-5:])])
        assert len({tuple(row.tolist()) for row in both.x[torch.from_numpy(part[-5:])]}) == 5
    assert torch.equal(both.x[: len(new.x)], new.x)
    assert both.test is new.test
    again, second_seed = replay(new, old, 5, seed=2), replay(new, old, 5, seed=3)
    assert torch.equal(again.y, both.y)
    assert not torch.equal(second_seed.y, both.y)


def test_nothing_kept_is_nothing_changed():
    data = load("digits", 5, iid())
    none = replay(data, data, 0)
    assert len(none.y) == len(data.y)
    assert [part.tolist() for part in none.parts] == [part.tolist() for part in data.parts]
    with pytest.raises(
        ValueError, match=r"^per_client=-1 must be a whole number of at least 0\. Try 0$"
    ):
        replay(data, data, -1)

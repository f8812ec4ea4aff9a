"""A round of adapters through MiniLM, beside a plain loop with peft, and a large cohort's memory.

``python tests/bench/language.py --clients 100`` trains the adapters of 100 clients and prints the
peak of memory.
"""

from __future__ import annotations

import argparse
import copy
import json
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from works import peak

from fedlab.client import assign, batched, plan
from fedlab.core import FederatedDataset, Local, Task, Work, params
from fedlab.core.quiet import quiet
from fedlab.data import iid, load_texts
from fedlab.engine import initial
from fedlab.models import cache_activations, classifier, lora, pretrained, text_classification

LOCAL = Local(0.1, batch_size=8)
NAMES = {"backbone.network.": "base_model.model.", "head.": "head."}


class Round(NamedTuple):
    """Clients that train adapters in the last blocks, on texts or on cached activations."""

    task: Task
    data: FederatedDataset
    work: Work
    upper: Task
    cache: FederatedDataset
    theirs: nn.Module  # peft's model


def given(last: int | None, clients: int = 4, each: int = 32) -> Round:
    """The first ``each`` paragraphs of every client, in batches of 8."""
    docs, model = load_texts("docs", 30), pretrained("minilm")
    data = text_classification(model, docs, clients, iid(), length=128)
    task = classifier(model, docs.classes, lora(8, last=last))
    upper, cache = cache_activations(task, data, dtype=torch.float32)
    parts = [part[:each] for part in data.parts]
    batches = plan(parts, 0, 1, LOCAL, len(data.y))
    with quiet():
        from peft import LoraConfig, get_peft_model

        network = copy.deepcopy(model.network)
        chosen = list(
            range(
                len(network.encoder.layer) - (last or len(network.encoder.layer)),
                len(network.encoder.layer),
            )
        )
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=["query", "value"], layers_to_transform=chosen
        )
        theirs = get_peft_model(network, config)
    return Round(
        task,
        data,
        assign(initial(task, 0), parts, [LOCAL] * clients, batches),
        upper,
        cache,
        theirs,
    )


def ours(setup: Round) -> Tensor:
    """From the second epoch on: what is frozen has run."""
    return batched(setup.upper, setup.cache.x, setup.cache.y, setup.work).delta


def plain(setup: Round) -> Tensor:
    """Loop over clients and batches with peft's model; pad texts to the longest of a batch."""
    model = setup.theirs
    head, start = (
        nn.Linear(384, len(setup.data.classes)),
        params.views(setup.work.start[0], setup.task.shapes),
    )
    trained = {name: p for name, p in (*model.named_parameters(), *_named(head)) if p.requires_grad}
    rows = []
    for batches in torch.from_numpy(setup.work.batches):
        for name, p in start.items():
            trained[_theirs(name)].data.copy_(p)
        optimizer = torch.optim.SGD(trained.values(), lr=LOCAL.lr)
        for batch in batches:
            batch = batch[batch >= 0]
            if len(batch) == 0:
                break
            x = setup.data.x[batch]
            mask = x >= 0
            longest = mask.sum(1).max()
            x, mask = x[:, :longest].clamp(min=0), mask[:, :longest].long()
            hidden = model(input_ids=x, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(pooled), setup.data.y[batch]).backward()
            optimizer.step()
        rows.append(
            torch.cat(
                [(trained[_theirs(name)].detach() - p).flatten() for name, p in start.items()]
            )
        )
    return torch.stack(rows)


def _named(head: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(f"head.{name}", p) for name, p in head.named_parameters()]


def _theirs(name: str) -> str:
    """What peft calls a tensor of ours."""
    return next(
        name.replace(our_name, theirs)
        for our_name, theirs in NAMES.items()
        if name.startswith(our_name)
    )


PIECES = {
    "all blocks": (
        None,
        "adapters in all blocks of MiniLM, from the second epoch: "
        "times faster than a loop with peft",
    ),
    "last two": (
        2,
        "adapters in its last two blocks, from the second epoch: "
        "times faster than a loop with peft",
    ),
}


def pairs() -> dict[str, tuple]:
    """For ``speed.py``: text, the loop with peft, ours."""
    cases = {}
    for name, (last, text) in PIECES.items():
        work = given(last)
        cases[name] = text, partial(plain, work), partial(ours, work)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    work = given(None, parser.parse_args().clients, each=1)
    rows = ours(work)
    print(
        json.dumps(
            {
                "clients": len(rows),
                "parameters": rows.shape[1],
                "moved": bool(np.all(rows.any(1).numpy())),
                "peak_mb": peak(),
            }
        )
    )


if __name__ == "__main__":
    main()

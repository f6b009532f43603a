"""Adapting: hidden tokens and spans are what the papers say, the losses transformers', and a base learns its domain."""

import json

import pytest

from stepladder import levels, objectives, records
from stepladder.errors import ConfigError
from tests.conftest import LORA, sentences
from tests.test_checkpoints import stopped_after

pytestmark = pytest.mark.slow

ADAPTING = {"max_tokens": 6000, "batch_size": 4, "learning_rate": 3e-3, "warmup_share": 0.1, "weight_decay": 0.01}
LEVEL = {"name": "finetune", "phases": ["adapt", "finetune"], "adapting": ADAPTING}
KINDS = {"bert": "encoder", "distilbert": "encoder", "llama": "decoder", "t5": "encoder_decoder"}


@pytest.fixture(scope="session")
def sentinels(tiny, tmp_path_factory):
    """The tiny T5 with a tokenizer that knows sentinels, as those of T5 do."""
    from stepladder import models

    folder = tmp_path_factory.mktemp("sentinels")
    model, tokenizer = models.seq2seq(tiny / "t5"), models.tokenizer(tiny / "t5")
    tokenizer.add_tokens([f"<extra_id_{i}>" for i in range(8)], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path):
    files = {part: tmp_path / f"{part}.parquet" for part in ("train", "val")}
    for seed, (part, number) in enumerate({"train": 80, "val": 20}.items(), start=5):
        records.write(sentences(number, seed=seed), files[part])
    return files


@pytest.fixture
def base(tiny, sentinels):
    return lambda name: sentinels if name == "t5" else tiny / name


def batch(name: str, folder, *, max_length: int = 32):
    """Return tokenizer, objective and a batch of rows of several lengths."""
    from stepladder import models

    tokenizer = models.tokenizer(folder)
    objective = objectives.load(name)(tokenizer, max_length=max_length)
    rows = objective.encode(sentences(40), train=True)
    return tokenizer, objective, objective.collate([rows[0], rows[1], rows[len(rows) - 1]])


def test_fifteen_percent_are_hidden_as_bert_hides_them(tiny):
    import torch

    tokenizer, objective, found = batch("masked", tiny / "bert")
    torch.manual_seed(0)
    drawn = [objective.hide(found, None) for _ in range(400)]
    ids, special = found["input_ids"], torch.isin(found["input_ids"], torch.tensor(tokenizer.all_special_ids))
    for seen, wanted in drawn:
        hidden = wanted != objectives.IGNORED
        assert torch.equal(hidden.sum(1), found["sizes"])
        assert torch.equal(wanted[hidden], ids[hidden])
        assert torch.equal(seen[~hidden], ids[~hidden])
        assert not (hidden & special & (ids != tokenizer.unk_token_id)).any()
    plain = ~special | (ids == tokenizer.unk_token_id)
    assert found["sizes"].tolist() == [max(1, round(0.15 * n)) for n in plain.sum(1).tolist()]
    hidden = torch.stack([wanted != objectives.IGNORED for _, wanted in drawn])
    masks = torch.stack([seen == tokenizer.mask_token_id for seen, _ in drawn])
    kept = torch.stack([seen == ids for seen, _ in drawn]) & hidden
    assert masks.sum() / hidden.sum() == pytest.approx(0.8, abs=0.02)
    assert kept.sum() / hidden.sum() == pytest.approx(0.1, abs=0.02)
    times = hidden.float().mean(0)[0][plain[0]]  # of each token of a row
    assert times.min() > 0.05
    assert times.max() < 0.3


def test_what_is_hidden_for_a_validation_does_not_depend_on_the_batch(tiny):
    import torch

    _, objective, found = batch("masked", tiny / "bert")
    _, whole = objective.hide(found, found["row"].tolist())
    rows = objective.encode(sentences(40), train=True)
    for place, row in enumerate(found["row"].tolist()):
        alone = objective.collate([rows[row]])
        _, wanted = objective.hide(alone, [row])
        assert torch.equal(wanted[0], whole[place][: wanted.shape[1]])


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_the_masked_loss_is_the_one_of_transformers(name, tiny):
    import torch

    from stepladder import models

    _, objective, found = batch("masked", tiny / name)
    model = models.masked(tiny / name, seed=0)
    torch.manual_seed(1)
    ours = objective.loss(model, found).item()
    torch.manual_seed(1)
    seen, wanted = objective.hide(found, None)
    theirs = model(input_ids=seen, attention_mask=found["attention_mask"], labels=wanted).loss.item()
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_spans_put_back_give_the_text_and_have_t5s_numbers(sentinels):
    import torch

    tokenizer, objective, _ = batch("spans", sentinels)
    known = set(objective.sentinels)
    torch.manual_seed(0)
    for size in range(2, 32):
        ids = torch.randint(10, 250, (size,)).tolist()
        read, written = objective.take_out(ids, None)
        assert len(read) <= 32
        runs, place = {}, None
        for token in written[:-1]:
            place = token if token in known else place
            runs.setdefault(place, []).extend([] if token in known else [token])
        assert [token for each in read[:-1] for token in (runs[each] if each in known else [each])] == ids
        assert read[-1] == written[-1] == tokenizer.eos_token_id
        noise, number = max(1, round(0.15 * size)), max(1, round(max(1, round(0.15 * size)) / 3))
        assert sum(map(len, runs.values())) == noise
        assert [token for token in read if token in known] == objective.sentinels[:number]
        assert len(written) == noise + number + 2
        assert objective.take_out(ids, 3) == objective.take_out(ids, 3)


def test_the_loss_of_spans_is_the_one_of_transformers(sentinels):
    import torch

    from stepladder import models

    _, objective, found = batch("spans", sentinels)
    model = models.seq2seq(sentinels)
    torch.manual_seed(1)
    ours = objective.loss(model, found).item()
    torch.manual_seed(1)
    lengths = found["attention_mask"].sum(1).tolist()
    pairs = [objective.take_out(row[:n], None) for row, n in zip(found["input_ids"].tolist(), lengths, strict=True)]
    sums = []
    for read, written in pairs:  # one by one, without padding
        loss = model(input_ids=torch.tensor([read]), labels=torch.tensor([written])).loss.item()
        sums.append(loss * len(written))
    assert ours == pytest.approx(sum(sums) / objective.count(found), rel=1e-5)


def test_a_tokenizer_without_what_it_takes_is_refused(tiny):
    from stepladder import models

    with pytest.raises(ConfigError, match=r"lacks the sentinel <extra_id_0>; .* take a model with sentinels, as T5"):
        objectives.load("spans")(models.tokenizer(tiny / "t5"), max_length=32)
    with pytest.raises(ConfigError, match="no token that hides another"):
        objectives.load("masked")(models.tokenizer(tiny / "llama"), max_length=32)


@pytest.mark.capability(12)
@pytest.mark.parametrize(("model", "method"), [("bert", LORA), ("distilbert", {"name": "frozen"}), ("llama", LORA),
                                               ("llama", {"name": "full"}), ("t5", LORA)])  # fmt: skip
def test_a_base_reads_its_domain_once_and_then_learns_the_task(
    model, method, base, corpus, choose, tmp_path, monkeypatch
):
    from stepladder import store

    monkeypatch.setattr(store, "kept", lambda kind: tmp_path / "kept" / kind)
    trainer = {"max_length": 32}
    sections = choose("finetune", model, level=LEVEL, method=method, trainer=trainer, model={"kind": KINDS[model]})
    told, again = [], []
    level = levels.load("finetune")(sections, base=base(model))
    parts = sentences(24), sentences(12, seed=1)
    facts = level.fit(*parts, state=tmp_path / "a", log=lambda *values: told.append(values), corpus=corpus)
    losses = [value for name, value, *_ in told if name == "adapt/val/loss"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    expected = {"encoder": "masked", "decoder": "language_modeling", "encoder_decoder": "spans"}
    assert facts["adapting"]["objective"] == expected[KINDS[model]]
    other = levels.load("finetune")(sections, base=base(model))
    other.fit(*parts, state=tmp_path / "b", log=lambda *values: again.append(values), corpus=corpus)
    assert not [name for name, *_ in again if name.startswith("adapt/")]  # it was read already
    level.save(tmp_path / "made")
    expected = level.predict(parts[1])
    reopened = levels.load("finetune").load(tmp_path / "made")
    for got in (reopened.predict(parts[1]), other.predict(parts[1])):
        for mine, theirs in zip(expected["probabilities"], got["probabilities"], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)
    described = json.loads((tmp_path / "made" / "stepladder.json").read_text())
    assert described["base"] == (None if method == {"name": "full"} else "./base")


def test_an_adapted_base_moved_and_a_phase_without_corpus_is_refused(base, corpus, choose, tmp_path, monkeypatch):
    import torch

    from stepladder import adapting, models, store

    monkeypatch.setattr(store, "kept", lambda kind: tmp_path / "kept" / kind)
    sections = choose("finetune", "bert", level=LEVEL, trainer={"max_length": 32}, model={"kind": "encoder"})
    with pytest.raises(ConfigError, match="corpus: phase adapt needs one"):
        adapting.of(base("bert"), None, sections, state=tmp_path / "s", log=print)
    folder = adapting.of(base("bert"), corpus, sections, state=tmp_path / "s", log=lambda *_: None)
    before, after = (models.classifier(each, ["a", "b"], seed=0).state_dict() for each in (base("bert"), folder))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    kept = {name for name in before if "classifier" in name or "pooler" in name}
    assert moved == before.keys() - kept - {"bert.embeddings.position_ids"}


@pytest.mark.parametrize("model", ["bert", "llama", "t5"])
def test_a_reading_that_was_stopped_goes_on_to_the_same_bits(
    model, base, corpus, choose, tmp_path, monkeypatch, capsys
):
    from stepladder import adapting, store

    runtime = {"checkpoint_every_s": 0, "num_threads": 1}
    level = {**LEVEL, "adapting": {**ADAPTING, "max_tokens": 1500}}
    sections = choose("finetune", model, level=level, trainer={"max_length": 32}, model={"kind": KINDS[model]})
    sections["runtime"] = {**sections["runtime"], **runtime}

    class Reading:
        def __init__(self, name: str):
            self.name = name

        def fit(self):
            monkeypatch.setattr(store, "kept", lambda kind: tmp_path / f"kept-{self.name}" / kind)
            state = tmp_path / self.name
            return adapting.of(base(model), corpus, sections, state=state, log=lambda *_: None)

    whole = store.hashes(Reading("whole").fit())
    stopped_after(Reading("broken"), 5, monkeypatch)
    capsys.readouterr()
    assert store.hashes(Reading("broken").fit()) == whole
    assert "going on from" in capsys.readouterr().out

"""A model behind an API: what it is asked, how its replies are read, what it costs, and that none is paid for twice."""

import json
import math

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, log_loss, matthews_corrcoef

from stepladder import ledger, metrics, predictions, remote, replies
from stepladder.errors import RemoteError
from stepladder.prompts import Prompt
from tests.conftest import sentences
from tests.provider import Provider

pytestmark = pytest.mark.capability(2)
LIMITS = {"concurrency": 4, "requests_per_minute": None, "timeout_s": 5, "retries": 2, "max_tokens": None}
WORDS = {"bad": "negative", "good": "positive"}


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    """Replies of one test are not another's."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(remote, "_USED", {})


def answerer(provider, *, prompt=None, labels=("bad", "good"), one_line=True, max_invalid=0.1, **changes):
    server = {"url": provider.url, "id": "m", "key": None, "private": True, "options": {"max_tokens": 8}}
    server |= {"limits": LIMITS | changes.pop("limits", {})} | changes
    chosen = prompt or Prompt("{input}", instruction="Choose of {labels}.", words=WORDS, lead="")
    told = {"form": "remote", "task": "classification", "server": server, "max_invalid": max_invalid}
    told |= {"labels": labels and list(labels), "prompt": chosen.__dict__, "one_line": one_line}
    return replies.Answerer(told)


def truthful(chat: list[dict]) -> str:
    return "positive" if "fine" in chat[-1]["content"] else "negative"


def test_a_template_is_one_message_and_a_chat_has_its_turns():
    shots = [("fine", "good"), ("dull", "bad")]
    chat = Prompt("{input}", instruction="Choose of {labels}.", words=WORDS, lead="").with_shots(shots)
    assert replies.messages(chat, "what {now}?") == [
        {"role": "system", "content": "Choose of negative, positive."},
        {"role": "user", "content": "fine"},
        {"role": "assistant", "content": "positive"},
        {"role": "user", "content": "dull"},
        {"role": "assistant", "content": "negative"},
        {"role": "user", "content": "what {now}?"},
    ]
    template = Prompt("{input_name}: {input}\n{answer_name}:", words=WORDS).with_shots(shots)
    assert replies.messages(template, "so") == [{"role": "user", "content": template.question("so")}]
    talk = Prompt("{input}", instruction="Be kind.", lead="", turns=True)
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye")]
    told = [{"role": role, "content": content} for role, content in turns]
    assert replies.messages(talk, json.dumps(told)) == told
    assert replies.messages(talk, "Hello")[0]["content"] == "Be kind."


def test_each_row_gets_the_answer_to_its_own_question_and_the_same_question_is_asked_once():
    rows = sentences(60)
    expected = ["good" if "fine" in text else "bad" for text in rows["input"]]
    with Provider(truthful, delay_s=0.005) as provider:
        found = answerer(provider).predict(rows)
        assert found["answer"].to_list() == expected
        assert len(provider.asked) == rows["input"].n_unique()
        assert provider.asked[0]["model"] == "m" and provider.asked[0]["max_tokens"] == 8
        again = answerer(provider).predict(rows.reverse())
        assert again["answer"].to_list() == expected[::-1] and len(provider.asked) == rows["input"].n_unique()
        answerer(provider, options={"max_tokens": 9}).predict(rows.head(1))  # another request is another question
        assert len(provider.asked) == rows["input"].n_unique() + 1


@pytest.mark.parametrize("text", ["positive", "Positive.", ' "POSITIVE" ', "**positive**\n"])
def test_a_reply_names_a_label_whatever_its_case_and_the_marks_around_it(text):
    assert replies.named(text, ["negative", "positive"]) == 1


@pytest.mark.parametrize("text", ["", "not positive", "positively", "negative or positive", "I am sorry", "..."])
def test_another_reply_names_none(text):
    assert replies.named(text, ["negative", "positive"]) is None


def test_labels_that_differ_by_marks_alone_are_told_apart_by_them():
    assert [replies.named(text, ["c", "c++"]) for text in ("C++", "c", "c#")] == [1, 0, None]


def test_shares_are_those_of_the_first_tokens_that_one_word_alone_begins_with():
    top = [(" pos", math.log(0.6)), ("Neg", math.log(0.2)), ("I", math.log(0.1)), ("", math.log(0.05))]
    with Provider(lambda chat: "positive", top=lambda chat: top) as provider:
        asked = answerer(provider, options={"logprobs": True, "top_logprobs": 4})
        shares = asked.predict(sentences(3))["probabilities"].struct.unnest()
    assert shares["good"].to_list() == pytest.approx([0.75] * 3) and shares["bad"].to_list() == pytest.approx(
        [0.25] * 3
    )


def test_no_answer_is_wrong_for_every_metric_and_counts_as_the_references_count_it():
    rows = sentences(40)
    odd = set(rows["input"].unique(maintain_order=True)[:2])
    with Provider(lambda chat: "no idea" if chat[-1]["content"] in odd else truthful(chat)) as provider:
        with pytest.raises(
            RemoteError, match=r"of 40 replies are no answer, such as that to .*: 'no idea'; say in task"
        ):
            answerer(provider, max_invalid=0.0).predict(rows)
        found = answerer(provider, max_invalid=0.5).predict(rows)
    unnamed = rows["input"].is_in(list(odd))
    assert found["answer"].is_null().to_list() == unnamed.to_list() and unnamed.sum() >= 2
    scores, true = metrics.evaluate(found, "classification"), found["target"].to_list()
    said = found["answer"].fill_null("none").to_list()
    shares = predictions.matrix(found)
    assert scores["accuracy"] == np.mean([a == b for a, b in zip(said, true, strict=True)])
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(true, said))
    assert scores["macro_f1"] == pytest.approx(f1_score(true, said, labels=["bad", "good"], average="macro"))
    assert scores["log_loss"] == pytest.approx(log_loss(true, shares, labels=["bad", "good"]))
    assert (shares[unnamed.to_numpy()] == 0.5).all()


def test_texts_are_written_to_the_end_of_a_line_where_all_targets_are():
    rows = pl.DataFrame({"id": ["1"], "source": [None], "input": ["x"], "target": ["y"]})
    with Provider(lambda chat: " one\ntwo ") as provider:
        assert answerer(provider, labels=None).predict(rows)["answer"].to_list() == ["one"]
        assert answerer(provider, labels=None, one_line=False).predict(rows)["answer"].to_list() == ["one\ntwo"]


def test_money_follows_from_the_tokens_of_each_request_once_and_is_unknown_without_a_price():
    rows = sentences(30)
    with Provider(truthful) as provider:
        first = answerer(provider)
        first.predict(rows)
        answerer(provider).predict(rows)
    asked = [len(request["messages"][0]["content"].split()) + len(request["messages"][1]["content"].split())
             for request in provider.asked]  # fmt: skip
    used = remote.used()
    assert used == {"m": {"requests": len(asked), "input_tokens": sum(asked), "output_tokens": len(asked)}}
    cost = {"evaluate": {"seconds": 36.0, "cpu_seconds": 1.0, "peak_memory_bytes": 1, "api": used}}
    price = {"machine_hour": 1.0, "gpu_hour": 0.0, "kwh": 0.0, "tokens": [{"model": "m", "input": 2e6, "output": 3e6}]}
    entry = ledger.of(cost, price)["evaluate"]
    assert entry["money"] == pytest.approx(0.01 + 2 * sum(asked) + 3 * len(asked))
    assert entry["tokens"] == sum(asked) + len(asked) and first.tokens_read == sum(
        reply["read"] for reply in first.replies
    )
    assert ledger.of(cost, price | {"tokens": []})["total"]["money"] is None
    (alone,) = first.latency()
    assert alone["rows"] == 1 and alone["calls"] == 30 and 0 < alone["p50"] <= alone["p95"] < 5


def test_requests_keep_to_the_rate():
    rows = sentences(200).unique("input", maintain_order=True).head(6)
    with Provider(truthful) as provider:
        answerer(provider, limits={"requests_per_minute": 600, "concurrency": 6}).predict(rows)
    gaps = np.diff(sorted(provider.times))
    assert len(gaps) == 5 and gaps.sum() >= 0.45  # a tenth of a second each

"""Group E: an API that is ill, slow, silent, unsafe or too dear; what was answered is kept, and nothing is made up."""

import json
import random
import signal
import time

import pytest

from stepladder import addresses
from stepladder.errors import ConfigError, RemoteError
from tests.conftest import sentences
from tests.faults.workshop import Workshop
from tests.provider import Provider
from tests.test_remote import answerer, truthful

pytestmark = [pytest.mark.slow, pytest.mark.capability(2)]
KEY = "sk-secret-123"
QUICK = {"retries": 3, "timeout_s": 0.5, "concurrency": 2}


@pytest.fixture(autouse=True)
def _apart(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def expected(rows) -> list[str]:
    return ["good" if "fine" in text else "bad" for text in rows["input"]]


def words(provider: Provider, *more: str) -> tuple[str, ...]:
    """Return what is typed to train on the sample by this provider."""
    model = [f"model.url={provider.url}", "model.id=m", "model.private=true", "model.max_invalid=1.0"]
    return ("level=prompt", "model=api", "data=sample_reviews", *model, *more)


@pytest.mark.fault("E1")
@pytest.mark.parametrize(
    "faults",
    [["429", "429"], ["429 without a time"], ["500", "503"], ["reset"], ["late"]],
    ids=lambda faults: " ".join(faults),
)
def test_what_is_too_much_or_fails_is_asked_again_after_a_while(faults):
    rows = sentences(20).unique("input", maintain_order=True)
    with Provider(truthful) as provider:
        provider.faults = list(faults)
        found = answerer(provider, limits=QUICK).predict(rows)
    assert found["answer"].to_list() == expected(rows) and len(provider.asked) >= len(rows)
    if faults[0].startswith("429"):
        assert max(provider.times) - min(provider.times) >= (0.2 if faults[0] == "429" else 0.35)


@pytest.mark.fault("E1")
@pytest.mark.parametrize(
    ("fault", "told"),
    [("500", "answers 500"), ("429 for an hour", "answers 429"), ("429 spent", "paid for is used up"),
     ("reset", "does not answer"), ("400", "max_tokens is not supported"), ("302", "points elsewhere")],
)  # fmt: skip
def test_in_the_end_it_is_one_line_and_the_rows_that_were_answered_are_not_asked_again(fault, told):
    rows, limits = sentences(30).unique("input", maintain_order=True), QUICK | {"retries": 1, "concurrency": 1}
    with Provider(truthful) as provider:
        provider.faults = [None, None, None, *[fault] * 50]
        with pytest.raises(RemoteError, match=rf"{told}.*; 3 of {len(rows)} rows were answered and are kept"):
            answerer(provider, limits=limits).predict(rows)
        assert 47 <= len(provider.faults) <= 49, "asked again although it is of no use, or not often enough"
        provider.faults = []
        assert answerer(provider, limits=limits).predict(rows)["answer"].to_list() == expected(rows)
    assert len(provider.asked) == len(rows)


@pytest.mark.fault("E1")
def test_a_server_that_is_not_there_and_a_name_that_nobody_knows_are_told():
    with Provider(truthful) as provider:
        pass
    with pytest.raises(RemoteError, match="does not answer"):
        answerer(provider, limits={"retries": 0}).predict(sentences(1))
    with pytest.raises(RemoteError, match=r"nobody knows nobody\.invalid"):
        addresses.require("https://nobody.invalid/v1", private=False)


BODIES = {
    "html": b"<html><body>502</body></html>",
    "nothing": b"",
    "cut": b'{"choices": [{"message": {"content": "posi',
    "no choice": b'{"choices": []}',
    "no text": b'{"choices": [{"message": {"content": null}}]}',
    "a list": b"[1, 2]",
    "not utf-8": b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    "odd usage": b'{"choices": [{"message": {"content": "positive"}}], "usage": {"prompt_tokens": "many"}}',
    "empty": b'{"choices": [{"message": {"content": "  "}}]}',
}


@pytest.mark.fault("E2")
@pytest.mark.parametrize("name", BODIES)
def test_a_reply_that_cannot_be_read_is_no_answer_and_is_asked_for_again(name):
    rows = sentences(4).unique("input", maintain_order=True)
    with Provider(lambda chat: BODIES[name]) as provider:
        with pytest.raises(RemoteError, match=f"{len(rows)} of {len(rows)} replies are no answer"):
            answerer(provider).predict(rows)
        assert answerer(provider, max_invalid=1.0).predict(rows)["answer"].null_count() == len(rows)
        provider.say = truthful
        assert answerer(provider).predict(rows)["answer"].to_list() == expected(rows)


@pytest.mark.fault("E2")
@pytest.mark.parametrize("text", ["maybe", "I am sorry, I cannot", "good", "x" * 2**20, "positive negative", "\x1b[2J"])
def test_words_that_name_no_label_are_never_taken_for_one(text, tmp_path, capsys):
    rows = sentences(6).unique("input", maintain_order=True)
    with Provider(lambda chat: text) as provider:
        found = answerer(provider, max_invalid=1.0).predict(rows)
    assert found["answer"].null_count() == len(rows)
    said = capsys.readouterr().out
    assert f"{len(rows)} of {len(rows)} replies are no answer" in said and "\x1b" not in said
    assert sum(file.stat().st_size for file in (tmp_path / "state" / "replies").iterdir()) < 105_000 * len(rows)


@pytest.mark.fault("E2")
def test_a_row_that_the_server_filters_is_no_answer_and_stops_nothing():
    rows = sentences(20).unique("input", maintain_order=True)
    with Provider(truthful) as provider:
        provider.faults = ["filtered"]
        found = answerer(provider, limits={"concurrency": 1}).predict(rows)
    assert found["answer"].to_list() == [None, *expected(rows)[1:]]


@pytest.mark.fault("E4")
def test_a_key_that_is_missing_or_refused_is_told_by_its_variable_and_stands_nowhere(workshop: Workshop):
    with Provider(truthful) as provider:
        missing = workshop.run("train", *words(provider), OPENAI_API_KEY="")
        assert missing.process.exitcode == 2 and "the variable OPENAI_API_KEY is not set" in missing.said
        provider.faults = ["401"]
        refused = workshop.run("train", *words(provider, "model.limits.concurrency=1"), OPENAI_API_KEY=KEY)
        assert refused.process.exitcode == 6 and "refuses the key in OPENAI_API_KEY (401)" in refused.said
        written = workshop.run("train", *words(provider, f"model.key={KEY}"))
        assert written.process.exitcode == 2 and "model.key: what stands there is not allowed" in written.said
        assert not provider.asked
        workshop.works("train", *words(provider), OPENAI_API_KEY=KEY)
    assert {headers["Authorization"] for headers in provider.headers} == {f"Bearer {KEY}"}
    holding = [path for path in workshop.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not holding, "the key stands in a file"


@pytest.mark.fault("E5")
def test_what_may_be_spent_ends_a_run_and_the_next_goes_on(workshop: Workshop):
    with Provider(truthful) as provider:
        typed = words(provider, "model.key=null", "model.limits.max_tokens=200", "model.limits.concurrency=1")
        codes, counts = [], []
        while (not codes or codes[-1] == 75) and len(codes) < 20:
            stage = workshop.run("train", *typed)
            codes.append(stage.process.exitcode)
            counts.append(len(provider.asked))
            assert codes[-1] == 0 or "model.limits.max_tokens=200: 2" in stage.said, stage.said
    assert codes == [75] * (len(codes) - 1) + [0] and len(codes) > 2
    asked = [json.dumps(body["messages"]) for body in provider.asked]
    assert len(asked) == len(set(asked)), "a row was paid for twice"


@pytest.mark.fault("E6")
@pytest.mark.parametrize(
    ("url", "private"),
    [("http://8.8.8.8/v1", False), ("https://10.0.0.1/v1", False), ("https://127.0.0.1/v1", False),
     ("https://[::1]/v1", False), ("https://192.168.1.9/v1", False), ("http://169.254.169.254/v1", True),
     ("https://[fe80::1]/v1", True), ("http://0.0.0.0/v1", True), ("ftp://8.8.8.8/v1", True),
     ("file:///etc/passwd", True), ("https://me:secret@8.8.8.8/v1", True), ("8.8.8.8", True)],
)  # fmt: skip
def test_an_address_that_is_open_private_or_of_the_link_is_refused(url, private):
    with pytest.raises(ConfigError, match=r"model\.url: ") as refused:
        addresses.require(url, private=private)
    assert "secret" not in str(refused.value)


@pytest.mark.fault("E6")
@pytest.mark.parametrize(("url", "private"), [("https://8.8.8.8/v1", False), ("http://127.0.0.1:9/v1", True)])
def test_a_public_address_with_tls_and_one_of_ones_own_are_not(url, private):
    addresses.require(url, private=private)


@pytest.mark.fault("E7")
def test_replies_out_of_order_twice_or_torn_are_those_of_their_rows(tmp_path):
    rows = sentences(40).unique("input", maintain_order=True)

    def late(chat: list[dict]) -> str:
        time.sleep(random.random() / 50)
        return truthful(chat)

    with Provider(late) as provider:
        assert answerer(provider, limits={"concurrency": 8}).predict(rows)["answer"].to_list() == expected(rows)
        (file,) = (tmp_path / "state" / "replies").iterdir()
        lines = file.read_text().splitlines()
        random.shuffle(lines)
        lines = [line for line in lines if line]
        for torn in (lines[0][:40], lines[0].replace('"top": null', '"top": {"a": -1.0}').partition(', "read"')[0]):
            file.write_text("\n".join([*lines[1:], *lines[1:5], torn]))
            for _ in range(2):  # what was torn is asked again, and kept whole behind it
                assert answerer(provider).predict(rows)["answer"].to_list() == expected(rows)
    assert len(provider.asked) == len(rows) + 2


@pytest.mark.fault("A1", "A2")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 75)])
def test_a_run_that_is_ended_pays_for_no_row_again(number, code, workshop: Workshop):
    with Provider(truthful, delay_s=0.02) as provider:
        typed = words(provider, "model.key=null")
        stage = workshop.start("train", *typed)
        stage.until(lambda: len(provider.asked) > 15)
        stage.send(number)
        started = time.monotonic()
        assert stage.wait() == code and time.monotonic() - started < 10
        held = len(provider.asked)
        workshop.works("train", *typed)
    asked = [json.dumps(body["messages"]) for body in provider.asked]
    twice = len(asked) - len(set(asked))
    assert twice <= 4, "more was asked again than was on its way"
    assert len(set(asked)) > held


@pytest.mark.fault("A2")
def test_a_run_that_waits_for_a_silent_server_ends_at_once(workshop: Workshop):
    with Provider(truthful, delay_s=40) as provider:
        stage = workshop.start("train", *words(provider, "model.key=null"))
        stage.until(lambda: len(provider.asked) == 4)
        stage.send(signal.SIGTERM)
        assert stage.wait(timeout=10) == 143

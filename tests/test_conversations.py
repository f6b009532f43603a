"""Conversations: what is learnt of several turns is what transformers' own mask of the assistant's tokens says."""

import json

import polars as pl
import pytest

from stepladder import conversations, levels
from stepladder.conversations import Conversation
from stepladder.errors import DataError
from stepladder.prompts import Prompt, chat
from stepladder.sources import chats
from tests.conftest import CHAT, sentences
from tests.test_strict import LORA as ROW
from tests.test_strict import faults

slow = pytest.mark.slow
END = "<|endoftext|>"
CLOSED = (  # closes each message with the token that ends a text
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SECTIONS = {
    "prompt": {"name": "chat", "num_shots": 0},
    "trainer": {"max_length": 256},
    "decoding": {"max_new_tokens": 8, "num_beams": 1},
}


def talks(number: int, *, seed: int = 0) -> pl.DataFrame:
    """Return conversations of one to three turns, some with a message of the system."""
    texts, rows = [text[-24:].strip() for text in sentences(6 * number, seed=seed)["input"]], []
    for i in range(number):
        said, turns = texts[6 * i : 6 * i + 6], i % 3
        pairs = tuple(zip(said[0 : 2 * turns : 2], said[1 : 2 * turns : 2], strict=True))
        talk = Conversation("Be brief." if i % 2 else None, pairs, said[4])
        rows.append({"id": f"t{seed}_{i}", "input": str(talk), "target": said[5], "source": None})
    return pl.DataFrame(rows, dict.fromkeys(("id", "input", "target", "source"), pl.String)).with_columns(
        pl.lit(None, pl.String).alias(name) for name in ("group", "timestamp")
    )


def messages(row: dict) -> list[dict]:
    return [*json.loads(row["input"]), {"role": "assistant", "content": row["target"]}]


@pytest.fixture
def tokenizer(tiny):
    from stepladder import models

    found = models.tokenizer(tiny / "chat")
    found.chat_template = CLOSED
    return found


@pytest.fixture
def objective(tokenizer):
    from stepladder import objectives

    prompt = Prompt(**chat(tokenizer, "", num_shots=0, turns=True), lead="")
    options = {"task": "generation", "labels": None, "max_length": 256, "prompt": prompt}
    return objectives.load("response")(tokenizer, **options, decoding={"max_new_tokens": 8})


@slow
def test_the_tokens_that_are_learnt_are_those_of_transformers_own_mask(objective, tokenizer):
    rows = talks(12)
    for row, example in zip(rows.iter_rows(named=True), objective.encode(rows, train=True), strict=True):
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        theirs = tokenizer.apply_chat_template(messages(row), **options)
        ids, places = example["ids"] + example["answer"], list(range(len(example["ids"]), 1000))
        assert theirs["input_ids"][: len(ids)] == ids  # theirs goes on with the line break behind the last message
        learnt = [place for place, mark in enumerate(theirs["assistant_masks"]) if mark]
        assert learnt == [*example["earlier"], *places[: len(example["answer"])]]
    assert sum(len(example["earlier"]) > 0 for example in objective.encode(rows, train=True)) == 8


@slow
def test_the_loss_is_transformers_own_over_the_assistants_tokens(objective, tokenizer, tiny):
    import torch

    from stepladder import models

    model, rows = models.causal(tiny / "chat"), talks(7)
    total, count = 0.0, 0
    for row in rows.iter_rows(named=True):
        options = {"return_dict": True, "return_assistant_tokens_mask": True, "return_tensors": "pt"}
        theirs = tokenizer.apply_chat_template(messages(row), **options)
        wanted = theirs["input_ids"].masked_fill(torch.as_tensor(theirs["assistant_masks"]) == 0, -100)
        number = int((wanted != -100).sum())
        total, count = total + model(theirs["input_ids"], labels=wanted).loss.item() * number, count + number
    batch = objective.collate(objective.encode(rows, train=True))
    assert objective.count(batch) == count
    assert objective.loss(model, batch).item() == pytest.approx(total / count, rel=1e-5)
    assert sum(row["loss"] for row in objective.losses(model, batch)) == pytest.approx(total, rel=1e-5)


@slow
def test_a_conversation_that_is_too_long_loses_its_first_turns_and_never_its_last_question(objective):
    row = talks(3, seed=2)[2]
    talk = conversations.read(row["input"][0])
    assert len(talk.turns) == 2
    whole, shorter, alone = (
        len(objective.tokenizer(objective.prompt.question(str(talk.recent(number))))["input_ids"])
        for number in (2, 1, 0)
    )
    for room, expected in ((whole, whole), (whole - 1, shorter), (shorter - 1, alone), (alone - 2, alone - 2)):
        objective.max_length = room + 8
        (example,) = objective.encode(row, train=True)
        assert len(example["ids"]) <= expected and len(example["ids"]) >= expected - 1
        assert example["cut"] == (room < whole)
        said = objective.tokenizer.decode(example["ids"])
        assert "[{" not in said and said.endswith("<|im_start|>assistant\n")


@slow
def test_a_model_is_tuned_on_conversations_saved_and_asked_again(tiny, choose, tmp_path):
    sections = choose("finetune", "chat", task="generation", **SECTIONS)
    sections["task"] |= {"turns": True, "instruction": None}
    level = levels.load("finetune")(sections, base=tiny / "chat")
    facts = level.fit(talks(12), talks(4, seed=1), state=tmp_path / "state", log=lambda *_: None)
    alone = sum(len(ids) + 1 for ids in level.answerer.tokenizer(talks(12)["target"].to_list())["input_ids"])
    assert facts["doctor"]["predicted"] > 1.5 * alone  # the earlier answers too
    level.save(tmp_path / "made")
    again = levels.load("finetune").load(tmp_path / "made")
    asked = pl.concat([talks(5, seed=3), talks(1, seed=4).with_columns(input=pl.lit("a plain question"))])
    assert again.predict(asked)["answer"].to_list() == level.predict(asked)["answer"].to_list()


def test_earlier_turns_stand_in_a_plain_template_as_examples_do():
    prompt = Prompt("User: {input}\nAssistant:", instruction="Be kind.", turns=True)
    talk = Conversation(None, (("a", "b"), ("c", "d")), "e")
    asked = prompt.question(str(talk))
    assert asked == "Be kind.\n\nUser: a\nAssistant: b\n\nUser: c\nAssistant: d\n\nUser: e\nAssistant:"
    assert [asked[start:stop] for start, stop in prompt.answered(talk)] == [" b", " d"]
    assert prompt.question(str(Conversation("Say {x}.", (), "e"))) == "Say {x}.\n\nUser: e\nAssistant:"
    assert prompt.question("[{not json") == "Be kind.\n\nUser: [{not json\nAssistant:"


@slow
def test_a_template_without_a_system_refuses_a_conversation_with_one(tiny):
    from stepladder import models

    words = models.tokenizer(tiny / "chat")
    words.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
    prompt = Prompt(**chat(words, "", num_shots=0, turns=True), lead="")
    assert prompt.question(str(Conversation(None, (), "x")))
    with pytest.raises(DataError, match="this chat template does not take"):
        prompt.question(str(Conversation("Be brief.", (), "x")))


def test_messages_become_records_and_come_back(tmp_path):
    rows = talks(5)
    lines = [json.dumps({"messages": messages(row), "id": row["id"]}) for row in rows.iter_rows(named=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    found = list(chats.read(tmp_path / "a.jsonl", messages="messages"))
    assert [(row["id"], row["input"], row["target"]) for row in found] == list(
        rows.select("id", "input", "target").iter_rows()
    )
    assert [str(conversations.read(row["input"])) for row in found] == rows["input"].to_list()


USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": [', "not JSON"),
        ('{"talk": []}', "no list 'messages' of two messages or more"),
        (json.dumps({"messages": [USER]}), "of two messages or more"),
        (json.dumps({"messages": [ASSISTANT, USER, ASSISTANT]}), "message 1: role 'assistant', expected 'user'"),
        (json.dumps({"messages": [USER, USER, ASSISTANT]}), "message 2: role 'user', expected 'assistant'"),
        (json.dumps({"messages": [USER, ASSISTANT, USER]}), "the last message is to be the user's"),
        (json.dumps({"messages": [USER, {"role": "assistant", "content": " "}]}), "message 2: its content is no text"),
        (json.dumps({"messages": [USER, {"role": "tool", "content": "x"}]}), "role 'tool'"),
        (json.dumps({"messages": [{"role": "user"}, ASSISTANT]}), "message 1: expected"),
    ],
)
def test_a_line_that_is_no_conversation_is_refused_with_its_place(line, words, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [USER, ASSISTANT]}) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2") as caught:
        list(chats.read(tmp_path / "a.jsonl", messages="messages"))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({}, None), ({"set": {"prompt": {"num_shots": 2}}}, "a conversation is its own example")],
)
def test_what_cannot_read_a_conversation_is_refused(changes, words, tmp_path):
    row = ROW | {"model": "smollm2", "task": "conversation", "objective": "response", "prompt": "chat"} | changes
    found = faults(tmp_path, {"talk": row | {"decoding": "greedy"}})
    assert not found if words is None else words in found[0], found

"""Prompts: a template is filled in once, and few-shot examples are chosen by seed, the same for all rows."""

import polars as pl
import pytest

from stepladder import prompts
from stepladder.errors import ConfigError
from stepladder.prompts import Prompt, choose_shots
from tests.conftest import CHAT

PROMPT = Prompt(
    "{input_name}: {input}\n{answer_name}:",
    input_name="Review",
    answer_name="Mood",
    instruction="Say one of {labels}.",
    words={"neg": "bad", "pos": "good"},
)


def frame(number: int) -> pl.DataFrame:
    rows = [{"id": f"r{i}", "input": f"text {i}", "target": ("neg", "pos")[i % 2]} for i in range(number)]
    return pl.DataFrame(rows)


def test_a_question_holds_instruction_examples_and_input_and_ends_where_the_answer_begins():
    shown = PROMPT.with_shots([("dull", "neg"), ("fine", "pos")])
    asked = "Review: so so\nMood:"
    assert PROMPT.question("so so") == f"Say one of bad, good.\n\n{asked}"
    assert shown.question("so so") == (
        f"Say one of bad, good.\n\nReview: dull\nMood: bad\n\nReview: fine\nMood: good\n\n{asked}"
    )
    assert PROMPT.answer("pos") == " good"
    assert Prompt("{input}").answer("any text") == " any text"


def test_braces_in_an_input_are_text():
    assert Prompt("{input}!").question("{answer_name} {0} {}") == "{answer_name} {0} {}!"


@pytest.mark.capability(3)
def test_examples_are_k_of_each_class_by_seed():
    chosen = choose_shots(frame(40), per_class=3, seed=1, by_label=True)
    assert sorted(target for _, target in chosen) == ["neg"] * 3 + ["pos"] * 3
    assert chosen == choose_shots(frame(40), per_class=3, seed=1, by_label=True)
    assert chosen != choose_shots(frame(40), per_class=3, seed=2, by_label=True)
    assert len(choose_shots(frame(40), per_class=3, seed=1, by_label=False)) == 3


def test_examples_do_not_depend_on_the_order_of_the_rows_and_an_added_row_changes_at_most_one():
    before = choose_shots(frame(40), per_class=3, seed=1, by_label=True)
    assert before == choose_shots(frame(40)[::-1], per_class=3, seed=1, by_label=True)
    for number in range(41, 60):
        after = choose_shots(frame(number), per_class=3, seed=1, by_label=True)
        assert len(set(before) - set(after)) <= 1
        before = after


def test_a_class_with_too_few_records_is_named():
    with pytest.raises(ConfigError, match="num_shots=3: train holds only 2 records of 'neg'"):
        choose_shots(frame(4), per_class=3, seed=1, by_label=True)


CHATS = {  # short forms of templates in use
    "chatml": CHAT,
    "no system": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "braces": "{% for m in messages %}{{ '{' + m['role'] + '}' + m['content'] + '{end}' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '{assistant}' }}{% endif %}",
}


@pytest.mark.slow
@pytest.mark.parametrize("num_shots", [0, 2])
@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_what_the_tokenizers_own_template_makes_of_the_turns(name, num_shots, tiny):
    from stepladder import models

    tokenizer = models.tokenizer(tiny / "llama")
    tokenizer.chat_template = CHATS[name]
    told = "Choose: bad, good."
    shots = [("a {dull} film", "bad"), ("fine", "good")][:num_shots]
    if name == "no system" and num_shots:  # a space stands before earlier answers
        with pytest.raises(ConfigError, match="writes earlier answers in another form"):
            prompts.chat(tokenizer, told, num_shots=num_shots)
        return
    prompt = prompts.Prompt(**prompts.chat(tokenizer, told, num_shots=num_shots), lead="").with_shots(shots)
    turns = [{"role": "system", "content": told}] if name != "no system" else []
    for question, answer in shots:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    asked = "what {input} is <this>?" if name != "no system" else f"{told}\n\nwhat {{input}} is <this>?"
    expected = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.question("what {input} is <this>?") == expected.removeprefix(
        tokenizer.bos_token if tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id else ""
    )


@pytest.mark.slow
def test_a_model_without_a_chat_template_is_refused(tiny):
    from stepladder import models

    with pytest.raises(ConfigError, match="has no chat template; take prompt: zero_shot"):
        prompts.chat(models.tokenizer(tiny / "llama"), "Choose.", num_shots=0)

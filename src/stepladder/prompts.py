"""Prompts: how a record is put to a language model, and how its answer is written.

A template is text with the fields input, input_name and answer_name, for example
`{input_name}: {input}\\n{answer_name}:`; the answer follows it after one space. The task's instruction, which may name
the `{labels}`, stands once in front. Few-shot examples are whole answered prompts, k per class (or k in all for
generation), drawn from train by seed and the same for all rows.
"""

import hashlib
from dataclasses import asdict, dataclass, field

import polars as pl

from stepladder.errors import ConfigError


@dataclass(frozen=True)
class Prompt:
    """A filled-in template; `words` maps a label to the text that the model reads and writes for it."""

    template: str
    separator: str = "\n\n"
    input_name: str = "Text"
    answer_name: str = "Label"
    instruction: str = ""
    words: dict[str, str] = field(default_factory=dict)
    shots: tuple[tuple[str, str], ...] = ()
    head: str = ""  # of a chat: what stands before the first turn
    lead: str = " "  # between the question and the answer

    def question(self, text: str) -> str:
        """Return the prompt for one input: instruction, few-shot examples, input; it ends where the answer begins."""
        before = [self.instruction.format(labels=", ".join(self.words.values()))] if self.instruction else []
        answered = [self._fill(shown) + self.answer(target) for shown, target in self.shots]
        return self.head + self.separator.join([*before, *answered, self._fill(text)])

    def answer(self, target: str) -> str:
        """Return what the model is to write after the question: the label's word or the text, behind the lead."""
        return self.lead + self.words.get(target, target)

    def with_shots(self, shots: list[tuple[str, str]]) -> "Prompt":
        """Return the same prompt with these (input, target) examples before each question."""
        return Prompt(**{**asdict(self), "shots": tuple(shots)})

    def _fill(self, text: str) -> str:
        return self.template.format(input=text, input_name=self.input_name, answer_name=self.answer_name)


def chat(tokenizer, instruction: str, *, num_shots: int) -> dict[str, str]:
    """Return the fields of a Prompt that says what the tokenizer's chat template says of the same turns.

    The instruction is the system's message, or stands in front of the user's where the template knows no system;
    examples are earlier turns. Raises ConfigError where there is no template, or it writes earlier answers otherwise.
    """
    if not tokenizer.chat_template:
        raise ConfigError("prompt=chat: the tokenizer of this model has no chat template; take prompt: zero_shot")
    marks = ["[first question]", "[first answer]", "[second question]"]
    turns = [{"role": role, "content": mark} for role, mark in zip(("user", "assistant", "user"), marks, strict=True)]
    system = [{"role": "system", "content": instruction}] if instruction else []
    try:
        said = _rendered(tokenizer, [*system, *turns])
        if instruction not in said:
            raise ValueError("it leaves the system's message out")
    except Exception as error:  # a template raises what it likes
        print(f"the chat template takes no message of the system ({error}); it opens the first question", flush=True)
        turns[0]["content"] = f"{instruction}\n\n{marks[0]}"
        said = _rendered(tokenizer, turns)
    head, middle, between, end = _split(said, marks)
    if num_shots and middle != end:
        raise ConfigError("prompt.num_shots: the chat template writes earlier answers in another form; set it to 0")
    bos = tokenizer.bos_token
    if bos and head.startswith(bos) and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id:
        head = head.removeprefix(bos)  # which the tokenizer puts there itself
    return {"head": head, "template": "{input}" + end.replace("{", "{{").replace("}", "}}"), "separator": between}


def _rendered(tokenizer, turns: list[dict]) -> str:
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def _split(text: str, marks: list[str]) -> list[str]:
    found = []
    for mark in marks:
        before, there, text = text.partition(mark)
        if not there:
            raise ConfigError(f"prompt=chat: the chat template leaves a turn out ({mark}); take prompt: zero_shot")
        found.append(before)
    return [*found, text]


def choose_shots(train: pl.DataFrame, *, per_class: int, seed: int, by_label: bool) -> list[tuple[str, str]]:
    """Return (input, target) examples: `per_class` of each label, or so many in all, in a seeded order.

    The choice goes by a seeded hash of the record's id, so that adding a record changes at most one example.
    Raises ConfigError when a class has fewer records than asked for.
    """
    ranked = sorted(train.select("id", "input", "target").iter_rows(), key=lambda row: _rank(row[0], seed))
    classes = sorted(set(train["target"])) if by_label else [None]
    chosen = []
    for label in classes:
        members = [row for row in ranked if label is None or row[2] == label]
        if len(members) < per_class:
            raise ConfigError(f"prompt.num_shots={per_class}: train holds only {len(members)} records of {label!r}")
        chosen += members[:per_class]
    return [(text, target) for _, text, target in sorted(chosen, key=lambda row: _rank(row[0], seed))]


def _rank(identifier: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{identifier}".encode()).hexdigest()

"""Prompts: how a record is put to a language model, and how its answer is written.

A template is text with the fields input, input_name and answer_name, for example
`{input_name}: {input}\\n{answer_name}:`; the answer follows it after one space. The task's instruction, which may name
the `{labels}`, stands once in front. Few-shot examples are whole answered prompts, k per class (or k in all for
generation), drawn from train by seed and the same for all rows.
"""

import hashlib
from dataclasses import dataclass, field, replace

import polars as pl

from stepladder import conversations
from stepladder.errors import ConfigError, DataError


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
    turns: bool = False  # an input may be a conversation, whose answered turns stand before the last question
    prior: dict[str, float] = field(default_factory=dict)  # log of each label's share for inputs without content
    system: tuple[str, str] | None = None  # of a chat: what stands around a message of the system in `head`

    def question(self, text: str) -> str:
        """Return the prompt for one input: instruction, few-shot examples, input; it ends where the answer begins."""
        return self.conversed(conversations.read(text)) if self.turns else self._asked(text)

    def answered(self, conversation: conversations.Conversation) -> list[tuple[int, int]]:
        """Return where the earlier answers of a conversation stand in its question, (from, to) in characters."""
        places = []
        for number, (_, answer) in enumerate(conversation.turns):
            start = len(self.conversed(conversation.before(number)))
            places.append((start, start + len(self.answer(answer))))
        return places

    def conversed(self, conversation: conversations.Conversation) -> str:
        """Return the prompt for a conversation, whose turns stand where examples do."""
        prompt = self if conversation.system is None else self._instructed(conversation.system)
        return prompt.with_shots(conversation.turns)._asked(conversation.last)

    def _instructed(self, words: str) -> "Prompt":
        """Return the prompt with a message of the system in place of its instruction."""
        if self.system is not None:
            before, behind = self.system
            return replace(self, head=f"{before}{words}{behind}")
        if not self.lead:  # a chat
            raise DataError("a conversation has a message of the system, which this chat template does not take")
        return replace(self, instruction=words.replace("{", "{{").replace("}", "}}"))

    def _asked(self, text: str) -> str:
        before = [self.instruction.format(labels=", ".join(self.words.values()))] if self.instruction else []
        answered = [self._fill(shown) + self.answer(target) for shown, target in self.shots]
        return self.head + self.separator.join([*before, *answered, self._fill(text)])

    def answer(self, target: str) -> str:
        """Return what the model is to write after the question: the label's word or the text, behind the lead."""
        return self.lead + self.words.get(target, target)

    def with_shots(self, shots: list[tuple[str, str]]) -> "Prompt":
        """Return the same prompt with these (input, target) examples before each question."""
        return replace(self, shots=tuple(shots))

    def _fill(self, text: str) -> str:
        return self.template.format(input=text, input_name=self.input_name, answer_name=self.answer_name)


def of(task: dict, section: dict, labels: list[str] | None, tokenizer) -> Prompt:
    """Return the prompt of a composed section with the task's words filled in.

    tokenizer: knows how the model writes a chat; None where its server does.
    """
    words = (task["labels"] or {label: label for label in labels}) if labels else {}
    instruction, turns = task["instruction"] or "", task.get("turns", False)
    if section["name"] == "chat" and tokenizer is None:
        return Prompt("{input}", instruction=instruction, words=words, lead="", turns=turns)
    if section["name"] == "chat":
        told = instruction.format(labels=", ".join(words.values()))
        return Prompt(**chat(tokenizer, told, num_shots=section["num_shots"], turns=turns), lead="", words=words)
    return Prompt(
        template=section["template"],
        separator=section["separator"],
        input_name=task["input_name"],
        answer_name=task["answer_name"],
        instruction=instruction,
        words=words,
        turns=turns,
    )


def chat(tokenizer, instruction: str, *, num_shots: int, turns: bool = False) -> dict:
    """Return the fields of a Prompt that says what the tokenizer's chat template says of the same turns.

    The instruction is the system's message, or stands in front of the user's where the template knows no system;
    examples, and the `turns` of a conversation, are earlier ones. Raises ConfigError where there is no template, or it
    writes earlier answers otherwise.
    """
    if not tokenizer.chat_template:
        raise ConfigError("prompt=chat: the tokenizer of this model has no chat template; take prompt: zero_shot")
    marks = ["[first question]", "[first answer]", "[second question]"]
    marked = [{"role": role, "content": mark} for role, mark in zip(("user", "assistant", "user"), marks, strict=True)]
    system = [{"role": "system", "content": instruction}] if instruction else []
    try:
        said = _rendered(tokenizer, [*system, *marked])
        if instruction not in said:
            raise ValueError("it leaves the system's message out")
    except Exception as error:  # a template raises what it likes
        print(f"the chat template takes no message of the system ({error}); it opens the first question", flush=True)
        marked[0]["content"] = f"{instruction}\n\n{marks[0]}"
        said = _rendered(tokenizer, marked)
    head, middle, between, end = _split(said, marks)
    if (num_shots or turns) and middle != end:
        cure = "set it to 0" if num_shots else "no conversation can be read by it"
        raise ConfigError(f"prompt.num_shots: the chat template writes earlier answers in another form; {cure}")
    template = "{input}" + end.replace("{", "{{").replace("}", "}}")
    found = {"head": _bare(tokenizer, head), "template": template, "separator": between, "turns": turns}
    return found | {"system": _system(tokenizer) if turns else None}


def _bare(tokenizer, head: str) -> str:
    """Return what a chat begins with without the token that the tokenizer puts there itself."""
    bos = tokenizer.bos_token
    doubled = bos and head.startswith(bos) and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    return head.removeprefix(bos) if doubled else head


def _system(tokenizer) -> tuple[str, str] | None:
    """Return what stands around a message of the system, None where the template takes none."""
    marks = ["[system]", "[first question]"]
    turns = [{"role": role, "content": mark} for role, mark in zip(("system", "user"), marks, strict=True)]
    try:
        before, there, behind = _rendered(tokenizer, turns).partition(marks[0])
    except Exception:  # a template raises what it likes
        return None
    return (_bare(tokenizer, before), behind.partition(marks[1])[0]) if there else None


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

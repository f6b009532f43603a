"""Replies: what a model behind an API says, read as labels or texts; the same contract as a model of one's own.

A reply names a label when it is the label's word, whatever its case and the marks around it; any other is no answer,
counted and told, and never taken for a label. With `top_logprobs` the shares of the labels are those of the first
tokens that only one of their words begins with.
"""

import json
import math
import statistics
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl

from stepladder import conversations, remote
from stepladder.errors import RemoteError
from stepladder.prompts import Prompt

FORM = "remote"


class Answerer:
    """A server and the prompt that it is asked by; `description` is what is needed to ask it again."""

    def __init__(self, description: dict):
        self.description, self.prompt = description, Prompt(**description["prompt"])
        self.server = remote.Server(**description["server"])
        self.replies: list[dict] = []

    def predict(self, records: pl.DataFrame) -> pl.DataFrame:
        """Return predictions for `records` in their order; an answer that names no label is null.

        Raises what remote.ask raises, and RemoteError where more than max_invalid of the replies are no answer.
        """
        self.replies = remote.ask(self.server, [messages(self.prompt, text) for text in records["input"]])
        labels, found = self.description["labels"], records.select("id", "source", "target")
        if labels is None:
            self._require(records, [reply["text"] is not None for reply in self.replies])
            return found.with_columns(pl.Series("answer", [self._text(reply) for reply in self.replies], pl.String))
        shares = np.stack([self._shares(reply) for reply in self.replies])  # (rows, labels)
        named = shares.max(axis=1) > shares.min(axis=1) if len(labels) > 1 else np.ones(len(shares), bool)
        self._require(records, named.tolist())
        answers = [labels[best] if sure else None for best, sure in zip(shares.argmax(axis=1), named, strict=True)]
        columns = [pl.Series(label, shares[:, place]) for place, label in enumerate(labels)]
        answered = pl.Series("answer", answers, pl.String), pl.struct(columns).alias("probabilities")
        return found.with_columns(answered)

    def save(self, folder: Path, facts: dict) -> None:
        """Write the description with `facts` into `folder`; there are no weights."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.description, "adapter": False, **facts}, indent=2, ensure_ascii=False, sort_keys=True)
        (folder / "stepladder.json").write_text(f"{text}\n")

    @property
    def tokens_read(self) -> int:
        """How many tokens the requests had that were answered last."""
        return sum(reply["read"] for reply in self.replies)

    def latency(self) -> list[dict]:
        """Return what latency.of returns, of the replies as they came: one row a request."""
        taken = [reply["seconds"] for reply in self.replies]
        parts = statistics.quantiles(taken, n=20, method="inclusive") if len(taken) > 1 else taken * 19
        rate = round(len(taken) / max(sum(taken), 1e-3), 6)
        return [{"rows": 1, "calls": len(taken), "p50": parts[9], "p95": parts[18], "rows_per_second": rate}]

    def _shares(self, reply: dict) -> np.ndarray:
        """Return the probability of each label, (labels,), equal ones where the reply names none of them."""
        labels, words = self.description["labels"], self.prompt.words
        spoken = [words.get(label, label) for label in labels]
        mass = _begun(reply["top"] or {}, spoken)
        if not mass.any():  # the reply says no more than the one that it names
            mass = np.array([float(place == named(reply["text"] or "", spoken)) for place in range(len(spoken))])
        return mass / mass.sum() if mass.sum() > 0 else np.full(len(spoken), 1 / len(spoken))

    def _text(self, reply: dict) -> str:
        text = (reply["text"] or "").strip()
        return text.split("\n")[0].strip() if self.description["one_line"] else text

    def _require(self, records: pl.DataFrame, valid: list[bool]) -> None:
        wrong = [row for row, fine in enumerate(valid) if not fine]
        if not wrong:
            return
        first, reply = records["id"][wrong[0]], self.replies[wrong[0]]
        said = reply["fault"] or f"{reply['text'][:60]!r}"
        told = f"{len(wrong):,} of {len(valid):,} replies are no answer, such as that to {first}: {said}"
        if len(wrong) > self.description["max_invalid"] * len(valid):
            cure = "say in task.instruction how to answer, or raise model.max_invalid"
            raise RemoteError(f"{self.server.id}: {told}; {cure}. All replies are kept")
        print(f"{self.server.id}: {told}", flush=True)


def describe(sections: dict, prompt: Prompt, labels: list[str] | None, *, one_line: bool) -> dict:
    """Return a description of composed sections: the server, how it is asked, and how its replies are read."""
    model = sections["model"]
    asked = {} if model["top_logprobs"] is None else {"logprobs": True, "top_logprobs": model["top_logprobs"]}
    server = {key: model[key] for key in ("url", "id", "key", "private", "limits")}
    return {
        "form": FORM,
        "task": sections["task"]["name"],
        "labels": labels,
        "objective": "response",
        "prompt": asdict(prompt),
        "server": server | {"options": model["options"] | (asked if labels else {})},
        "max_invalid": model["max_invalid"],
        "one_line": one_line,
        "base": None,
    }


def messages(prompt: Prompt, text: str) -> list[dict]:
    """Return the chat that asks for one input: a template is one message of the user, a chat has its turns."""
    if prompt.lead:
        return [{"role": "user", "content": prompt.question(text)}]
    told = prompt.instruction.format(labels=", ".join(prompt.words.values()))
    turns = [(shown, prompt.words.get(target, target)) for shown, target in prompt.shots]
    if prompt.turns:
        talk = conversations.read(text)
        told, turns, text = talk.system or told, list(talk.turns), talk.last
    spoken = [zip(conversations.ROLES, turn, strict=True) for turn in turns]
    said = [("system", told), *(each for turn in spoken for each in turn), ("user", text)]
    return [{"role": role, "content": content} for role, content in said if content or role != "system"]


def named(text: str, words: list[str]) -> int | None:
    """Return the place of the word that a reply is, None where it is none of them, or fits several."""
    for form in (_cased, _bare):
        places = [place for place, word in enumerate(words) if form(word) == form(text)]
        if len(places) == 1:
            return places[0]
    return None


def _begun(top: dict[str, float], words: list[str]) -> np.ndarray:
    """Return the probability of the first tokens that each word alone begins with, (words,)."""
    mass = np.zeros(len(words))
    for token, value in top.items():
        begun = [place for place, word in enumerate(words) if _cased(token) and _cased(word).startswith(_cased(token))]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(value)
    return mass


def _cased(text: str) -> str:
    return text.strip().casefold()


def _bare(text: str) -> str:
    """Return a text without case and without what is neither letter nor digit at its ends."""
    inside = [place for place, letter in enumerate(text) if letter.isalnum()]
    return text[inside[0] : inside[-1] + 1].casefold() if inside else ""

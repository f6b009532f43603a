"""Symptoms: what is wrong with records that a training is about to read, seen in their texts alone.

train: 2 of 24 rows have an empty target (r0_3, r0_7); fill it in or delete them

A finding stops where no honest result can follow, and warns where a person may have meant it. Each guard looks for one
thing, so that a test can leave it out. Leaks: Kaufman et al. 2012, "Leakage in data mining", section 3.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from stepladder import records, targets
from stepladder.errors import unknown

NO_TEXT = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd]")  # controls, private use, U+FFFD
SHOWN = 5  # ids of a finding
GARBAGE = 0.1  # share of a text's characters that are none a person writes
TOLD = 0.9  # share of rows whose input says its label, and almost never another: the answer is in the question
SUSPICIOUS = 0.5
LARGE = 100  # a target that a head, whose answers begin near 0, reaches only after many steps
LOPSIDED = 0.95  # share of one class
MIN_LEAK_ROWS, MIN_LEAK_CHARACTERS = 8, 4  # below these, a word stands in a text by chance


@dataclass(frozen=True)
class Finding:
    """What is wrong, in which records, and the cure."""

    text: str
    rows: tuple[str, ...]
    cure: str
    stops: bool = True

    def __str__(self) -> str:
        more = f" and {len(self.rows) - SHOWN:,} more" if len(self.rows) > SHOWN else ""
        shown = f" ({', '.join(self.rows[:SHOWN])}{more})" if self.rows else ""
        return f"{self.text}{shown}; {self.cure}"


@dataclass(frozen=True)
class Texts:
    """The records of a fit; `words` maps a label to the word that is written for it."""

    train: pl.DataFrame
    val: pl.DataFrame
    task: str
    labels: list[str] | None
    words: dict[str, str]

    @cached_property
    def compared(self) -> list[tuple[str, str, str | None]]:
        """Id, normalised input and target of each train row."""
        return [(i, records.normalise(text), target) for i, text, target in _rows(self.train)]

    def parts(self) -> Iterator[tuple[str, pl.DataFrame]]:
        yield from (("train", self.train), ("val", self.val))

    def given(self, target: str | None) -> set[str]:
        """Return the labels of a target."""
        return set(targets.counts([target], self.task))

    @property
    def modelled(self) -> bool:
        """Whether raw text is all there is."""
        return self.task == "language_modeling"


Guard = Callable[[Texts], Iterator[Finding]]


def found(texts: Texts) -> list[Finding]:
    """Return what all guards find."""
    return [finding for guard in GUARDS for finding in guard(texts)]


def of_rows(part: str, size: int, what: str, rows: Iterable[str], cure: str, *, stops: bool = True) -> list[Finding]:
    """Return a finding about these rows of a part, none where there are none."""
    ids = tuple(rows)
    return [Finding(f"{part}: {len(ids):,} of {size:,} rows {what}", ids, cure, stops)] if ids else []


def empty(texts: Texts) -> Iterator[Finding]:
    """Look for texts without a visible character; a cleaned file has none, a zero-width space passes for a text."""
    columns = ("input",) if texts.modelled else ("input", "target")
    for part, frame in texts.parts():
        for column in columns:
            rows = [i for i, text in frame.select("id", column).iter_rows() if not _visible(text or "")]
            yield from of_rows(part, len(frame), f"have an empty {column}", rows, "fill it in or delete them")


def garbage(texts: Texts) -> Iterator[Finding]:
    """Look for control characters, private ones and those that stand for undecodable bytes."""
    for part, frame in texts.parts():
        shares = {i: _garbage(f"{text}{target or ''}") for i, text, target in _rows(frame)}
        spoilt = [i for i, share in shares.items() if share >= GARBAGE]
        some = [i for i, share in shares.items() if 0 < share < GARBAGE]
        cure = "read the source in its own encoding, or delete them"
        yield from of_rows(part, len(frame), "are control characters or undecodable bytes", spoilt, cure)
        yield from of_rows(part, len(frame), "hold some control characters", some, cure, stops=False)


def contradictions(texts: Texts) -> Iterator[Finding]:
    """Look for one input with several targets: of labels at most one can be right."""
    groups = _alike(texts) if not texts.modelled else {}
    rows = [i for group in groups.values() if len({target for _, target in group}) > 1 for i, _ in group]
    what, labels = "have an input that stands there with another target too", texts.labels is not None
    cure = "keep the right one" if labels else "keep one, unless several answers are meant"
    yield from of_rows("train", len(texts.train), what, rows, cure, stops=labels)


def duplicates(texts: Texts) -> Iterator[Finding]:
    """Look for rows that say again what another has said; they weigh more than others, which may be meant."""
    groups = _alike(texts).values()
    rows = [i for group in groups if len({target for _, target in group}) == 1 for i, _ in group[1:]]
    yield from of_rows("train", len(texts.train), "repeat another", rows, "drop them unless it is meant", stops=False)


def overlap(texts: Texts) -> Iterator[Finding]:
    """Look for inputs of val in train: what was learnt by heart would choose the weights and the winner."""
    known = {text for _, text, _ in texts.compared}
    rows = [i for i, text, _ in _rows(texts.val) if records.normalise(text) in known]
    cure = "divide the data anew: dvc repro --force split"
    yield from of_rows("val", len(texts.val), "have an input of train", rows, cure, stops=not texts.modelled)


def classes(texts: Texts) -> Iterator[Finding]:
    """Look at the labels: a class that train lacks cannot be learnt, one class alone teaches nothing."""
    if texts.labels is None:
        return
    counts, wanted = (targets.counts(part["target"], texts.task) for part in (texts.train, texts.val))
    absent = [label for label in texts.labels if not counts[label]]
    rows = [i for i, _, target in _rows(texts.val) if texts.given(target) & set(absent)]  # that ask for it
    stratified = "" if texts.task == "multilabel" else ", or take split=stratified"
    cure = f"add rows of it, raise data.max_rows{stratified}"
    if len(counts) == 1 and texts.task == "classification":
        yield Finding(f"train: all {len(texts.train):,} rows are {next(iter(counts))!r}", (), cure)
    elif absent:
        cure = cure if rows else "take it out of task.labels if it does not exist"
        yield Finding(f"train: no row of class {', '.join(map(repr, absent))}", tuple(rows), cure, bool(rows))
    unseen = [label for label in counts if not wanted[label]]
    if unseen:
        cure = "add rows of it, or raise split.val" if texts.task == "multilabel" else "take split=stratified"
        yield Finding(f"val: no row of class {', '.join(map(repr, unseen))}", (), cure, False)
    most, number = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if texts.task == "multilabel":
        constant = [label for label, rows in counts.items() if rows == len(texts.train)]
        if constant:
            cure = "take it out of the targets unless it is meant"
            yield Finding(f"train: all rows have class {', '.join(map(repr, constant))}", (), cure, False)
    elif len(counts) > 1 and number >= LOPSIDED * counts.total():
        share = f"train: {number / counts.total():.1%} of the rows are {most!r}"
        yield Finding(share, (), "watch macro_f1 or mcc, accuracy says little", False)


def spread(texts: Texts) -> Iterator[Finding]:
    """Look at numbers: one alone teaches nothing, and a head that begins near 0 takes long to reach large ones."""
    if texts.task != "regression":
        return
    found = targets.numbers(texts.train["target"])
    low, high = np.nanmin(found, initial=np.inf), np.nanmax(found, initial=-np.inf)
    if low == high:
        yield Finding(f"train: all {len(found):,} targets are {low:g}", (), "there is nothing to learn from them")
    elif max(-low, high) > LARGE:
        cure = "bring them near to 0 to 10, in thousands for example"
        yield Finding(f"train: targets reach from {low:g} to {high:g}", (), cure, False)


def strangers(texts: Texts) -> Iterator[Finding]:
    """Look for targets that are no label, which no model with these labels can answer."""
    for part, frame in texts.parts() if texts.labels is not None else ():
        strange: dict[str, list[str]] = defaultdict(list)
        for i, _, target in _rows(frame):
            for label in texts.given(target) - set(texts.labels):
                strange[label].append(i)
        for label, ids in strange.items():
            yield from of_rows(part, len(frame), "have another label", ids, unknown("label", label, texts.labels))


def told(texts: Texts) -> Iterator[Finding]:
    """Look for inputs that say their own label, and hardly ever another one: the answer stands in the question."""
    if texts.labels is None or len(texts.train) < MIN_LEAK_ROWS:
        return
    words = {label: _word(texts.words.get(label, label)) for label in texts.labels}
    own, other = [], 0
    for i, text, target in texts.compared:
        named, given = {label for label, word in words.items() if word.search(text)}, texts.given(target)
        own += [i] if given & named else []
        other += bool(named - given)
    share = len(own) / len(texts.train)
    if share >= SUSPICIOUS and other <= len(own) / 5:
        what = "say their own label in the input, and few another"
        cure = "take it out of the input; a model would read it there and fail where it is missing"
        stops = share >= TOLD and other <= len(own) / 10
        yield from of_rows("train", len(texts.train), what, own, cure, stops=stops)


def copied(texts: Texts) -> Iterator[Finding]:
    """Look for inputs that end with their own answer, as in a column of whole dialogues; that hold it, warn."""
    if texts.labels is not None or texts.modelled or len(texts.train) < MIN_LEAK_ROWS:
        return
    ends, holds, same = [], [], []
    for i, question, target in texts.compared:
        answer = records.normalise(target or "")
        if len(answer) >= MIN_LEAK_CHARACTERS and answer in question:
            (same if question == answer else ends if question.endswith(answer) else holds).append(i)
    size = len(texts.train)
    if len(ends) >= SUSPICIOUS * size:
        cure = "take the answer out of the input (data.columns.input names the question alone)"
        yield from of_rows("train", size, "have an input that ends with its answer", ends, cure)
    elif len(ends) + len(holds) >= SUSPICIOUS * size:
        cure = "fine where the answer is to be found in the text"
        yield from of_rows("train", size, "have the answer in the input", ends + holds, cure, stops=False)
    if len(same) >= SUSPICIOUS * size:
        cure = "fine where copying is the task"
        yield from of_rows("train", size, "have the input as answer", same, cure, stops=False)


GUARDS: tuple[Guard, ...] = (
    empty, garbage, contradictions, duplicates, overlap, classes, spread, strangers, told, copied,
)  # fmt: skip


def _rows(frame: pl.DataFrame) -> Iterator[tuple[str, str, str | None]]:
    yield from frame.select("id", "input", "target").iter_rows()


def _alike(texts: Texts) -> dict[str, list[tuple[str, str | None]]]:
    """Return {normalised input: [(id, target)]} of train's inputs that stand there more than once."""
    groups: dict[str, list] = defaultdict(list)
    for i, text, target in texts.compared:
        groups[text].append((i, target))
    return {key: group for key, group in groups.items() if len(group) > 1}


def _visible(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def _garbage(text: str) -> float:
    return len(NO_TEXT.findall(text)) / max(1, len(text))


def _word(text: str) -> re.Pattern:
    return re.compile(rf"(?<!\w){re.escape(records.normalise(text))}(?!\w)")

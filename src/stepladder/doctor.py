"""Doctor: look at what a training is about to read, before its first step, and stop where it cannot come to good.

doctor: 24 train rows, 9.1 % of 512 tokens are learnt, 0 rows cut; bad 12, good 12
doctor: r0_12: Text: a film fine 12\\nLabel:[[ good]]

Texts are looked at first (`symptoms`), then what the objective made of them: what no batch supervises, what was cut
away, how an answer ends, how it joins the prompt. Such faults train without an error, to a model that never stops, or
has learnt nothing: TRL issues 3927 and 4147, Axolotl issues 1761 and 3088.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from stepladder import symptoms, training
from stepladder.errors import DataError
from stepladder.objectives import named, unanswered
from stepladder.symptoms import Finding, of_rows
from stepladder.training import Examples

TRIED = 100  # rows, evenly spread, where each one costs the tokenizer or a batch
UNKNOWN, MANY_UNKNOWN, MANY_CUT = 0.1, 0.5, 0.05  # shares of tokens, of tokens, of rows
MAX_CLASSES, MAX_CHARACTERS = 8, 160  # that the log shows


@dataclass(frozen=True)
class Case:
    """What an objective made of the records of a fit."""

    objective: object
    train: Examples
    val: Examples

    @property
    def tokenizer(self):
        return self.objective.tokenizer

    @property
    def modelled(self) -> bool:
        """Whether raw text is all there is: its rows hold several records, or parts of one."""
        return self.objective.task in (None, "language_modeling")

    @property
    def written(self) -> bool:
        """Whether answers are texts of any length, which have to end."""
        return self.objective.task == "generation"

    def rows(self) -> Iterator[tuple[str, dict]]:
        """Yield the id of its record, and each train row that stands for one."""
        if not self.modelled:
            ids = self.train.records["id"].to_list()
            yield from ((ids[row["row"]], row) for row in self.train.rows)


Guard = Callable[[Case], Iterator[Finding]]


def encoded(objective, train: pl.DataFrame, val: pl.DataFrame) -> tuple[list[Examples], dict]:
    """Return the records as examples of the objective, and what is to be said of them: see `look`.

    Raises DataError with one line for each fault, its rows and its cure.
    """
    prompt = getattr(objective, "prompt", None)
    labels = getattr(objective, "labels", None)
    texts = symptoms.Texts(train, val, objective.task, labels, prompt.words if prompt else {})
    noted = _refuse([*symptoms.found(texts), *nameless(objective)])
    parts = [training.encode(objective, part, train=part is train) for part in (train, val)]
    return parts, look(objective, *parts, noted=noted)


def look(objective, train: Examples, val: Examples, *, noted: list[Finding] | tuple = ()) -> dict:
    """Return tokens, the share of them that is learnt, labels and warnings of a fit, and tell them in a few lines.

    `noted` are warnings so far. Raises DataError with one line for each fault, its rows and its cure.
    """
    case = Case(objective, train, val)
    noted = [*noted, *_refuse([finding for guard in GUARDS for finding in guard(case)])]
    found = {**_counted(case), "warnings": [str(finding) for finding in noted]}
    _tell(case, found)
    return found


def nameless(objective) -> Iterator[Finding]:
    """Look for a tokenizer without a token that ends what the objective is to end."""
    if objective.task in ("generation", "language_modeling") and objective.tokenizer.eos_token_id is None:
        yield Finding("the tokenizer has no end-of-text token", (), "take a model whose tokenizer names eos_token")


def predicted(row: dict) -> int:
    """Return how much a row gives the loss: its answer's tokens, its label, or each token but the first of a text."""
    if "predicted" in row:
        return row["predicted"]
    if "answer" in row:
        return len(row["answer"]) + len(row.get("earlier", ()))
    if "label" in row:
        return int(not unanswered(row["label"]))
    starts = sum(place == 0 for place in row["positions"]) if "positions" in row else 1
    return max(0, row["length"] - starts)


def masked(case: Case) -> Iterator[Finding]:
    """Look for rows that nothing is learnt from."""
    rows = [i for i, row in case.rows() if not predicted(row)]
    yield from of_rows("train", len(case.train.rows), "teach nothing", rows, "give them a target or delete them")


def hidden(case: Case) -> Iterator[Finding]:
    """Look for batches that leave out what their rows are to teach, as where padding and end are one token."""
    if case.modelled:
        return
    rows = _spread([row for _, row in case.rows()])
    taught, seen = sum(map(predicted, rows)), case.objective.count(case.objective.collate(rows))
    if taught != seen:
        what = f"train: the batches of {len(rows)} rows supervise {seen} of the {taught} predictions in them"
        yield Finding(what, (), "collate and count of the objective must leave none out")


def unseen(case: Case) -> Iterator[Finding]:
    """Look for rows of which nothing is seen: their tokens are those of an empty input."""
    if case.modelled:
        return
    nothing = _ids_of("", case)
    rows = [i for i, row in case.rows() if row["ids"] == nothing]
    whole = len(rows) == len(case.train.rows)
    cure = "raise trainer.max_length, or lower decoding.max_new_tokens"
    cure = "the template must hold {input}, and max_length room for it" if whole else cure
    yield from of_rows("train", len(case.train.rows), "show the model nothing of their input", rows, cure)


def endless(case: Case) -> Iterator[Finding]:
    """Look for answers and texts without the token that ends them: the model would never stop."""
    end, size = case.tokenizer.eos_token_id, len(case.train.rows)
    if case.written:
        rows = [i for i, row in case.rows() if row["answer"][-1:] != [end]]
        cure = "the objective must close each answer with eos_token"
        yield from of_rows("train", size, "have an answer without an end", rows, cure)
    elif case.objective.task and case.modelled and not any(end in row["ids"] for row in _spread(case.train.rows)):
        yield Finding("train: no end-of-text token between the texts", (), "the objective must put one between them")


def early(case: Case) -> Iterator[Finding]:
    """Look for answers that hold the token of the end in their midst, written out: the model would stop there."""
    end = case.tokenizer.eos_token_id
    rows = [i for i, row in case.rows() if end in row.get("answer", ())[:-1]] if case.written else []
    cure = f"take {case.tokenizer.eos_token!r} out of the targets"
    yield from of_rows("train", len(case.train.rows), "end within their answer", rows, cure)


def controls(case: Case) -> Iterator[Finding]:
    """Look for inputs in which a special token is written out; the tokenizer reads it as the token itself."""
    special = set(case.tokenizer.all_special_ids) - {_unknown(case)}
    turns = getattr(getattr(case.objective, "prompt", None), "turns", False)  # each of which brings its own
    if case.modelled or not special or turns:
        return
    usual = Counter(_ids_of("x", case))
    found = ((i, row["ids"], special.intersection(row["ids"])) for i, row in case.rows())
    rows = [i for i, ids, there in found if any(ids.count(token) > usual[token] for token in there)]
    what = "hold special tokens of the tokenizer, written out"
    cure = "take them out unless they are meant"
    yield from of_rows("train", len(case.train.rows), what, rows, cure, stops=False)


def melted(case: Case) -> Iterator[Finding]:
    """Look for answers whose first token would join the prompt's last one: trained on other tokens than are written."""
    if not getattr(case.objective, "continued", False):
        return
    ask, rows = case.objective.prompt, []
    options = {"add_special_tokens": False, "verbose": False}
    for i, text, target in _spread(case.train.records.select("id", "input", "target").drop_nulls("target").rows()):
        question, answer = ask.question(text), ask.answer(target)
        ids = [case.tokenizer(part, **options)["input_ids"] for part in (question, answer, question + answer)]
        rows += [i] if ids[0] + ids[1] != ids[2] else []
    cure = "end prompt.template with ':' or another mark"
    yield from of_rows("train", len(case.train.rows), "have an answer that melts into the prompt", rows, cure)


def unknown(case: Case) -> Iterator[Finding]:
    """Look for texts in letters that the tokenizer does not know: they all look alike to the model."""
    token, special = _unknown(case), set(case.tokenizer.all_special_ids)
    if token is None or case.modelled:
        return
    strange = {i: row["ids"].count(token) for i, row in case.rows()}
    if not any(strange.values()):
        return
    sizes = {i: strange[i] + sum(each not in special for each in row["ids"]) for i, row in case.rows()}
    share = sum(strange.values()) / sum(sizes.values())
    if share >= UNKNOWN:
        rows = [i for i, size in sizes.items() if strange[i] >= share * size]
        what = f"are unknown to the tokenizer in {share:.0%} of their tokens"
        cure = "take a model that was made for this language"
        yield from of_rows("train", len(case.train.rows), what, rows, cure, stops=share >= MANY_UNKNOWN)


def cut(case: Case) -> Iterator[Finding]:
    """Look for many rows whose end is not seen, and for answers that are longer than any that will be written."""
    size, most = len(case.train.rows), (getattr(case.objective, "decoding", None) or {}).get("max_new_tokens")
    found = [
        (
            f"are cut to {case.objective.max_length} tokens",
            [i for i, row in case.rows() if row.get("cut")],
            "raise trainer.max_length",
        ),
        (
            f"have an answer of more than decoding.max_new_tokens={most} tokens",
            [i for i, row in case.rows() if case.written and len(row["answer"]) > most],
            "raise it, or answers will be cut",
        ),
    ]
    for what, rows, cure in found:
        if len(rows) >= MANY_CUT * size:
            yield from of_rows("train", size, what, rows, cure, stops=False)


GUARDS: tuple[Guard, ...] = (masked, hidden, unseen, endless, early, controls, melted, unknown, cut)


def _counted(case: Case) -> dict:
    """Return numbers of a fit in one pass over its rows, which may lie on the disk."""
    sums, labels = Counter({"rows": 0, "tokens": 0, "predicted": 0, "cut": 0}), Counter()
    for row in case.train.rows:
        sums["rows"] += 1
        sums["tokens"] += row["length"] + len(row.get("answer", ()))
        sums["predicted"] += predicted(row)
        sums["cut"] += row.get("cut", False)
        if "label" in row and case.objective.labels:
            labels.update(named(row["label"], case.objective.labels))
    return {**sums, "labels": dict(sorted(labels.items())) or None}


def _refuse(findings: list[Finding]) -> list[Finding]:
    """Return the warnings; raises DataError with a line for each of the others."""
    stops = [str(finding) for finding in findings if finding.stops]
    if stops:
        raise DataError("\n".join(stops))
    return [finding for finding in findings if not finding.stops]


def _tell(case: Case, found: dict) -> None:
    share = f"{found['predicted']:,} predictions from {found['tokens']:,} tokens"
    labels = list((found["labels"] or {}).items())
    shown = [f"{label} {number:,}" for label, number in labels[:MAX_CLASSES]] + ["..."] * (len(labels) > MAX_CLASSES)
    balance = f"; {', '.join(shown)}" if shown else ""
    print(f"doctor: {found['rows']:,} train rows, {share}, {found['cut']:,} rows cut{balance}", flush=True)
    if found["rows"]:
        print(f"doctor: {_sample(case)}", flush=True)
    for warning in found["warnings"]:
        print(f"doctor: warning: {warning}", flush=True)


def _sample(case: Case) -> str:
    """Return the row in the middle as the model sees it, what it is to learn in double brackets."""
    row = case.train.rows[len(case.train.rows) // 2]
    read, learnt = case.tokenizer.decode(row["ids"]), ""
    if "answer" in row:
        learnt = case.tokenizer.decode(row["answer"])
    elif "predicted" in row:
        learnt = f"{row['predicted']} tokens, drawn anew at each step"
    elif "label" in row:
        learnt = " | ".join(named(row["label"], case.objective.labels))
    else:
        read, learnt = case.tokenizer.decode(row["ids"][:1]), case.tokenizer.decode(row["ids"][1:])
    read, learnt = _line(read), _line(learnt)
    room = max(0, MAX_CHARACTERS - len(learnt))
    name = "" if case.modelled else f"{case.train.records['id'][row['row']]}: "
    before = f"...{read[-room:]}" if len(read) > room else read
    return f"{name}{before}[[{learnt if len(learnt) <= MAX_CHARACTERS else learnt[:MAX_CHARACTERS] + '...'}]]"


def _line(text: str) -> str:
    """Return a text on one line of characters that any terminal shows."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown.encode("utf-8", "backslashreplace").decode()


def _spread(rows) -> list:
    """Return at most some rows, evenly spread."""
    return [rows[i] for i in range(0, len(rows), max(1, len(rows) // TRIED))][:TRIED]


def _ids_of(text: str, case: Case) -> list[int]:
    """Return what the objective makes of a text."""
    return case.objective.encode(case.train.records.head(1).with_columns(input=pl.lit(text)), train=False)[0]["ids"]


def _unknown(case: Case) -> int | None:
    """Return the token that stands for what the tokenizer does not know, None where that token has other work too."""
    token = case.tokenizer.unk_token_id
    return None if token in (case.tokenizer.eos_token_id, case.tokenizer.pad_token_id) else token

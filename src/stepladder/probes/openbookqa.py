"""OpenBookQA: 500 questions of elementary science with four answers each, asked before and after tuning.

Zero-shot, by the log-likelihood of each answer behind the question; `normalised` divides it by the answer's length in
characters. Both as the LM Evaluation Harness defines acc and acc_norm of its task openbookqa (Gao et al. 2021).
Questions: Mihaylov et al. 2018, arXiv:1809.02789. Chance is .25.
"""

import numpy as np
import polars as pl

from stepladder import likelihoods
from stepladder.metrics import accuracy
from stepladder.probes import Asked, _lines

FORM = ("causal",)
BECAUSE = "it compares the likelihoods of answers, which a decoder that answers by writing has, and no head or baseline"
MEASURES = {
    "accuracy": None,
    "base_accuracy": "level.name=finetune",
    "accuracy_gain": "level.name=finetune",
    "normalised_accuracy": None,
    "base_normalised_accuracy": "level.name=finetune",
    "normalised_accuracy_gain": "level.name=finetune",
}
LETTERS = "ABCD"


def measure(asked: Asked, *, asset: dict, max_rows: int) -> tuple[dict, pl.DataFrame]:
    """Return accuracy, plain and normalised, of the trained model and of its base on at most `max_rows` questions."""
    questions = asked.sample(read(asked.archives["openbookqa"], asset["members"][0]), max_rows)
    models = {"tuned": asked.answerer}
    if asked.base:
        models["base"] = likelihoods.base(asked.answerer, asked.base)
    rows = {name: _answered(model, questions) for name, model in models.items()}
    measures = {}
    for kind in ("accuracy", "normalised_accuracy"):
        answers = {name: table.rename({kind: "answer"}) for name, table in rows.items()}
        measures[kind] = asked.measured(answers["tuned"], accuracy)
        if asked.base:
            measures[f"base_{kind}"] = asked.measured(answers["base"], accuracy)
            measures[f"{kind}_gain"] = asked.gain(answers["tuned"], answers["base"], accuracy)
    return measures, pl.concat([table.with_columns(model=pl.lit(name)) for name, table in rows.items()])


def read(archive, member: str) -> pl.DataFrame:
    """Return id, question, choices and the letter of the right one, `target`."""
    rows = [
        {
            "id": str(number),
            "question": row["question"].strip(),
            "choices": [choice.partition(". ")[2] for choice in row["options"].split("\n")],
            "target": row["answer"][0],
        }
        for number, row in enumerate(_lines.read(archive, member))
    ]
    return pl.DataFrame(rows)


def _answered(model, questions: pl.DataFrame) -> pl.DataFrame:
    pairs = [(row["question"], f" {choice}") for row in questions.to_dicts() for choice in row["choices"]]
    scores = (
        likelihoods.of_continuations(model, pairs)["nats"].to_numpy().reshape(-1, len(LETTERS))
    )  # (questions, choices), nats
    lengths = np.array([[len(choice) for choice in choices] for choices in questions["choices"]])
    return questions.select("id", "target").with_columns(
        pl.Series("accuracy", [LETTERS[best] for best in scores.argmax(1)]),
        pl.Series("normalised_accuracy", [LETTERS[best] for best in (scores / lengths).argmax(1)]),
        pl.Series("log_likelihoods", scores.tolist()),
    )

"""Level baseline: answers that need no language model, the floor of every table.

`majority` gives the most frequent target of train (for raw text: how often each byte occurs; of several labels those
that together have the best micro F1 on train; of numbers their median). `tfidf` is logistic regression on TF-IDF of
words and word pairs, for several labels one each, for numbers ridge regression, or, where the answer is free text, the
target of the most similar input.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import polars as pl

from stepladder import latency, targets
from stepladder.errors import DataError

FILE = "stepladder.json"
RECORDS = "records.parquet"
REGRESSED = ("classification", "multilabel", "regression")  # tasks that TF-IDF answers by a regression


class Level:
    """A baseline; `state` is all it has learned, as JSON values and one table of records."""

    validated, tokens_read = None, 0

    def __init__(self, sections: dict, *, base: Path | None = None):
        self.sections, self.state, self.records = sections, {}, None

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None, mixture=None) -> dict:
        """Count or regress; return how much was seen. Validation is not looked at."""
        task, model = self.sections["task"], self.sections["model"]
        self.state = {"model": model, "task": task["name"], "seed": self.sections["seed"]}
        self.state |= _counted(task, train)
        self.records = train.select("input", "target") if model["name"] == "tfidf" else None
        facts = {"level": "baseline", "num_parameters": 0, "num_trained_parameters": 0, "tokens_seen": 0}
        facts |= {"rows_seen": len(train), "examples_seen": len(train)}
        if self.records is not None and task["name"] in REGRESSED:
            facts["num_parameters"] = facts["num_trained_parameters"] = self._regress()
        self.state |= facts
        return self.state

    def predict(self, records: pl.DataFrame) -> pl.DataFrame:
        """Return predictions for `records` in their order."""
        head = records.select("id", "source", "target")
        task, name = self.state["task"], self.state["model"]["name"]
        if task == "language_modeling":
            return self._bits(records, head)
        if task == "generation":
            answers = self._nearest(records) if name == "tfidf" else [self.state["majority"]] * len(records)
            return head.with_columns(pl.Series("answer", answers, dtype=pl.String))
        if task == "regression":
            found = self.regression.predict(self._vectors(records)) if name == "tfidf" else None
            constant = np.full(len(records), self.state["majority"])
            return targets.measured(records, constant if found is None else found, self.state["scale"])
        labels = self.state["labels"]
        shares = [self.state["shares"][label] for label in labels]
        matrix = self._regressed(records) if name == "tfidf" else np.tile(shares, (len(records), 1))
        if task == "multilabel":
            chosen = matrix >= self.state["threshold"] if name == "tfidf" else self._constant(len(records))
            return targets.answered(records, matrix, labels, chosen)
        columns = [pl.Series(label, matrix[:, i]) for i, label in enumerate(labels)]
        answers = pl.Series("answer", [labels[i] for i in matrix.argmax(1)])
        return head.with_columns(answers, pl.struct(columns).alias("probabilities"))

    def latency(self, records: pl.DataFrame) -> list[dict]:
        """Return how long answers to some of `records` take, see latency.of."""
        return latency.of(self.predict, records)

    def save(self, folder: Path) -> None:
        """Write JSON and Parquet; TF-IDF keeps its training records and is refitted when loaded, which is exact."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.state, indent=2, ensure_ascii=False, sort_keys=True) + "\n")
        if self.records is not None:
            self.records.write_parquet(folder / RECORDS)

    @classmethod
    def load(cls, folder: Path) -> "Level":
        """Return the level that was saved in `folder`."""
        level = cls({})
        level.state = json.loads((folder / FILE).read_text())
        if (folder / RECORDS).exists():
            level.records = pl.read_parquet(folder / RECORDS)
            if level.state["task"] in REGRESSED:
                level._regress()
        return level

    def _regress(self) -> int:
        """Fit vectors and regression to the records; return the number of coefficients."""
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.multiclass import OneVsRestClassifier

        vectors = self._vectorise()
        if self.state["task"] == "regression":
            ridge = Ridge(alpha=1 / (2 * self.state["model"]["C"]), solver="lsqr", tol=1e-6)  # C in its words
            self.regression = ridge.fit(vectors, targets.numbers(self.records["target"]))
            return self.regression.coef_.size + 1
        regression = LogisticRegression(C=self.state["model"]["C"], max_iter=1000, random_state=self.state["seed"])
        if self.state["task"] == "multilabel":
            marks = targets.marks(self.records.with_row_index("id"), self.state["labels"])
            with warnings.catch_warnings():  # it warns of a label that all or no rows have, and answers as they say
                warnings.filterwarnings("ignore", "Label .* is present in all training examples", UserWarning)
                self.regression = OneVsRestClassifier(regression).fit(vectors, marks)
            return sum(one.coef_.size + one.intercept_.size for one in self.regression.estimators_ if hasattr(one, "C"))
        self.regression = regression.fit(vectors, self.records["target"].to_list())
        return self.regression.coef_.size + self.regression.intercept_.size

    def _constant(self, num_rows: int) -> np.ndarray:
        return np.tile([label in self.state["majority"] for label in self.state["labels"]], (num_rows, 1))

    def _vectorise(self):
        from sklearn.feature_extraction.text import TfidfVectorizer

        model = self.state["model"]
        self.vectorizer = TfidfVectorizer(ngram_range=(1, model["ngram_max"]), min_df=model["min_count"])
        try:
            return self.vectorizer.fit_transform(self.records["input"].to_list())
        except ValueError:
            least = f"model.min_count={model['min_count']}"
            raise DataError(f"model=tfidf: no word stands in so many texts of train ({least}); set it to 1") from None

    def _regressed(self, records: pl.DataFrame) -> np.ndarray:
        return self.regression.predict_proba(self._vectors(records))

    def _vectors(self, records: pl.DataFrame):
        return self.vectorizer.transform(records["input"].to_list())

    def _nearest(self, records: pl.DataFrame) -> list[str]:
        known = self._vectorise()
        asked = self.vectorizer.transform(records["input"].to_list())
        parts = [asked[i : i + 256] @ known.T for i in range(0, asked.shape[0], 256)]  # cosine: rows have length 1
        return [self.records["target"][int(i)] for part in parts for i in np.asarray(part.argmax(1)).ravel()]

    def _bits(self, records: pl.DataFrame, head: pl.DataFrame) -> pl.DataFrame:
        counts = np.array(self.state["bytes"], dtype=float) + 1.0  # add-one smoothing: every byte can occur
        costs = -np.log2(counts / counts.sum())
        sizes = [len(text.encode()) for text in records["input"]]
        bits = [float(costs[_bytes([text])].sum()) for text in records["input"]]
        return head.with_columns(
            pl.lit(None, pl.String).alias("answer"), pl.Series("bits", bits), pl.Series("num_bytes", sizes, pl.Int64)
        )


def _counted(task: dict, train: pl.DataFrame) -> dict:
    """Return what counting the targets of train gives: shares of labels or targets, and the best constant answer."""
    if task["name"] == "language_modeling":
        return {"bytes": np.bincount(_bytes(train["input"]), minlength=256).tolist()}
    if task["name"] == "multilabel":
        counts = targets.counts(train["target"], task["name"])
        labels = list(task["labels"] or sorted(counts))
        shares = {label: counts[label] / len(train) for label in labels}
        found = {"labels": labels, "shares": shares, "threshold": task["threshold"]}
        return found | {"majority": _best_constant(shares)}
    if task["name"] == "regression":
        return {"majority": float(np.median(targets.numbers(train["target"]))), "scale": task["scale"]}
    counts = train["target"].value_counts(sort=True)
    shares = {row["target"]: row["count"] / len(train) for row in counts.sort("target").to_dicts()}
    found = {"majority": max(shares, key=shares.get), "labels": sorted(shares)}
    return found | {"shares": shares if task["name"] == "classification" else {}}


def _best_constant(shares: dict[str, float]) -> list[str]:
    """Return the labels which, answered to each row, have the best micro F1: the most frequent ones, up to some."""
    ranked = sorted(shares, key=lambda label: (-shares[label], label))
    hits, true = np.cumsum([shares[label] for label in ranked]), sum(shares.values())
    scores = 2 * hits / (np.arange(1, len(ranked) + 1) + true)
    return sorted(ranked[: 1 + int(np.argmax(scores))])


def _bytes(texts) -> np.ndarray:
    return np.frombuffer("".join(texts).encode(), dtype=np.uint8)

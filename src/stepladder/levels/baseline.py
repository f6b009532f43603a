"""Level baseline: answers that need no language model, the floor of every table.

`majority` gives the most frequent target of train (for raw text: how often each byte occurs); `tfidf` is logistic
regression on TF-IDF of words and word pairs, or, where the answer is free text, the target of the most similar input.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl

from stepladder.errors import DataError

FILE = "stepladder.json"
RECORDS = "records.parquet"


class Level:
    """A baseline; `state` is all it has learned, as JSON values and one table of records."""

    validated = None

    def __init__(self, sections: dict, *, base: Path | None = None):
        self.sections, self.state, self.records = sections, {}, None

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None) -> dict:
        """Count or regress; return how much was seen. Validation is not looked at."""
        task, model = self.sections["task"], self.sections["model"]
        counts = train["target"].value_counts(sort=True) if task["name"] != "language_modeling" else None
        self.state = {"model": model, "task": task["name"], "seed": self.sections["seed"]}
        if counts is None:
            self.state["bytes"] = np.bincount(_bytes(train["input"]), minlength=256).tolist()
        else:
            shares = {row["target"]: row["count"] / len(train) for row in counts.sort("target").to_dicts()}
            self.state |= {"majority": max(shares, key=shares.get), "labels": sorted(shares)}
            self.state["shares"] = shares if task["name"] == "classification" else {}
        self.records = train.select("input", "target") if model["name"] == "tfidf" else None
        facts = {"level": "baseline", "num_parameters": 0, "num_trained_parameters": 0, "tokens_seen": 0}
        facts |= {"rows_seen": len(train), "examples_seen": len(train)}
        if self.records is not None and task["name"] == "classification":
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
        labels = self.state["labels"]
        shares = [self.state["shares"][label] for label in labels]
        matrix = self._regressed(records) if name == "tfidf" else np.tile(shares, (len(records), 1))
        columns = [pl.Series(label, matrix[:, i]) for i, label in enumerate(labels)]
        answers = pl.Series("answer", [labels[i] for i in matrix.argmax(1)])
        return head.with_columns(answers, pl.struct(columns).alias("probabilities"))

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
            if level.state["task"] == "classification":
                level._regress()
        return level

    def _regress(self) -> int:
        """Fit vectors and regression to the records; return the number of coefficients."""
        from sklearn.linear_model import LogisticRegression

        vectors = self._vectorise()
        self.regression = LogisticRegression(
            C=self.state["model"]["C"], max_iter=1000, random_state=self.state["seed"]
        ).fit(vectors, self.records["target"].to_list())
        return self.regression.coef_.size + self.regression.intercept_.size

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
        return self.regression.predict_proba(self.vectorizer.transform(records["input"].to_list()))

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


def _bytes(texts) -> np.ndarray:
    return np.frombuffer("".join(texts).encode(), dtype=np.uint8)

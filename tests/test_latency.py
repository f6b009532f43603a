"""How long one row and how many rows take: by a stand-in whose time is known."""

import time

import polars as pl
import pytest

from stepladder import latency, ledger

RECORDS = pl.DataFrame({"id": [str(row) for row in range(100)]})


def answering(seconds_a_call: float, seconds_a_row: float, asked: list):
    def predict(records: pl.DataFrame) -> pl.DataFrame:
        asked.append(len(records))
        print("never seen")
        time.sleep(seconds_a_call + seconds_a_row * len(records))
        return records

    return predict


def test_one_row_and_the_best_batch_are_timed_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(latency, "CALLS", (3, 8))
    found = latency.of(answering(0.02, 0.0005, asked := []), RECORDS)
    assert [batch["rows"] for batch in found] == [1, 4, 16, 64] and capsys.readouterr().out == ""
    for batch in found:
        assert 0.02 + 0.0005 * batch["rows"] <= batch["p50"] <= batch["p95"]
        assert batch["rows_per_second"] == pytest.approx(batch["rows"] / batch["p50"], rel=0.3)
    assert ledger.fastest(found)["rows"] == 64 and asked[0] == 1 and asked.count(64) == 8


def test_a_batch_that_is_no_faster_ends_it(monkeypatch):
    monkeypatch.setattr(latency, "CALLS", (3, 3))
    found = latency.of(answering(0.0, 0.02, []), RECORDS)
    assert [batch["rows"] for batch in found] == [1, 4]


def test_slow_answers_are_asked_a_few_times_only(monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.01)
    found = latency.of(answering(0.01, 0.0, []), RECORDS.head(2))
    assert [(batch["rows"], batch["calls"]) for batch in found] == [(1, 3)]


def test_a_batch_that_takes_long_is_the_last(monkeypatch):
    monkeypatch.setattr(latency, "CALLS", (3, 3))
    monkeypatch.setattr(latency, "SLOW_S", 0.05)
    found = latency.of(answering(0.03, 0.01, []), RECORDS)
    assert [batch["rows"] for batch in found] == [1, 4]

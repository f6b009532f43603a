"""The benchmarks' own machinery, without torch: rounds, clocks, the table and its picture."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import yaml

from benchmarks import clocks, rounds, searches, subjects, table
from benchmarks.rounds import OURS, Contest, Pairing, Run

ABOUT = {"clock": "CPU seconds", "threads": 1, "date": "2026-01-02", "versions": {"torch": "1.0"}, "load": 0.5}
ABOUT |= {"machine": "x86_64, 2 cores", "family": "fits"}


def test_a_work_has_every_section_of_a_composed_candidate(monkeypatch):
    monkeypatch.setattr(subjects, "rows", lambda part, number: part)
    monkeypatch.setattr(subjects, "base", Path)
    work = subjects.work(["level=finetune", "model=minilm", "method=full"], num_rows=1, num_val=1, threads=3)
    whole = yaml.safe_load(Path("build/full.yaml").read_text())
    assert whole.keys() - work.sections.keys() == {"code", "options", "overrides"}  # which no level reads
    assert work.sections["runtime"]["num_threads"] == 3


def contest(*, peer=lambda work: Run(6.0, "b"), equal=True, absent=None, **more) -> Contest:
    seconds = iter([9.0, 1.0, 2.0, 3.0])
    contenders = {OURS: lambda work: Run(next(seconds), "a", flops=8.0), "peer": peer}
    judged = lambda warm, timed: (equal, f"{warm[OURS].result} beside {timed['peer'].result}")  # noqa: E731
    return Contest("a job", contenders, [Pairing(OURS, "peer", 2.5, judged, absent)], **more)


def test_the_warm_up_is_dropped_and_the_ratio_is_the_median_of_the_rounds():
    (row,) = rounds.play(contest(rate=lambda: 16.0), number=3)
    assert row["ratios"] == [6.0, 3.0, 2.0] and row["ratio"] == 3.0
    assert row["ours"] == 2.0 and row["theirs"] == 6.0
    assert row["equal_work"] and row["evidence"] == "a beside b"


def test_the_share_of_the_limit_is_flops_a_second_through_the_best_rate():
    rates = iter([10.0, 16.0, 12.0])
    (row,) = rounds.play(contest(rate=lambda: next(rates)), number=3)
    assert row["share_of_limit"] == 0.25  # 8 FLOPs in 2 s, of 16 a second


def test_contenders_take_turns_and_the_first_round_is_of_less_work():
    told = []
    names = {name: lambda work, name=name: told.append((name, work)) or Run(1.0) for name in (OURS, "peer", "check")}
    checks = {"check": names.pop("check")}
    pairing = Pairing(OURS, "peer", 1.0, lambda warm, timed: (True, ""))
    rounds.play(Contest("a job", names, [pairing], warm="few", work="all", checks=checks), number=2)
    assert told == [(OURS, "few"), ("peer", "few"), ("check", "few"), *[(OURS, "all"), ("peer", "all")] * 2]


def test_a_peer_that_is_absent_has_a_row_that_says_why(capsys):
    (row,) = rounds.play(contest(absent=rounds.missing("no_such_package")), number=1)
    assert row["ratio"] is None and row["missing"].startswith("not installed: no_such_package; pip install -r")
    assert "not installed: no_such_package" in capsys.readouterr().out
    assert rounds.missing("json") is None


def test_a_peer_that_fails_costs_its_own_row_alone(capsys):
    def broken(work):
        raise ValueError("out\nof order")

    both = contest(peer=broken)
    both.contenders["other"] = lambda work: Run(4.0)
    both.pairings.append(Pairing(OURS, "other", 2.0, lambda warm, timed: (True, "")))
    bad, good = rounds.play(both, number=3)
    assert bad["missing"] == "failed: ValueError: out of order" and good["ratio"] == 2.0
    assert "out of order" in capsys.readouterr().out


def test_work_that_nobody_saw_is_not_called_equal():
    both = contest()
    both.pairings[0] = Pairing(OURS, "peer", 2.0, lambda warm, timed: (True, warm["exact"].result))
    (row,) = rounds.play(both, number=1)
    assert row["equal_work"] is False and "exact did not run" in row["evidence"]


def test_a_clock_counts_the_cpu_at_one_thread_and_the_wall_at_two():
    for threads, name in ((1, "CPU seconds"), (2, "wall seconds")):
        clock = clocks.Clock(threads)
        with clock.running():
            time.sleep(0.05)
        assert clock.name == name and (clock.spent >= 0.05) == (threads == 2)


def test_a_call_is_timed_where_it_lies_and_left_as_it_was():
    owner = SimpleNamespace(work=lambda number, more: number + more)
    original = owner.work
    with clocks.within(clocks.Clock(2), owner, "work") as spent:
        assert owner.work(1, more=2) == 3
    assert len(spent) == 1 and spent[0] >= 0 and owner.work is original


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    for name, end in (("JSON", "json"), ("MARKDOWN", "md"), ("PICTURE", "png")):
        monkeypatch.setattr(table, name, tmp_path / f"latest.{end}")
    return tmp_path


def test_the_table_says_ratio_goal_and_what_is_missing_and_is_drawn(results):
    played = rounds.play(contest(equal=False, rate=lambda: 16.0), number=3)
    rows = [{**row, **ABOUT} for row in played + rounds.play(contest(absent="not on this machine"), number=1)]
    table.write(rows)
    assert json.loads((results / "latest.json").read_text()) == rows
    page = (results / "latest.md").read_text()
    assert "2026-01-02, x86_64, 2 cores, load 0.5" in page and "torch 1.0" in page
    assert "| a job | peer | 2.00 s | 6.00 s | **3.0** | 2.0 to 6.0 | >= 2.5 | **no** | 25% |" in page
    assert "| a job | peer | | | **not on this machine** | | >= 2.5 | | |" in page
    assert (results / "latest.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_other_families_outlive_a_run_of_some(results):
    table.write(
        [{**row, **ABOUT, "family": name} for name in ("fits", "scoring") for row in rounds.play(contest(), number=1)]
    )
    assert [row["family"] for row in table.kept(["fits"])] == ["scoring"]


def answers(right: dict[str, str], unit: str = "id") -> pl.DataFrame:
    """Return predictions {"a1": "01"}: a row for each mark of a document, right where it is 1."""
    rows = [(f"{name}{i}", name, mark) for name, marks in right.items() for i, mark in enumerate(marks)]
    ids, units, marks = zip(*rows, strict=True)
    return pl.DataFrame({"id": ids, "unit": units if unit == "unit" else ids, "target": "1", "answer": marks})


def test_seeds_of_a_row_and_rows_of_a_document_are_drawn_together():
    better, shipped = ({f"d{i}": mark * 10 for i in range(40)} for mark in "10")
    mixed = better | {f"d{i}": "0" * 10 for i in range(30)}
    found = {unit: [answers(mixed, unit)] * 3 for unit in ("id", "unit")}
    whole, apart = (searches.gain(found[unit], [answers(shipped, unit)] * 3) for unit in ("unit", "id"))
    assert whole["difference"] == apart["difference"] == 0.25
    assert (whole["units"], apart["units"]) == (40, 400)
    assert 0.1 < whole["low"] < 0.17, "a quarter of 40 documents: .25 - 1.64 * sqrt(.25 * .75 / 40) = .14"
    assert 0.2 < apart["low"] < 0.23, "of 400 rows"
    assert searches.gain(found["unit"][:1], [answers(shipped, "unit")])["low"] == whole["low"], (
        "equal seeds add nothing"
    )
    assert whole["better"] and whole["not_inferior"]
    worse = searches.gain([answers(shipped)], [answers(mixed)])
    assert worse["difference"] == -0.25 and not worse["not_inferior"] and not worse["better"]


def tried(*scores: float | None) -> list[dict]:
    return [
        {"score": score, "seconds": 2.0 if score else 1.0, "passes": 10 if score else 1, "pruned": not score}
        for score in scores
    ]


def test_the_share_of_compute_counts_what_was_spent_up_to_the_goal():
    random = tried(0.7, 0.8, 0.75, 0.6)
    assert searches.shares(tried(0.7, None, None, 0.8, 0.9), random) == {"seconds": 0.75, "passes": 0.55}
    assert searches.shares(tried(0.7, None, 0.79), random) == {"seconds": None, "passes": None}


def test_a_trial_that_was_ended_has_no_score_and_the_passes_it_made():
    whole = SimpleNamespace(value=0.8, state=SimpleNamespace(name="COMPLETE"), user_attrs={"steps": [3, 6]})
    ended = SimpleNamespace(value=0.7, state=SimpleNamespace(name="PRUNED"), user_attrs={"steps": [3]})
    baseline = SimpleNamespace(value=0.6, state=SimpleNamespace(name="COMPLETE"), user_attrs={})
    assert searches.told([whole, ended, baseline], [2.0, 1.0, 0.504]) == [
        {"score": 0.8, "seconds": 2.0, "passes": 2, "pruned": False},
        {"score": None, "seconds": 1.0, "passes": 1, "pruned": True},
        {"score": 0.6, "seconds": 0.5, "passes": 1, "pruned": False},
    ]


def test_the_table_of_searches_says_what_is_shown_and_what_is_not():
    won = {"difference": 0.012, "low": 0.004, "units": 9, "not_inferior": True, "better": True}
    lost = {"difference": -0.004, "low": -0.013, "units": 9, "not_inferior": False, "better": False}
    row = {"candidate": "frozen", "data": "tweets", "num_test": 2019, "gains": {"tpe": won, "random": lost}}
    row |= {"scores": {"default": [0.8, 0.81], "tpe": [0.82, 0.83], "random": [0.8, 0.802]}}
    row |= {"seconds": {"tpe": [10.0, 12.4], "random": [20.0, 21.0]}}
    row |= {"shares": [{"seconds": 0.4, "passes": 0.255}, {"seconds": None, "passes": None}]}
    assert searches.markdown([row]).splitlines()[-1] == (
        "| frozen | tweets | 2,019 | 0.8050 | 0.8250 | 0.8010 | +0.0120 | +0.0040, better "
        "| -0.0040 | -0.0130, **not shown** | 41 | 22 | 0.40, never | 0.26, never |"
    )


def test_no_function_is_longer_than_elsewhere():
    import ast

    for file in sorted((table.ROOT / "benchmarks").glob("*.py")):
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        assert not [node.name for node in nodes if node.end_lineno - node.lineno >= 60]
        assert len(file.read_text().splitlines()) <= 300

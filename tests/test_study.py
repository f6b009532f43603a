"""Study: points in Hydra's grammar, trials that depend on the seed and on what is finished, and no trial twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from stepladder import spaces, study
from stepladder.errors import ConfigError, NumericsError

NUMBERS = {"x": "interval(-5, 5)", "y": "tag(log, interval(1e-3, 1))", "z": "int(interval(1, 9))"}
MIXED = {"method": "choice(lora, ia3)", "x": "interval(-5, 5)", "method=lora": {"method.r": "range(4, 17, 4)"}}
SPACES = {"random": MIXED, "tpe": MIXED, "nsgaii": MIXED, "gp": NUMBERS, "cmaes": NUMBERS, "qmc": NUMBERS}


pytestmark = pytest.mark.slow


def value(point: dict) -> float:
    return (point["x"] - 1) ** 2 + point.get("y", 0) + abs(point.get("z", point.get("method.r", 8)) - 4)


def searched(place: Path, sampler: str, n_trials: int, **more) -> list[dict]:
    """Return the points that a study has tried and what they led to."""
    space, plan = spaces.of({"parameters": SPACES[sampler]}), study.Plan(7, sampler, n_trials=n_trials, **more)
    trials = study.run(
        study.open_study(place, "s", plan), space, plan, lambda asked: (value(point) for _, point in asked)
    )
    return [study.point(trial, space) | {"value": trial.value} for trial in trials]


@pytest.mark.capability(24)
@pytest.mark.parametrize("sampler", SPACES)
def test_ten_trials_continued_to_twenty_are_twenty_at_once(tmp_path, sampler):
    few, many = (11, 13) if sampler == "gp" else (10, 20)  # its first ten are random
    whole = searched(tmp_path / "whole.log", sampler, many)
    first = searched(tmp_path / "parts.log", sampler, few)
    assert searched(tmp_path / "parts.log", sampler, many) == whole
    assert whole[:few] == first and len({json.dumps(each) for each in whole}) > 0.6 * many
    assert searched(tmp_path / "parts.log", sampler, few) == first, "a shorter search looks at its own trials"


@pytest.mark.parametrize(("sampler", "least"), [("tpe", 0.2), ("gp", 0.2), ("cmaes", 1.0)])
def test_a_sampler_that_learns_comes_nearer_than_chance(tmp_path, sampler, least):
    n_trials = 14 if sampler == "gp" else 40
    bests = {}
    for name in (sampler, "random"):
        space, plan = (
            spaces.of({"parameters": {"x": "interval(-5, 5)", "y": "interval(-5, 5)"}}),
            study.Plan(3, name, n_trials=n_trials),
        )
        found = study.open_study(tmp_path / name, "s", plan)
        study.run(found, space, plan, lambda asked: ((p["x"] - 1) ** 2 + (p["y"] + 2) ** 2 for _, p in asked))
        bests[name] = found.best_value
    assert bests[sampler] < min(least, bests["random"])


DIES = """
import os, signal, sys, time
from pathlib import Path
from tests import test_study
from stepladder import spaces, study
def slow(asked):
    for trial, point in asked:
        with open(sys.argv[2], "a") as tried:
            print(trial.number, point, file=tried, flush=True)
        time.sleep(.05)
        yield test_study.value(point)
space, plan = spaces.of({"parameters": test_study.MIXED}), study.Plan(7, "tpe", n_trials=14)
study.run(study.open_study(Path(sys.argv[1]), "s", plan), space, plan, slow)
"""


@pytest.mark.capability(24)
def test_a_study_that_is_killed_repeats_no_finished_trial_and_ends_as_an_unbroken_one(tmp_path):
    place, tried = tmp_path / "study.log", tmp_path / "tried"
    root = Path(__file__).parents[1]
    for least in (3, 7):
        process = subprocess.Popen(
            [sys.executable, "-c", DIES, place, tried],
            cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
            stdout=subprocess.DEVNULL,
        )
        while not tried.is_file() or len(tried.read_text().splitlines()) < least:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        with place.open("a") as journal:
            journal.write('{"op_code":6,"tri')  # half a line
        Path(f"{place}.lock").unlink(missing_ok=True)
        Path(f"{place}.lock").symlink_to(place)  # killed while it wrote
    assert searched(place, "tpe", 14) == searched(tmp_path / "whole.log", "tpe", 14)
    lines = tried.read_text().splitlines()
    repeated = [line for line in {*lines} if lines.count(line) > 1]
    assert len(repeated) <= 2, "only the trial in hand is begun again, with the same point"
    assert len({line.split()[0] for line in lines}) == len({*lines})


def test_failed_trials_count_against_a_limit_and_the_one_too_many_is_tried_again(tmp_path):
    space, broken = spaces.of({"parameters": {"x": "range(6)"}}), {1, 3, 4}
    plan = study.Plan(0, n_trials=6, max_failure_rate=0.4)  # two of six

    def fails(asked):
        for _, point in asked:
            yield NumericsError("loss is nan") if point["x"] in broken else float(point["x"])

    found = study.open_study(tmp_path / "study.log", "s", plan)
    with pytest.raises(NumericsError, match=r"trial 4: \{'x': 4\}: loss is nan"):
        study.run(found, space, plan, fails)
    broken.remove(4)
    trials = study.run(found, space, plan, fails)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["fault"] == "loss is nan"
    with pytest.raises(ConfigError, match="none came to an end"):
        study.best(trials[1:2], "minimize")


def test_a_score_that_is_no_number_is_a_failure(tmp_path):
    space, plan = spaces.of({"parameters": {"x": "range(2)"}}), study.Plan(0)
    with pytest.raises(NumericsError, match="its score is nan"):
        study.run(study.open_study(tmp_path / "a", "s", plan), space, plan, lambda asked: [float("nan") for _ in asked])


def test_no_trial_begins_after_the_time_is_spent(tmp_path, monkeypatch):
    space, plan = spaces.of({"parameters": {"x": "range(9)"}}), study.Plan(0, max_seconds=25.0)
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(study.time, "monotonic", lambda: next(clock))
    trials = study.run(study.open_study(tmp_path / "a", "s", plan), space, plan, lambda asked: [0.0 for _ in asked])
    assert [trial.user_attrs["seconds"] for trial in trials] == [10, 10, 10]


def test_known_points_come_first_whole_or_in_part(tmp_path):
    found = searched(tmp_path / "a", "tpe", 4, enqueue=({"method": "lora", "x": 1.5, "method.r": 8}, {"x": -2.0}))
    assert found[0] == {"method": "lora", "x": 1.5, "method.r": 8, "value": 4.25}
    assert found[1]["x"] == -2.0


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_a_pruner_stops_what_falls_behind_and_a_value_told_twice_is_one(tmp_path, pruner):
    space, plan = spaces.of({"parameters": {"x": "range(16)"}}), study.Plan(0, pruner=pruner, num_checks=9)
    checks = []

    def learns(asked):
        for trial, point in asked:
            try:
                for step in (*range(1, 6), 5, *range(5, 10)):
                    study.report(trial, point["x"] + 1 / step, step * 50)
                    checks.append(point["x"])
                yield point["x"]
            except optuna.TrialPruned as stopped:
                yield stopped

    trials = study.run(study.open_study(tmp_path / "a", "s", plan), space, plan, learns)
    states = [trial.state.name for trial in trials]
    assert states[0] == "COMPLETE" and states.count("PRUNED") >= 5
    assert list(trials[0].intermediate_values) == list(range(1, 10))
    assert len(checks) < 0.7 * 16 * 11, "a pruned trial costs less than a whole one"
    assert study.best(trials, "minimize").number == 0


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 2)])
def test_the_first_of_equal_scores_is_the_best(direction, best):
    made = [optuna.trial.create_trial(value=value) for value in (0.5, 0.7, 0.2, 0.7, 0.2)]
    for number, trial in enumerate(made):
        trial.number = number
    assert study.best(made, direction).number == best


def test_the_importance_of_each_parameter_is_told_the_same_each_time(tmp_path):
    space, plan = (
        spaces.of({"parameters": {"x": "interval(-1, 1)", "y": "interval(-1, 1)"}}),
        study.Plan(5, "random", n_trials=30),
    )
    found = study.open_study(tmp_path / "a", "s", plan)
    trials = study.run(found, space, plan, lambda asked: (10 * point["x"] + point["y"] for _, point in asked))
    shares = study.importance(trials, plan)
    assert list(shares) == ["x", "y"] and shares["x"] > 0.9 and sum(shares.values()) == pytest.approx(1, abs=2e-3)
    assert study.importance(trials, plan) == shares
    assert study.importance(trials[:3], plan) == {} and study.importance(trials[:1] * 9, plan) == {}


def test_a_study_does_not_go_on_in_another_space(tmp_path):
    plan, found = study.Plan(0), study.open_study(tmp_path / "a", "s", study.Plan(0))
    study.run(found, spaces.of({"parameters": {"x": [1, 2]}}), plan, lambda asked: [0.0 for _ in asked])
    with pytest.raises(ConfigError, match=r"study s searches .* take another study_name"):
        study.run(found, spaces.of({"parameters": {"x": [1, 2, 3]}}), plan, lambda asked: [0.0 for _ in asked])

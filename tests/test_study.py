"""Study: points in Hydra's grammar, trials that depend on the seed and on what is finished, and no trial twice."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from stepladder import spaces, study, trials
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
from stepladder import spaces, study, trials
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


def test_a_study_does_not_go_on_after_other_known_points(tmp_path):
    searched(tmp_path / "a", "tpe", 2, enqueue=({"x": 1.5},))
    with pytest.raises(ConfigError, match=r"study s begins with \[\{'x': 1.5\}\], not .* take another study_name"):
        searched(tmp_path / "a", "tpe", 4, enqueue=({"x": 2.5},))


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
    tried = study.run(found, space, plan, lambda asked: (10 * point["x"] + point["y"] for _, point in asked))
    shares = trials.importance(tried, plan)
    assert list(shares) == ["x", "y"] and shares["x"] > 0.9 and sum(shares.values()) == pytest.approx(1, abs=2e-3)
    assert trials.importance(tried, plan) == shares
    assert trials.importance(tried[:3], plan) == {} and trials.importance(tried[:1] * 9, plan) == {}


def test_a_study_does_not_go_on_in_another_space(tmp_path):
    plan, found = study.Plan(0), study.open_study(tmp_path / "a", "s", study.Plan(0))
    study.run(found, spaces.of({"parameters": {"x": [1, 2]}}), plan, lambda asked: [0.0 for _ in asked])
    with pytest.raises(ConfigError, match=r"study s searches .* take another study_name"):
        study.run(found, spaces.of({"parameters": {"x": [1, 2, 3]}}), plan, lambda asked: [0.0 for _ in asked])


def tried(tmp_path: Path, words: dict, score, *, n_trials: int, seed: int = 5) -> tuple:
    space = spaces.of({"parameters": words})
    plan = study.Plan(seed, "random", n_trials=n_trials, directions=("maximize",))
    found = study.open_study(tmp_path / "a", "s", plan)
    return study.run(found, space, plan, lambda asked: (score(point) for _, point in asked)), space, plan


def test_what_no_trial_has_had_is_named(tmp_path):
    words = {"method": "choice(lora, ia3, vera)", "x": "interval(0, 1)", "z": "range(1, 4)", "r": "int(interval(1, 9))"}
    made, space, _ = tried(tmp_path, words, lambda point: point["x"], n_trials=3)
    had = {each.key: sorted({trial.params[each.name] for trial in made}) for each in space}
    lines = dict(line.split(": ", 1) for line in trials.untried(made, space))
    assert set(lines.get("method", "").split(", ")) - {""} == {"lora", "ia3", "vera"} - {*had["method"]}
    ends = sorted({0.0, *had["x"], 1.0})
    low, high = max(itertools.pairwise(ends), key=lambda pair: pair[1] - pair[0])
    assert lines["x"] == f"{low:g} to {high:g}, {high - low:.0%} of its range"
    assert trials.untried([], space)[1] == "x: all of 0 to 1"


@pytest.mark.parametrize("had", [[0.01], [0.1, 0.01, 0.001]])
def test_a_gap_of_a_logarithmic_parameter_is_measured_in_powers(had):
    space = spaces.of({"parameters": {"rate": "tag(log, interval(1e-3, 1e-1))"}})
    drawn = {"rate": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)}
    made = [optuna.trial.create_trial(value=0.0, params={"rate": rate}, distributions=drawn) for rate in had]
    assert trials.untried(made, space) == ["rate: 0.001 to 0.01, 50% of its range"]


def test_neighbours_of_a_range_leave_nothing_untried(tmp_path):
    made, space, _ = tried(tmp_path, {"z": "range(1, 4)"}, lambda point: point["z"], n_trials=40)
    assert trials.untried(made, space) == []


def test_a_search_is_drawn_with_all_its_parameters_and_the_same_each_time(tmp_path):
    words = {"x": "interval(0, 1)", "y": "interval(0, 1)"}
    made, space, plan = tried(tmp_path, words, lambda point: point["x"], n_trials=12)
    told = trials.write(made, space, plan, tmp_path / "one")
    trials.write(made, space, plan, tmp_path / "two")
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == ["coordinates.svg", "importance.svg", "search.json", "slices.svg"]  # no trial was validated twice
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    for file in files[:2] + files[3:]:
        picture = (tmp_path / "one" / file).read_text()
        assert ">x<" in picture and ">y<" in picture, file
    assert told["best"]["score"] == max(trial.value for trial in made) and told["states"] == {"complete": 12}
    assert json.loads((tmp_path / "one" / "search.json").read_text()) == told


def test_one_trial_is_no_picture(tmp_path):
    made, space, plan = tried(tmp_path, {"x": "interval(0, 1)"}, lambda point: point["x"], n_trials=1)
    trials.write(made, space, plan, tmp_path / "one")
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["search.json"]

"""Study: Optuna asked for one trial after the other, each a function of the seed and of the trials finished before it.

A study lies in a journal file, or in a database that a URL names, which several workers may ask. What was tried is
never tried again: a study goes on where a process died, with the trial that it had in hand.
Source: https://optuna.readthedocs.io/en/v5.0.0/, ask and tell
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stepladder import samplers, spaces, storages, workers
from stepladder.errors import BusyError, ConfigError, MachineError, NumericsError, StepladderError

PRUNED = "KILLED"  # MLflow's word for the run of a pruned trial
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
SAID = ("sampler", "pruner", "n_trials", "enqueue", "max_failure_rate", "max_seconds")  # in a section sweep
MACHINE = (OSError, MemoryError, MachineError, BusyError)  # faults that are no trial's: they end the search
Evaluate = Callable[[list], Iterable]  # [(trial, point), ...] -> a value, several or what was raised, for each


@dataclass(frozen=True)
class Plan:
    """How to search: defaults of what a section `sweep` leaves out; a grid has as many trials as points."""

    seed: int
    sampler: str = "grid"
    pruner: str = "none"
    n_trials: int | None = None
    enqueue: tuple[dict, ...] = ()  # points, whole or in part, that come before what a sampler draws
    max_failure_rate: float = 0.0
    max_seconds: float | None = None  # no trial begins later; what is found then depends on the machine
    directions: tuple[str, ...] = ("minimize",)
    num_checks: int = 1  # validations of a trial at most, as pruners count


def open_study(place: Path | str, name: str, plan: Plan, *, anew: bool = False):
    """Return the Optuna study of this name, as it was left or new; nobody else may ask that of a journal file.

    Raises BusyError for one that is to begin anew while workers are at it.
    """
    import optuna

    storage = storages.open_at(place)
    if anew and name in optuna.get_all_study_names(storage):
        known = optuna.load_study(study_name=name, storage=storage)
        if isinstance(place, str) and (at_it := workers.num_running(known)):
            raise BusyError(f"study {name}: {at_it} of its trials are worked on; end those workers, or wait")
        optuna.delete_study(study_name=name, storage=storage)
    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=plan.directions,
        pruner=samplers.pruner(plan.pruner, plan.num_checks),
        load_if_exists=True,
    )


def join(place: Path | str, name: str, plan: Plan, number: int):
    """Return the trial of a study that another process asked for, so that this one reports what it reaches."""
    import optuna

    chance = optuna.samplers.RandomSampler()  # draws nothing: the point is there
    pruner = samplers.pruner(plan.pruner, plan.num_checks)
    study = optuna.load_study(study_name=name, storage=storages.join_at(place), sampler=chance, pruner=pruner)
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def run(
    study, space: list[spaces.Parameter], plan: Plan, evaluate: Evaluate, *, batch: int = 1, alone: bool = True
) -> list:
    """Try points until the study has its trials, `batch` at a time, and return these: one at a time is reproducible.

    What is running in a study that no other process asks (`alone`) is of a dead one, and gone on with.

    Raises what a trial raised where more than the allowed share of trials fail: that one is not told, and tried again
    by the same command.
    """
    known = _known(space, plan)
    _require_same(study, "searches", space)
    _require_same(study, "begins with", known)
    total = len(known) if plan.n_trials is None else plan.n_trials
    total = min(total, len(known)) if plan.sampler == "grid" else total
    _require_few_failures(finished(study)[:total], total, plan.max_failure_rate * total)
    before, began = len(finished(study)), time.monotonic()
    while (left := total - len(finished(study))) > 0 and seconds(study) < (plan.max_seconds or math.inf):
        free = left if alone else left - workers.num_running(study)
        asked = _ask(study, space, plan, known, min(free, batch), total, alone)
        with workers.holding(study, [trial for trial, _ in asked]):
            _evaluate(study, plan, evaluate, asked, total)
        if not asked:  # others have the rest in hand
            time.sleep(workers.WAIT_S)
        elif left > len(asked):
            print(_progress(study, plan, total, before, time.monotonic() - began), flush=True)
    return finished(study)[:total]


def finished(study) -> list:
    """Return the trials that ended, in their order, without those that dead workers gave up."""
    return [each for each in study.get_trials(deepcopy=False) if each.state.is_finished() and workers.counts(each)]


def seconds(study) -> float:
    """Return how long the finished trials took, also in processes before this one."""
    return sum(trial.user_attrs.get("seconds", 0.0) for trial in finished(study))


def point(trial, space: list[spaces.Parameter]) -> dict:
    """Return the point {key: value} of a finished trial."""
    import optuna

    return spaces.draw(space, optuna.trial.FixedTrial(trial.params))


def pruned() -> type[Exception]:
    """Return what a trial raises that is not worth going on."""
    import optuna

    return optuna.TrialPruned


def best(trials: list, direction: str):
    """Return the first of the best trials; ConfigError where none came to an end."""
    found = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not found:
        raise ConfigError(f"of {len(trials)} trials none came to an end; raise sweep.n_trials, or prune less")
    sign = 1 if direction == "maximize" else -1
    return max(found, key=lambda trial: (sign * trial.value, -trial.number))


def report(trial, value: float, step: int) -> None:
    """Tell what a trial reached after the training step; raises optuna.TrialPruned where it is not worth going on.

    Pruners count validations, since trials of other batch sizes have other steps. One told again changes nothing.
    """
    import optuna

    steps = trial.user_attrs.get("steps", [])
    if step not in steps:
        trial.report(value, len(steps) + 1)
        trial.set_user_attr("steps", [*steps, step])
    if trial.should_prune():
        stopped = optuna.TrialPruned(f"after {len(trial.user_attrs['steps'])} validations")
        stopped.status = PRUNED
        raise stopped


def _known(space: list[spaces.Parameter], plan: Plan) -> list[dict]:
    """Return the points that come before what a sampler draws, each once."""
    points = [spaces.named(space, each) for each in plan.enqueue]
    points += [spaces.named(space, each) for each in spaces.grid(space)] if plan.sampler == "grid" else []
    return [each for place, each in enumerate(points) if each not in points[:place]]


def _ask(
    study, space: list[spaces.Parameter], plan: Plan, known: list[dict], number: int, total: int, alone: bool
) -> list:
    """Return at most so many trials and their points; first those that a dead process had in hand, as they were.

    A trial has the known point of its place: no list of them stands in the study, which two workers would both begin.
    """
    import optuna

    asked, running = [], (optuna.trial.TrialState.RUNNING,)
    left = list(study.get_trials(deepcopy=False, states=running)) if alone else []
    while len(asked) < number:
        trial = optuna.Trial(study, left.pop(0)._trial_id) if left else study.ask()
        if not alone and workers.superfluous(study, trial, total):
            break
        study.sampler = samplers.sampler(plan.sampler, plan.seed, trial.number)  # nothing is drawn before this
        if (place := workers.place(study, trial)) < len(known):
            study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", known[place])  # as enqueue_trial does
            trial = optuna.Trial(study, trial._trial_id)
        asked.append((trial, spaces.draw(space, trial)))
    return asked


def _evaluate(study, plan: Plan, evaluate: Evaluate, asked: list, total: int) -> None:
    """Try what was asked, tell how each trial ended, and raise the last fault that is one too many."""
    import optuna

    began, fault = time.monotonic(), None
    for (trial, chosen), outcome in zip(asked, evaluate(asked) if asked else (), strict=True):
        before, place = trial.user_attrs.get("before", 0.0), len(finished(study)) + 1
        try:
            trial.set_user_attr("seconds", round(before + time.monotonic() - began, 3))
            fault = _tell(study, trial, outcome, spare=plan.max_failure_rate * total) or fault
            print(f"trial {place} of {total}: {chosen} -> {_said(outcome)}", flush=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            lost = f"it was silent for {storages.SILENT_S} s, and another worker has it in hand"
            print(f"trial {chosen}: {lost}", flush=True)
        began = time.monotonic()
    if fault:
        raise fault


def _tell(study, trial, outcome, *, spare: float) -> Exception | None:
    """Tell how a trial ended; return its fault instead where that is one more than there are to spare."""
    import optuna

    values = outcome if isinstance(outcome, Exception | list | tuple) else [outcome]
    if not isinstance(values, Exception) and not all(map(math.isfinite, values)):
        values = NumericsError(f"its score is {outcome}, not a finite number")
    elif not isinstance(values, Exception) and len(values) != len(study.directions):
        values = ConfigError(f"{len(values)} scores for {len(study.directions)} directions")
    if isinstance(values, optuna.TrialPruned):
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    elif isinstance(values, Exception):
        failed = 1 + sum(each.state.name == "FAIL" for each in finished(study))
        if failed > spare or isinstance(values, MACHINE):
            kind = type(values) if isinstance(values, StepladderError) else None
            return kind(f"trial {trial.number}: {trial.params}: {values}") if kind else values
        trial.set_user_attr("fault", " ".join(str(values).split()))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, list(values))
    return None


def _require_same(study, what: str, said: list) -> None:
    """Raise ConfigError where the trials of a study were drawn from another space, or after other known points."""
    told = repr(said)
    if (before := study.user_attrs.get(what, told)) != told:
        cure = "take another study_name, or begin anew (resume=false)"
        raise ConfigError(f"study {study.study_name} {what} {before}, not {told}; {cure}")
    study.set_user_attr(what, told)


def _require_few_failures(trials: list, total: int, spare: float) -> None:
    """Raise ConfigError where more trials have failed than are allowed any more."""
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    if len(failed) > spare:
        last = f"trial {failed[-1].number}: {failed[-1].user_attrs.get('fault')}"
        raise ConfigError(f"max_failure_rate: {len(failed)} of {total} trials failed; {last}")


def _said(outcome) -> str:
    if isinstance(outcome, pruned()):
        return f"pruned {outcome}"
    if isinstance(outcome, Exception):
        return f"failed: {outcome}"
    return ", ".join(f"{value:.4f}" for value in (outcome if isinstance(outcome, list | tuple) else [outcome]))


def _progress(study, plan: Plan, total: int, before: int, took: float) -> str:
    """Return how far a search is, also by the hands of other workers; `before` trials were finished when it began."""
    done = finished(study)
    found = [each for each in done if each.state.name == "COMPLETE"] if len(plan.directions) == 1 else []
    told = f", best {best(found, plan.directions[0]).value:.4f}" if found else ""
    left = took / max(len(done) - before, 1) * max(total - len(done), 0)
    return f"{len(done)} of {total} trials done{told}, about {left:.0f} s left"

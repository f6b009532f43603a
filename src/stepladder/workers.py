"""Workers: several processes that ask one study in a database, each of which may die at any moment.

A worker shows every BEAT_S seconds that its trials are worked on (Optuna's heartbeat, by the database's clock). What
was not shown for SILENT_S is of a dead worker: it is given up (FAIL without a fault, which counts for nothing), and its
point waits, with a number of its own, for whoever asks next. So does what a worker that ends in order has in hand.
A journal file has one worker, and none of this. Source: https://optuna.readthedocs.io/en/v5.0.0/, RDBStorage
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stepladder.storages import BEAT_S, quiet

WAIT_S = 2.0  # between two looks at trials that others have in hand
SUPERFLUOUS = "superfluous"
BEGUN_BEFORE = "failed_trial"  # Optuna's name for the number under which a trial was first begun


def counts(trial) -> bool:
    """Say whether a trial is one of its study's, and not one that was given up."""
    return trial.state.name != "FAIL" or "fault" in trial.user_attrs


def num_running(study) -> int:
    """Return how many trials living workers have in hand; those of dead ones wait from now on to be asked for."""
    import optuna

    with quiet():
        optuna.storages.fail_stale_trials(study)
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)))


def superfluous(study, trial, total: int) -> bool:
    """Give a trial up where others asked for the last one at the same moment: it is one too many."""
    import optuna

    if sum(map(counts, study.get_trials(deepcopy=False)[: trial.number])) < total:
        return False
    trial.set_user_attr(SUPERFLUOUS, True)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return True


def place(study, trial) -> int:
    """Return which trial of its study one is, counted from 0: as often as it is begun again, it stays the same."""
    trials = study.get_trials(deepcopy=False)
    first = trials[trial.number].system_attrs.get(BEGUN_BEFORE, trial.number)
    apart = (BEGUN_BEFORE in each.system_attrs or SUPERFLUOUS in each.user_attrs for each in trials[:first])
    return first - sum(apart)


@contextmanager
def holding(study, trials: list) -> Iterator[None]:
    """Show that trials are worked on; what is not told in the end is given up, and waits for whoever asks next."""
    from optuna.storages._heartbeat import is_heartbeat_enabled

    if not is_heartbeat_enabled(study._storage):
        yield
        return
    _beat(study, trials)
    ended = threading.Event()
    thread = threading.Thread(target=_beating, args=(study, trials, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for trial in trials:
            _give_up(study, trial)


def _beating(study, trials: list, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(Exception):  # a database that is away for a moment; SILENT_S is several beats
            _beat(study, trials)


def _beat(study, trials: list) -> None:
    for trial in trials:
        study._storage.record_heartbeat(trial._trial_id)


def _give_up(study, trial) -> None:
    import optuna

    storage, states = study._storage, optuna.trial.TrialState
    with suppress(optuna.exceptions.UpdateFinishedTrialError):  # it was told, or another worker took it for dead
        if storage.set_trial_state_values(trial._trial_id, state=states.FAIL):
            storage.get_heartbeat_stale_trial_callback()(study, storage.get_trial(trial._trial_id))

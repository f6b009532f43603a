"""Samplers: what draws the next point of a study, and what ends a trial that falls behind, as Optuna has them.

Source: https://optuna.readthedocs.io/en/v5.0.0/reference/samplers/
"""

import hashlib
import warnings


def sampler(name: str, seed: int, number: int):
    """Return a new sampler for the trial of this number, so that nothing of it lives in a process alone.

    The sequence of qmc is scrambled once a study; where it stands is kept in the study, as is the state of cmaes.
    """
    from optuna import exceptions, samplers

    own = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4])
    chance = samplers.RandomSampler(seed=own)
    quiet = {"independent_sampler": chance, "warn_independent_sampling": False}
    made = {
        "tpe": lambda: samplers.TPESampler(seed=own),
        "gp": lambda: samplers.GPSampler(seed=own, **quiet),
        "cmaes": lambda: samplers.CmaEsSampler(seed=own, **quiet),
        "nsgaii": lambda: samplers.NSGAIISampler(seed=own),
        "qmc": lambda: samplers.QMCSampler(scramble=True, seed=seed, **quiet),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ExperimentalWarning)  # which qmc is
        return made.get(name, lambda: chance)()


def pruner(name: str, num_checks: int):
    """Return a pruner of trials that validate `num_checks` times at most."""
    from optuna import pruners

    made = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        "hyperband": lambda: pruners.HyperbandPruner(max_resource=num_checks, reduction_factor=2),
    }
    return made[name]()

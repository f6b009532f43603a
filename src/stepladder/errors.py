"""Errors a person can cause: one line with place, value, what is allowed and the nearest name, and an exit code."""

import difflib
from collections.abc import Iterable


class StepladderError(ValueError):
    """A fault that the person at the keyboard can mend; `code` is the exit code of a stage run by hand."""

    code = 1


class ConfigError(StepladderError):
    """The configuration is wrong: unknown key, wrong type, value out of range."""

    code = 2


class DataError(StepladderError):
    """The data is wrong: file, row and column are named."""

    code = 3


class IntegrityError(StepladderError):
    """A file is not the one that was promised: hash, manifest or format differ."""

    code = 4


class MachineError(StepladderError):
    """The machine cannot do it: disk, rights, memory."""

    code = 5


class RemoteError(StepladderError):
    """A registry, hub or server did not answer."""

    code = 6


class NumericsError(StepladderError):
    """Loss, gradient or weight is not a finite number."""

    code = 7


class BusyError(StepladderError):
    """Another process is at the same work; the same command goes on when it has ended (EX_TEMPFAIL of sysexits.h)."""

    code = 75


class BudgetError(StepladderError):
    """What was allowed to be spent is spent; the same command goes on (EX_TEMPFAIL of sysexits.h)."""

    code = 75


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "No metric named 'acuracy'. Did you mean 'accuracy'? Known: accuracy, mcc."."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"No {kind} named '{name}'.{hint} Known: {', '.join(names) or 'none'}."

"""Outcomes: what was demanded of a stack under a fault, whether each demand held, and the facts that say so."""

from dataclasses import dataclass


class NotRunError(Exception):
    """The fault could not be injected here; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """`demands` are what a person may expect under the fault, each with whether it held; `observed` are the facts."""

    demands: dict[str, bool]
    observed: str

    @property
    def handled(self) -> str:
        """Return yes when every demand held, no when none did, partly in between."""
        held = list(self.demands.values())
        return "yes" if all(held) else "partly" if any(held) else "no"

    def row(self) -> dict:
        """Return the outcome as the result file holds it."""
        failed = [text for text, held in self.demands.items() if not held]
        return {"handled": self.handled, "observed": self.observed, "demands": self.demands, "failed": failed}


def not_run(reason: str) -> dict:
    """Return the row of a fault that was not injected."""
    return {"handled": "not run", "observed": reason, "demands": {}, "failed": []}

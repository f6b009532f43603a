"""Elsewhen: trainings under another clock, zone and hash seed, which only a new process can have.

python -m tests.faults.elsewhen <project> lora full     both are trained anew
"""

import sys
from functools import partial
from pathlib import Path

from tests.faults import hooks
from tests.faults.workshop import Workshop


def main(path: str, *names: str) -> None:
    """Train the candidates of these names anew, 400 days later."""
    made, clock = Workshop(Path(path)), Path(path, "clock")
    clock.write_text(f"{400 * 86400}")
    for name in names:
        made.works("train", *made.of(name), fault=partial(hooks.clock, clock), STEPLADDER_FRESH="1")


if __name__ == "__main__":
    main(*sys.argv[1:])

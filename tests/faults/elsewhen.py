"""Elsewhen: trainings under another clock, zone and hash seed, which only a new process can have.

python -m tests.faults.elsewhen <project> lora full     both are trained anew
"""

import sys
from pathlib import Path

from tests.faults.workshop import Workshop


def main(path: str, *names: str) -> None:
    """Train the candidates of these names anew."""
    made = Workshop(Path(path))
    for name in names:
        made.works("train", *made.of(name), STEPLADDER_FRESH="1")


if __name__ == "__main__":
    main(*sys.argv[1:])

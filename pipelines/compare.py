"""Compare: everything that was measured -> one leaderboard with intervals, prices and a verdict.

python -m pipelines.compare -cd build/compare -cn compare        reports/leaderboard.{json,csv,md,html,png}
"""

from pathlib import Path

from pipelines import stage
from stepladder import leaderboard, work
from stepladder.report import leaderboard as report


@stage
def main(config: dict) -> None:
    """Assemble and write the leaderboard of the configured candidates."""
    report.write(leaderboard.assemble(Path(), config), Path("reports"))
    work.clear()


if __name__ == "__main__":
    main()

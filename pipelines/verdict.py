"""Verdict: the last lines of a run; where a candidate failed, a partial table, its command and exit code 1.

python -m pipelines.verdict        verdict, path of the leaderboard, command of the MLflow UI
"""

from pathlib import Path

from pipelines import plain_stage
from stepladder import leaderboard


@plain_stage
def main() -> None:
    """Print the last lines; end with code 1 where the leaderboard is not complete."""
    lines, code = leaderboard.conclude(Path())
    print(*lines, sep="\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()

"""Verdict: the last lines of a run; where a candidate failed, a partial table, its command and exit code 1.

python -m pipelines.verdict        verdict, path of the leaderboard, command of the MLflow UI
"""

from pathlib import Path

from pipelines import plain_stage
from stepladder import leaderboard


@plain_stage
def main() -> None:
    """Print the last lines and complete the tracked runs; end with code 1 where the leaderboard is not complete."""
    lines, code = leaderboard.conclude(Path())
    print(*lines, sep="\n", flush=True)
    if code or not Path("reports", "registered.json").exists():  # stage register, which completes them, did not end
        from stepladder import sync

        with sync.forgiving("to complete the runs: python -m pipelines.sync"):
            sync.tell(leaderboard.configured(Path())["candidates"])
    raise SystemExit(code)


if __name__ == "__main__":
    main()

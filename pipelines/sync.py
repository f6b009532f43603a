"""Sync: tell the tracking store whatever the files hold and it does not, for example after it was lost.

python -m pipelines.sync        reads build/, models/ and metrics/; safe to repeat
"""

from pathlib import Path

from pipelines import plain_stage


@plain_stage
def main() -> None:
    """Complete the runs of all candidates; name the command that registers a version which the registry lost."""
    from stepladder import leaderboard, registry, sync

    names = leaderboard.configured(Path())["candidates"]
    told = sync.tell(names)
    print(f"{len(told)} of {len(names)} candidates are tracked", flush=True)
    if line := registry.lost(told):
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""Sync: tell the tracking store whatever the files hold and it does not, for example after it was lost.

python -m pipelines.sync        reads build/, models/, metrics/ and state/; safe to repeat
"""

from pathlib import Path

from pipelines import plain_stage


@plain_stage
def main() -> None:
    """Complete the runs of all candidates; name the command that registers a version which the registry lost."""
    from stepladder import exporter, leaderboard, registry, sync

    names = leaderboard.configured(Path())["candidates"]
    told = list(sync.each(names))
    values = sum(new for _, _, new in told)
    print(f"{len(told)} of {len(names)} candidates are tracked, {values:,} values were new", flush=True)
    for output in exporter.late():
        print(f"{output} is tracked", flush=True)
    for name in sync.abandoned(names):
        print(f"a run of {name} that nobody works on is marked KILLED", flush=True)
    if line := registry.lost({name: run for name, run, _ in told}):
        print(line, flush=True)


if __name__ == "__main__":
    main()

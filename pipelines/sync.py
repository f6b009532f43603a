"""Sync: tell the tracking store whatever the files hold and it does not, for example after it was lost.

python -m pipelines.sync        reads build/, models/ and metrics/; safe to repeat
"""

from pipelines import plain_stage


@plain_stage
def main() -> None:
    """Complete the runs of all candidates."""
    from stepladder import sync

    names = sync.compared()
    print(f"{len(sync.tell(names))} of {len(names)} candidates are tracked", flush=True)


if __name__ == "__main__":
    main()

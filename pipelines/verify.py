"""Verify: hash again all that was made, read and kept; one line for each damaged file, with what to type, and code 4.

python -m pipelines.verify        outputs, own data, DVC's cache, state/ and models/ against their hashes
Where runtime.public_key is set, the champion and the challenger against their signatures as well.
"""

from pathlib import Path

from pipelines import plain_stage


@plain_stage
def main() -> None:
    """Compare every file with the hash that names it."""
    from stepladder import integrity, signing, speech
    from stepladder.errors import IntegrityError

    with speech.during("hashing what lies here"):
        lines, looked = integrity.faults()
        if Path("build/compare/compare.yaml").is_file() and signing.public_key():
            from stepladder import champion  # mlflow, only where there is a signature to check

            lines += champion.faults()
    if lines:
        raise IntegrityError("\n".join(lines))
    print(f"every file is the one that was made: {looked}", flush=True)


if __name__ == "__main__":
    main()

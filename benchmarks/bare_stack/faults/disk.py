"""Disk: a corrupted cache, an edit that keeps size and time, a full file system."""

import os
import shutil
from pathlib import Path

import yaml

from benchmarks.bare_stack.outcomes import NotRunError, Outcome
from benchmarks.bare_stack.processes import Done, python
from benchmarks.bare_stack.stacks import Stack

STAGE = """stages:
  copy:
    cmd: cp rows.csv made.csv
    deps: [rows.csv]
    outs: [made.csv]
"""


def x3(stack: Stack) -> Outcome:
    """An object of DVC's cache is altered, its size and mode kept, then `dvc checkout`, `status` and `repro`"""
    if stack.name == "bare":
        _small(stack)
        stage, out, reads = "copy", "made.csv", None
    else:
        stage, out, reads = "split@sample_reviews", "data/sample_reviews/train.parquet", "train"
    outs = yaml.safe_load((stack.path / "dvc.lock").read_text())["stages"][stage]["outs"]
    md5 = next(entry["md5"] for entry in outs if entry["path"] == out)
    cached, made = stack.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:], stack.path / out
    good = made.read_bytes()
    _spoil(cached)
    made.unlink()
    checkout, status = stack.dvc("checkout", out), stack.dvc("status", stage)
    served = made.is_file() and made.read_bytes() != good
    facts = f"checkout: exit code {checkout.code}, {'corrupted file served' if served else 'not served'}"
    seen = not served or "up to date" not in status.said
    facts += f"; status {'sees it' if seen else 'says up to date'}"
    if reads:
        shutil.rmtree(stack.path / "state/train", ignore_errors=True)
        done = stack.pipeline(reads, "-cd", "build", "-cn", "full")
        facts += f"; stage {reads} on it: exit code {done.code} ({done.error})"
        seen = seen or done.code != 0
    repro = stack.dvc("repro", "--force", "--single-item", stage)
    kept = made.is_file() and made.read_bytes() == good
    facts += (
        f"; `dvc repro --force`: exit code {repro.code}, made output {'kept' if kept else 'replaced by the bad copy'}"
    )
    demands = {
        "checkout serves no corrupted file": not served,
        "a corrupted file that lies there is noticed": seen,
        "a freshly made output is not replaced by a corrupted one": kept,
    }
    return Outcome(demands, facts)


def x4(stack: Stack) -> Outcome:
    """An input is edited, its size and modification time kept"""
    if stack.name == "bare":
        _small(stack)
        source, stage, out = "rows.csv", "copy", "made.csv"
        before, after = b"2,b", b"2,c"
    else:
        source, stage, out = "samples/reviews.csv", "prepare@sample_reviews", "data/sample_reviews/records.parquet"
        before, after = b"biopic", b"biopiq"
    stack.dvc("status", stage)  # DVC has seen the file as it was
    file, was = stack.path / source, (stack.path / out).read_bytes()
    times, content = file.stat(), file.read_bytes()
    with file.open("r+b") as opened:
        opened.write(content.replace(before, after, 1))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    status, repro = stack.dvc("status", stage), stack.dvc("repro", "--single-item", stage)
    renewed = (stack.path / out).read_bytes() != was
    seen = "up to date" not in status.said
    facts = f"`dvc status`: {'sees the edit' if seen else 'up to date'}; `dvc repro`: exit code {repro.code}, "
    facts += "output made anew" if renewed else "stale output kept"
    return Outcome({"the edit is noticed": seen, "the output is made anew": renewed}, facts)


def x13(stack: Stack) -> Outcome:
    """The disk is full while a checkpoint is written (a small tmpfs), then there is space again"""
    place = {"bare": "model", "ours": "state/train"}[stack.name]
    size = {"bare": "3m", "ours": "700k"}[stack.name]
    full = _on_small_disk(stack, place, size)
    bad = _unreadable(stack)
    good = len(list(stack.path.glob(stack.kept))) - len([name for name in bad if "last" not in name])
    again = stack.run(*_training(stack))
    facts = f"exit code {full.code} ({full.error}); {len(bad)} unreadable file(s) under a final name"
    facts += f" ({', '.join(bad)})" if bad else ""
    facts += f", {good} good one(s); the same command with space again: exit code {again.code} ({again.error})"
    demands = {
        "leaves no unreadable file under a final name": not bad,
        "goes on with space again": again.code == 0,
    }
    if stack.name == "ours":
        demands["it then ends with the weights of an unbroken run"] = stack.same()
        facts += f", {'weights as unbroken' if stack.same() else 'weights differ'}"
    return Outcome(demands, facts)


def _small(stack: Stack) -> None:
    """Give the plain project one stage that copies a table."""
    (stack.path / "dvc.yaml").write_text(STAGE)
    (stack.path / "rows.csv").write_text("id,text\n1,a\n2,b\n")
    stack.dvc("repro")


def _spoil(file: Path) -> None:
    """Alter a byte in the middle of a file that DVC has made read-only."""
    mode, content = file.stat().st_mode, bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.chmod(0o644)
    file.write_bytes(bytes(content))
    file.chmod(mode)


def _training(stack: Stack) -> tuple[str, ...]:
    return (*stack.train, "--wide", "20000", "--steps", "60") if stack.name == "bare" else stack.train


def _on_small_disk(stack: Stack, place: str, size: str) -> Done:
    """Train where `place` is a file system of its own that is too small, and keep what lay there in the end."""
    (stack.path / place).mkdir(parents=True, exist_ok=True)
    words = " ".join(_training(stack))
    script = f"mount -t tmpfs -o size={size} none {place} || exit 99; {words}; code=$?; cp -a {place} kept; exit $code"
    rights = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    if not shutil.which("unshare"):
        raise NotRunError("no unshare(1) to mount a small file system with")
    done = stack.run("unshare", *rights, "--mount", "sh", "-c", script)
    if done.code == 99 or not (stack.path / "kept").is_dir():
        raise NotRunError(f"no right to mount a small file system: {done.last}")
    shutil.copytree(stack.path / "kept", stack.path / place, dirs_exist_ok=True)
    return done


def _unreadable(stack: Stack) -> list[str]:
    """Return the names of checkpoints that torch cannot load."""
    files = sorted(
        file for pattern in ("model/*.ckpt", "state/train/full-*/fit/*.ckpt") for file in stack.path.glob(pattern)
    )
    code = "import sys, torch\nfor file in sys.argv[1:]:\n try: torch.load(file, weights_only=True)\n"
    code += " except Exception: print('bad', file)"
    done = stack.run(*python("-c", code, *map(str, files)))
    return [Path(line[4:]).name for line in done.said.splitlines() if line.startswith("bad ")]


x3.finished = x4.finished = True

"""Checkpoints: a fit stopped after any step ends with the bits of an unbroken one; damaged ones are passed over."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import LORA, sentences
from tests.test_training import LABELS, Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FROZEN = {"name": "frozen"}
KINDS = {  # form, method, settings
    "full": ("bert", None, {}),
    "lora": ("llama", LORA, {}),
    "accumulated": ("bert", None, {"accumulate": 2, "batch_size": 5}),
    "checked within the epoch": ("bert", LORA, {"checks_per_epoch": 2, "batch_size": 4}),
    "accumulated lora": ("llama", LORA, {"accumulate": 2, "batch_size": 5}),
    "frozen": ("bert", FROZEN, {}),
    "accumulated frozen": ("bert", FROZEN, {"accumulate": 2, "batch_size": 5}),
    "two workers": ("llama", None, {"num_workers": 2}),
    "a number of steps": ("llama", None, {"max_steps": 7, "checks_per_epoch": 3, "patience": 9}),
}


class Stopped(Exception):
    """Injected: the process is gone."""


def made(tiny: Path, state: Path, kind: str) -> Run:
    """Return a run with dropout, which keeps a checkpoint after every step it may."""
    form, method, settings = KINDS[kind]
    given = {"max_epochs": 2, "patience": 5, "batch_size": 6, "checkpoint_every_s": 0, "num_threads": 1, **settings}
    run = Run(tiny, state, form=form, method=method if method != FROZEN else None, settings=given, train=sentences(22))
    if method == FROZEN:
        freeze(run, tiny / form)
    for module in run.model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.1
    return run


def freeze(run: Run, base: Path) -> None:
    """Leave a linear layer to train, on features that the backbone gave once."""
    from stepladder import features, methods, pooled

    model = pooled.classifier(base, LABELS, seed=3)
    run.model = methods.apply(model, FROZEN, seed=run.settings.seed)
    answerer = SimpleNamespace(model=run.model, objective=run.objective)
    run.parts = [features.of(answerer, part, run.settings, base=base) for part in run.parts]


def stopped_after(run: Run, number: int, monkeypatch) -> None:
    """Fit until `number` batches are done, as if the process died before anything else happened."""
    from stepladder import progress

    count = 0

    def end(self, trainer, learner, outputs, batch, batch_idx):
        nonlocal count
        count += 1
        if count > number:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(progress.Voice, "on_train_batch_end", end)
        try:
            run.fit()
        except Stopped:
            return
    raise AssertionError("the fit ended before it was stopped")


def told_once(*runs: Run) -> list:
    """Return what the runs told, each value of a step once, as the last of them said it."""
    return sorted({(name, step): value for run in runs for name, value, step, _ in run.told}.items())


@pytest.mark.capability(26)
@pytest.mark.fault("A4")
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_was_stopped_after_any_step_ends_with_the_bits_of_an_unbroken_one(
    kind, tiny, tmp_path, monkeypatch, tally
):
    whole = made(tiny, tmp_path / "whole", kind)
    facts = whole.fit()
    rows = whole.settings.batch_size * whole.settings.accumulate
    batches = max(whole.settings.max_steps, 0) or -(-22 // rows) * whole.settings.max_epochs
    for number in range(1, batches):
        first, second = (made(tiny, tmp_path / str(number), kind) for _ in range(2))
        stopped_after(first, number, monkeypatch)
        assert second.fit() == facts, f"stopped after batch {number}"
        ours, theirs = second.weights(), whole.weights()
        assert all(ours[name].equal(theirs[name]) for name in theirs), f"stopped after batch {number}"
        assert second.answers.equals(whole.answers)
        assert told_once(first, second) == told_once(whole)
        assert len(second.told) < len(whole.told) or number < 4, "it began anew"
    tally(resumes=batches - 1, bit_exact_resumes=batches - 1)


def test_two_checkpoints_are_kept_and_the_newest_whole_one_is_chosen(tiny, tmp_path, monkeypatch, capsys):
    from stepladder import checkpoints

    stopped_after(made(tiny, tmp_path, "full"), 7, monkeypatch)
    older, newer = sorted(tmp_path.glob("*-*.ckpt"))
    assert (older.name[:8], newer.name[:8]) == ("00000006", "00000007")
    assert newer.stem.endswith(hashlib.sha256(newer.read_bytes()).hexdigest()[:16])
    assert checkpoints.newest(tmp_path) == newer
    damage = {"cut": newer.read_bytes()[:-9], "flipped": newer.read_bytes()[:-9] + b"123456789", "empty": b""}
    for content in damage.values():
        newer.write_bytes(content)
        capsys.readouterr()
        assert checkpoints.newest(tmp_path) == older
        said = capsys.readouterr().out
        assert newer.name in said and "expected sha256" in said
    whole, resumed = made(tiny, tmp_path / "whole", "full"), made(tiny, tmp_path, "full")
    assert whole.fit() == resumed.fit()
    assert all(resumed.weights()[name].equal(weight) for name, weight in whole.weights().items())
    assert float((tmp_path / checkpoints.SECONDS).read_text()) > 0


@pytest.mark.capability(26)
@pytest.mark.fault("A4")
def test_without_the_random_state_a_resumed_fit_differs(tiny, tmp_path, monkeypatch):
    from stepladder import checkpoints

    whole, first, second = (made(tiny, tmp_path / name, "full") for name in ("whole", "broken", "broken"))
    whole.fit()
    stopped_after(first, 5, monkeypatch)
    monkeypatch.setattr(checkpoints, "_restore", lambda states: None)
    second.fit()
    assert any(not second.weights()[name].equal(weight) for name, weight in whole.weights().items())


@pytest.mark.parametrize("brought", [True, False], ids=["as it is", "without its fsync"])
def test_no_checkpoint_is_published_before_the_journal_that_leads_to_it_is_on_the_disk(
    brought, tiny, tmp_path, monkeypatch
):
    """Every checkpoint that gets its name, the best one included, finds the whole journal brought to the disk."""
    from stepladder import candidates

    run, journal, sizes, ahead = made(tiny, tmp_path, "full"), tmp_path / "history.jsonl", [0], []
    fsync, replace = os.fsync, os.replace

    def synced(opened):
        fsync(opened)
        if brought and os.path.samestat(os.fstat(opened), journal.stat()):
            sizes.append(os.fstat(opened).st_size)

    def renamed(path, target):
        if Path(target).suffix == ".ckpt":
            ahead.append(journal.stat().st_size - sizes[-1])
        replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with journal.open("a") as file:
        parts = {"train": run.parts[0], "val": run.parts[1]}
        facts, _ = run._training.fit(
            (run.model, run.objective), run.settings, **parts, state=tmp_path, log=candidates._journal(file)
        )
    assert len(ahead) > facts["num_steps"] - 2 > 4
    assert len(candidates.told_once(journal).splitlines()) >= 2 * facts["num_steps"]
    assert not any(ahead) if brought else any(ahead)


CHILD = """
import pathlib, sys
from tests import test_checkpoints
from stepladder import checkpoints
run = test_checkpoints.made(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "full")
print("ready", flush=True)
run.fit()
"""


@pytest.mark.fault("A6")
@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4])
def test_a_process_killed_at_any_moment_leaves_checkpoints_that_go_on(delay, tiny, tmp_path, tally):
    """SIGKILL, with TMPDIR on another file system: what is written beside its target is never torn by a rename."""
    words = [sys.executable, "-c", CHILD, str(tiny), str(tmp_path / "broken")]
    elsewhere = {**os.environ, "TMPDIR": "/dev/shm", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=elsewhere)
    assert child.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 60
    while not list((tmp_path / "broken").glob("*.ckpt")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    whole, resumed = made(tiny, tmp_path / "whole", "full"), made(tiny, tmp_path / "broken", "full")
    assert whole.fit() == resumed.fit()
    assert all(resumed.weights()[name].equal(weight) for name, weight in whole.weights().items())
    tally(resumes=1, bit_exact_resumes=1)

"""Interruptions: DVC or the training is killed, started twice or preempted, each in the same way in both stacks."""

import signal
import time

from benchmarks.bare_stack import processes
from benchmarks.bare_stack.outcomes import Outcome
from benchmarks.bare_stack.processes import Running, waited
from benchmarks.bare_stack.stacks import Stack

STEP = 30  # a checkpoint of it lies there when the fault comes
GRACE_S = 5.0  # for a process that ends in order
NOTICE_S = 20.0  # that Slurm gives a job before it kills it, at the least (KillWait is 30)
SCONTROL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/called"\n'
SLURM = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
         "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_JOB_NUM_NODES": "1"}  # fmt: skip


def x5(stack: Stack) -> Outcome:
    """SIGTERM to `dvc repro` while a stage trains, then `dvc repro` again"""
    running = stack.repro()
    stack.reached(STEP)
    running.send(signal.SIGTERM)
    code = running.wait().code
    orphans = _orphans(stack)
    return _again(stack, orphans, f"dvc exit code {code}")


def x6(stack: Stack) -> Outcome:
    """SIGKILL to `dvc repro` while a stage trains, then `dvc repro` again at once"""
    running = stack.repro()
    stack.reached(STEP)
    running.send(signal.SIGKILL)
    running.process.wait()
    second, most = stack.repro(), 0
    deadline = time.monotonic() + 60
    while stack.resumed_at(second) is None and second.process.poll() is None and time.monotonic() < deadline:
        most = max(most, len(stack.workers()))
        time.sleep(0.05)
    for _ in range(20):
        most = max(most, len(stack.workers()))
        time.sleep(0.05)
    start, done = stack.resumed_at(second), second.wait()
    demands = {
        "never two trainers at work": most < 2,
        "the next run goes on from a checkpoint, to the weights of an unbroken run": bool(start) and stack.same(),
    }
    facts = f"up to {most} trainer(s) at once; second run starts at step {start or 0}, exit code {done.code}"
    return Outcome(demands, f"{facts}; {_likeness(stack)}")


def x7(stack: Stack) -> Outcome:
    """Two `dvc repro` at once"""
    first = stack.repro()
    stack.reached(2)
    second = stack.repro().wait(60)
    done = first.wait()
    owner = str(first.process.pid) in second.said
    demands = {
        "the second one ends at once, not with 0": second.code not in (0, None),
        "it names the process of the first": owner,
        "the first one ends as if alone": done.code == 0 and stack.same(),
    }
    named = "names" if owner else "does not name"
    facts = f"second: exit code {second.code} after {second.seconds:.0f} s, {named} the first one's process id"
    return Outcome(demands, f"{facts}; first: exit code {done.code}, {_likeness(stack)}")


def x8(stack: Stack) -> Outcome:
    """SIGTERM inside trainer.fit, under DVC"""
    running = stack.repro()
    stack.reached(STEP)
    reached = max(stack.steps())
    for worker in stack.workers():
        processes.send(worker, signal.SIGTERM)
    done = running.wait()
    told = running.find(r"exited with (-?\d+)") or ("0" if stack.recorded() else "unknown")
    recorded, evaluated = stack.recorded(), bool(stack.result())
    demands = {
        "the training's exit code is not 0": told != "0",
        "DVC does not hold it for finished": not recorded,
        "what was half trained is not evaluated": not evaluated,
    }
    facts = f"stopped near step {reached} of about 160: training exit code {told}, dvc exit code {done.code}"
    facts += f"; recorded as finished: {_yes(recorded)}; evaluated: {_yes(evaluated)}"
    second = stack.repro()
    second.wait()
    start = stack.resumed_at(second)
    facts += f"; `dvc repro` again {'does not train' if start is None else f'starts at step {start}'}"
    facts += f", {_likeness(stack)}"
    return Outcome(demands | {"the next run ends with the weights of an unbroken one": stack.same()}, facts)


def x9(stack: Stack) -> Outcome:
    """SIGTERM and SIGUSR1 under Slurm's environment (a stand-in for `scontrol` in PATH)"""
    demands, facts = {}, []
    for sent in (signal.SIGTERM, signal.SIGUSR1):
        copy = stack.copy(stack.path.with_name(f"slurm-{sent.name}"), finished=True)
        running, folder = _in_slurm(copy), copy.path.parent / f"bin-{copy.path.name}"
        copy.reached(STEP)
        for worker in copy.workers():
            processes.send(worker, sent)
        waited(lambda: running.process.poll() is not None or (folder / "called").is_file(), NOTICE_S)  # noqa: B023
        time.sleep(0.5)
        calls = (folder / "called").read_text().splitlines() if (folder / "called").is_file() else []
        code = running.process.poll()
        running.kill()  # the time limit of the job
        left = copy.steps()
        ended = "goes on" if code is None else f"exit code {code}"
        facts.append(f"{sent.name}: {ended}, scontrol called {len(calls)} time(s), {len(left)} checkpoint(s) left")
        if sent == signal.SIGTERM:
            demands["SIGTERM: requeued, or an exit code other than 0"] = bool(calls) or code not in (0, None)
        else:
            demands["SIGUSR1: requeued once"] = len(calls) == 1
        same = _requeued(copy)
        demands[f"{sent.name}: the requeued job ends with the weights of an unbroken one"] = same
        facts.append(_likeness(copy))
    return Outcome(demands, "; ".join(facts))


def _in_slurm(stack: Stack) -> Running:
    folder = stack.path.parent / f"bin-{stack.path.name}"
    folder.mkdir()
    (folder / "scontrol").write_text(SCONTROL)
    (folder / "scontrol").chmod(0o755)
    path = processes.surroundings()["PATH"]
    return stack.start(*stack.train, PATH=f"{folder}:{path}", **SLURM)


def _requeued(stack: Stack) -> bool:
    """Run the job again as Slurm would, then what evaluates it; return whether the weights are right."""
    done = _again_in_slurm(stack)
    if stack.name == "bare" and done.code == 0:
        stack.run(*processes.python("evaluate.py"))
    return done.code == 0 and stack.same()


def _again_in_slurm(stack: Stack) -> processes.Done:
    folder = stack.path.parent / f"bin-{stack.path.name}"
    return stack.run(*stack.train, PATH=f"{folder}:{processes.surroundings()['PATH']}", **SLURM)


def _orphans(stack: Stack) -> list[int]:
    """Return the trainers that still work some seconds after DVC has ended."""
    waited(lambda: not stack.workers(), GRACE_S)
    return stack.workers()


def _again(stack: Stack, orphans: list[int], facts: str) -> Outcome:
    """Run `dvc repro` again beside what is left, and say whether the work before was lost."""
    before = stack.steps()
    second = stack.repro()
    done = second.wait()
    start = stack.resumed_at(second)
    demands = {
        "no trainer outlives DVC": not orphans,
        "the next run goes on from a checkpoint, to the weights of an unbroken run": bool(start) and stack.same(),
    }
    facts += f", {len(orphans)} orphan(s) {GRACE_S:.0f} s later; newest checkpoint: step {max(before, default=0)}"
    facts += f"; next run starts at step {start or 0}, exit code {done.code}; {_likeness(stack)}"
    return Outcome(demands, facts)


def _likeness(stack: Stack) -> str:
    return "weights as unbroken" if stack.same() else "weights differ" if stack.result() else "nothing evaluated"


def _yes(held: bool) -> str:
    return "yes" if held else "no"

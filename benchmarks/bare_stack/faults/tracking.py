"""Tracking: the MLflow server dies while a training runs, rows are told twice, the defaults of the server."""

import json
import signal
from pathlib import Path

import yaml

from benchmarks.bare_stack.outcomes import Outcome
from benchmarks.bare_stack.processes import Running, python, waited
from benchmarks.bare_stack.servers import Server, rows
from benchmarks.bare_stack.stacks import PLAIN, Stack

PATIENCE_S = 60.0  # a training that waits longer for a dead server is held for blocked
STEPS = 40


def x15(stack: Stack) -> Outcome:
    """The MLflow server is killed at step 5, and stays away"""
    return _server_dies(stack, asynchronous=False)


def x16(stack: Stack) -> Outcome:
    """The same with `synchronous=False`; in Stepladder the server dies while a run is told"""
    return _server_dies(stack, asynchronous=True)


def _server_dies(stack: Stack, *, asynchronous: bool) -> Outcome:
    server = Server(stack.path.parent / "server")
    if stack.name == "bare":
        running = _tracked(stack, server, asynchronous=asynchronous)
        _at_step(stack, 5)
        server.kill()
        limit, expected, rest = PATIENCE_S, STEPS, "MLFlowLogger keeps nothing to tell later"
        done = running.wait(limit)
    else:
        running = _tracked(stack, server, asynchronous=asynchronous)
        if asynchronous:
            waited(lambda: rows(server.database, "select run_uuid from runs"), 120)
        else:
            stack.reached(5)
        server.kill()
        limit = PATIENCE_S * 3
        done = running.wait(limit)
        expected, rest = _synced(stack, server)
    told = len(rows(server.database, "select distinct key, step from metrics where key = 'loss' or key like '%/%'"))
    states = [state for (state,) in rows(server.database, "select status from runs")]
    code = f"still blocked {limit:.0f} s after it" if done.code is None else f"exit code {done.code} ({done.error})"
    facts = f"training: {code}; {told} of {expected} metric rows in the store in the end"
    demands = {
        "the training goes on to its end": done.code == 0,
        "no metric row is lost": told >= expected > 0,
        "the run's state is right in the end": states == ["FINISHED"] and told >= expected > 0,
    }
    return Outcome(demands, f"{facts}, runs: {', '.join(states) or 'none'}; {rest}")


def _tracked(stack: Stack, server: Server, *, asynchronous: bool) -> Running:
    """Begin a training that tells this server."""
    if stack.name == "bare":
        more = ("--asynchronous",) if asynchronous else ()
        words = ("--steps", str(STEPS), "--pause_s", "0.2", "--tracking", server.uri, *more)
        return stack.start(*stack.train, *words)
    file = stack.path / "build/full.yaml"
    composed = yaml.safe_load(file.read_text())
    composed["runtime"]["tracking_uri"] = server.uri
    file.write_text(yaml.safe_dump(composed, sort_keys=False))
    return stack.start(*stack.train)


def _at_step(stack: Stack, step: int) -> None:
    file = stack.path / "step"
    waited(lambda: file.is_file() and int(file.read_text() or 0) >= step, 120)


def _synced(stack: Stack, server: Server) -> tuple[int, str]:
    """Start the server again and run pipelines.sync; return how many rows the files hold, and how that ended."""
    server.start()
    done = stack.pipeline("sync")
    server.kill()
    history = stack.path / "models/full/history.jsonl"
    lines = history.read_text().splitlines() if history.is_file() else []
    points = {(point["name"], point["step"]) for point in map(json.loads, lines)}
    return len(points), f"`pipelines.sync` with the server back: exit code {done.code} ({done.error})"


def x17(stack: Stack) -> Outcome:
    """Rows are told three times, the client is killed, values are not to MLflow's taste"""
    database = stack.path.parent / "store.db"
    if stack.name == "bare":
        told = json.loads(stack.run(*python("logged.py", "replay", f"sqlite:///{database}")).last)
        running = stack.start(*python("logged.py", "hang", f"sqlite:///{database}"))
        waited(lambda: "logged" in running.said)
        running.kill()
        states = [state for (state,) in rows(database, "select status from runs order by start_time")][1:]
    else:
        told = json.loads(stack.run(*python(str(PLAIN / "told_ours.py")), PYTHONPATH=str(stack.path)).last)
        states = _killed_client(stack)
    demands = {
        "rows told three times are there once": told["rows"] == 20,
        "no run is RUNNING for ever after a kill": states == ["FINISHED"],
        "a long parameter is kept whole": told["long"] == 7000,
        "infinity is kept as infinity": told["inf"] == float("inf"),
        "every metric name is taken": not told["name_refused"],
    }
    facts = f"told 3 times: {told['rows']} of 20 rows; killed client's run: {', '.join(states) or 'none'}"
    facts += f"; a parameter of 7000 characters kept to {told['long']}; infinity read back as {told['inf']}"
    return Outcome(demands, f"{facts}; name `acc #1` {'refused' if told['name_refused'] else 'taken'}")


def _killed_client(stack: Stack) -> list[str]:
    """Kill pipelines.sync while it tells a run, run it again, and return the states of the candidate's runs."""
    for left in stack.path.glob("mlflow.db*"):
        left.unlink()
    running = stack.start(*python("-m", "pipelines.sync"))
    waited(lambda: rows(stack.path / "mlflow.db", "select run_uuid from runs"), 60)
    running.send(signal.SIGKILL)
    running.wait()
    stack.pipeline("sync")
    names = rows(stack.path / "mlflow.db", "select status from runs where name = 'full'")
    return [state for (state,) in names]


def x18(stack: Stack) -> Outcome:
    """A stranger writes to the tracking server with its defaults, and a page of another site reaches it"""
    opened: set[int] = set()
    if stack.name == "ours":
        running = stack.start(*stack.train)
        waited(lambda: opened.update(_listening(stack)) or running.process.poll() is not None)
    words = ("server",) if stack.name == "bare" else ("ui",)  # as the README says it
    server = Server(stack.path.parent / "server", words=words)
    foreign, _ = server.asked("/api/2.0/mlflow/experiments/search?max_results=1", host="evil.com")
    body = json.dumps({"name": "written by a stranger"}).encode()
    written, _ = server.asked("/api/2.0/mlflow/experiments/create", body=body)
    server.kill()
    demands = {"a foreign Host is refused": foreign == 403, "a write without a password is refused": written != 200}
    facts = f"`mlflow {words[0]}`: foreign Host -> {foreign}, write without a password -> {written}"
    if stack.name == "ours":
        demands["a stage opens no port"] = not opened
        facts = f"a stage of training listens on {len(opened)} port(s); the README's {facts}"
    return Outcome(demands, facts)


def _listening(stack: Stack) -> set[int]:
    """Return the ports on which the project's trainers listen (the inodes of their sockets in /proc/net/tcp)."""
    sockets = set()
    for worker in stack.workers():
        try:
            sockets |= {place.readlink().name for place in Path(f"/proc/{worker}/fd").iterdir()}
        except OSError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}


x17.finished = True

"""D: whatever becomes of the tracking server, the training goes on as without it, and no value is lost."""

import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from stepladder import candidates, exporter
from stepladder.errors import RemoteError
from tests.faults.proxy import Proxy
from tests.faults.workshop import PARAMS, Stage, Workshop, process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),  # MLflow 3.17 and SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),  # of connections that a fault ended
]
NUM_CANDIDATES = len(PARAMS["candidates"])
PAUSE = 10  # values after which a paused training waits


@pytest.fixture(scope="session")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's own server."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    with Proxy(0) as free:
        port = free.port
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--artifacts-destination", folder / "files"]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [*command, *words], stdout=said, stderr=said, env=os.environ | environment, start_new_session=True
        )
    uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while not answers(uri):
        assert process.poll() is None and time.monotonic() < deadline, (folder / "said.txt").read_text()
        time.sleep(0.2)
    yield uri
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)


def answers(uri: str) -> bool:
    from urllib.request import urlopen

    with suppress(OSError), urlopen(f"{uri}/health", timeout=5) as reply:
        return reply.status == 200
    return False


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with Proxy(int(server.rpartition(":")[2])) as made:
        yield made


@pytest.fixture
def lora(workshop: Workshop) -> Workshop:
    """A project for one test."""
    return lengthened(workshop)


def lengthened(workshop: Workshop) -> Workshop:
    """Return the project with an experiment of its own and a training that writes some hundred values."""
    workshop.edit("build/lora.yaml", "experiment: stepladder", f"experiment: {name_of(workshop)}")
    workshop.edit("build/lora.yaml", "checkpoint_every_s: 0", "checkpoint_every_s: 1")
    text = re.sub(r"max_epochs: \d+", "max_epochs: 6", (workshop.path / "build/lora.yaml").read_text())
    (workshop.path / "build/lora.yaml").write_text(text.replace("patience: 1", "patience: 100"))
    (workshop.path / "tuned").mkdir()
    (workshop.path / "tuned/lora.yaml").write_text("sections: {}\n")
    return workshop


def name_of(workshop: Workshop) -> str:
    return workshop.path.parent.name


def paused() -> None:
    """Let a training wait after some values until the file `go` lies in its folder."""
    journal = candidates._journal

    def slowly(file, report=None) -> Callable:
        log, told = journal(file, report), []

        def waiting(*point) -> None:
            log(*point)
            told.append(point)
            while len(told) == PAUSE and not Path("go").exists():
                time.sleep(0.01)

        return waiting

    candidates._journal = slowly


def untracked() -> None:
    """Let a training run without an exporter."""
    exporter.beside = lambda *_: nullcontext({})


def runs_of(uri: str, workshop: Workshop) -> list:
    """Return the runs of a project's experiment."""
    client = MlflowClient(uri)
    known = client.get_experiment_by_name(name_of(workshop))
    return client.search_runs([known.experiment_id]) if known else []


def told(uri: str, run) -> Counter:
    """Return how often each (name, step, value) is there."""
    client = MlflowClient(uri)
    held = [m for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name)]
    return Counter((m.key, m.step, m.value) for m in held)


def journal(workshop: Workshop) -> set:
    """Return the (name, step, value) of the training that is finished, or of the one that is at work."""
    finished = workshop.path / "models/lora" / candidates.HISTORY
    (file,) = [finished] if finished.exists() else workshop.path.glob(f"state/train/*/{candidates.HISTORY}")
    points = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return {(point["name"], point["step"], point["value"]) for point in points}


def complete(uri: str, workshop: Workshop) -> int:
    """Return how many values of the journal the one finished run lacks; none may be there twice."""
    (run,) = runs_of(uri, workshop)
    assert run.info.status == "FINISHED" and run.data.params["method.r"] == "2"
    held = told(uri, run)
    assert max(held.values()) == 1, [point for point in held if held[point] > 1]
    return len(journal(workshop) - held.keys())


def live(uri: str, workshop: Workshop) -> Callable[[], bool]:
    """Return whether the values before the pause are to be seen in a run that is RUNNING."""

    def seen() -> bool:
        runs = runs_of(uri, workshop)
        return bool(runs) and runs[0].info.status == "RUNNING" and told(uri, runs[0]).total() == PAUSE

    return seen


def cpu_seconds(workshop: Workshop) -> float:
    return json.loads((workshop.path / "runs/lora/train.json").read_text())["cpu_seconds"]


@pytest.fixture(scope="module")
def alone(prepared_workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The processor's seconds of the same training without an exporter."""
    made = lengthened(prepared_workshop.copy(tmp_path_factory.mktemp("alone") / "project"))
    assert made.run("train", *made.of("lora"), fault=untracked).process.exitcode == 0
    return cpu_seconds(made)


def begin(workshop: Workshop, uri: str) -> Stage:
    """Start a training that waits in its middle."""
    return workshop.start("train", *workshop.of("lora"), fault=paused, MLFLOW_TRACKING_URI=uri)


def go(workshop: Workshop) -> None:
    (workshop.path / "go").touch()


@pytest.mark.fault("D1")
@pytest.mark.parametrize("fault", ["down", "500", "429", "latency", "reset", "half_open"])
def test_a_server_that_fails_in_the_middle_costs_no_value_and_no_time(fault, server, proxy, lora, alone, tally):
    stage = begin(lora, proxy.uri)
    stage.until(live(server, lora))
    proxy.fail(fault)
    go(lora)
    assert stage.wait() == 0
    waited = time.time() - (lora.path / "runs/lora/train.json").stat().st_mtime
    assert waited < exporter.PATIENCE_S, f"{waited:.1f} s after the training"
    assert cpu_seconds(lora) < 1.05 * alone + 0.6  # another training varies by 0.3 s
    (line,) = [line for line in stage.said.splitlines() if line.startswith("warning: ")]
    left = int(re.fullmatch(r"warning: (\d+) values in the journal are not tracked \(.*; (.*)", line)[1])
    assert len(journal(lora)) - PAUSE <= left <= len(journal(lora))  # the store may hold what it did not confirm
    proxy.fail(None)
    said = lora.works("sync", MLFLOW_TRACKING_URI=proxy.uri)
    assert said.startswith(f"1 of {NUM_CANDIDATES} candidates are tracked, ")
    lost = complete(server, lora)
    tally(metrics_lost=lost)
    assert lost == 0


@pytest.mark.fault("D1")
def test_a_server_that_comes_back_before_the_end_has_the_whole_run_at_the_end(server, proxy, lora, tally):
    proxy.fail("down")
    stage = begin(lora, proxy.uri)
    stage.until(lambda: any(lora.path.glob(f"state/train/*/{candidates.HISTORY}")) and len(journal(lora)) == PAUSE)
    proxy.fail(None)
    stage.until(live(server, lora))
    go(lora)
    assert stage.wait() == 0 and not re.search("^warning: ", stage.said, re.MULTILINE)
    lost = complete(server, lora)
    tally(metrics_lost=lost)
    assert lost == 0


@pytest.mark.fault("D2")
def test_a_server_that_never_comes_back_costs_a_line_and_sync_completes_on_another(server, lora, tally):
    with Proxy(0) as proxy:
        nowhere = proxy.uri
    said = lora.works("train", *lora.of("lora"), MLFLOW_TRACKING_URI=nowhere)
    (line,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: {len(journal(lora))} values in the journal are not tracked ({nowhere}: ")
    assert line.endswith("; what was trained is kept; to track it: python -m pipelines.sync")
    by_hand = ("level=baseline", "model=majority", "data=sample_reviews", f"runtime.experiment={name_of(lora)}-by-hand")
    assert "warning: 0 values" in lora.works("train", *by_hand, MLFLOW_TRACKING_URI=nowhere)
    vain = lora.run("sync", MLFLOW_TRACKING_URI=nowhere, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert vain.process.exitcode == 6
    (line,) = vain.said.splitlines()
    assert re.fullmatch(rf"error\[6\] {nowhere}: .*; 0 of 1 runs told, at most {len(journal(lora))} values left", line)
    said = lora.works("sync", MLFLOW_TRACKING_URI=server).splitlines()
    number = len(told(server, runs_of(server, lora)[0]))
    assert said[0] == f"1 of {NUM_CANDIDATES} candidates are tracked, {number} values were new"
    assert said[1].endswith(" is tracked") and len(said) == 2
    assert (
        lora.works("sync", MLFLOW_TRACKING_URI=server)
        == f"1 of {NUM_CANDIDATES} candidates are tracked, 0 values were new\n"
    )
    lost = complete(server, lora)
    tally(metrics_lost=lost)
    assert lost == 0


def helpers(process: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def settled(uri: str, workshop: Workshop, status: str) -> None:
    deadline = time.monotonic() + 60
    while [run.info.status for run in runs_of(uri, workshop)] != [status]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.fault("D3", "B10")
def test_a_killed_training_is_marked_and_taken_up_again_under_its_id(server, lora, tally):
    stage = begin(lora, server)
    stage.until(live(server, lora))
    stage.send(signal.SIGKILL)
    assert stage.wait() == -9
    settled(server, lora, "KILLED")  # by the exporter
    (first,) = runs_of(server, lora)
    before = told(server, first)
    assert before.keys() == journal(lora)

    stage = begin(lora, server)
    settled(server, lora, "RUNNING")
    said = lora.works("sync", MLFLOW_TRACKING_URI=server)
    assert "KILLED" not in said, "it is at work"
    for one in (*helpers(stage.process.pid), stage.process.pid):
        os.kill(one, signal.SIGKILL)
    assert stage.wait() == -9
    settled(server, lora, "RUNNING")
    said = lora.works("sync", MLFLOW_TRACKING_URI=server)
    assert said.splitlines()[1:] == ["a run of lora that nobody works on is marked KILLED"]
    settled(server, lora, "KILLED")

    go(lora)
    lora.works("train", *lora.of("lora"), MLFLOW_TRACKING_URI=server)
    (last,) = runs_of(server, lora)
    assert last.info.run_id == first.info.run_id and before.keys() <= told(server, last).keys()
    lost = complete(server, lora)
    tally(metrics_lost=lost)
    assert lost == 0


def broken() -> None:
    """Let a training find a loss that is no number."""
    from stepladder import learner

    real = learner.Learner.on_before_optimizer_step

    def lost(self, optimizer):
        self.step = (self.step[0] * math.nan, self.step[1])
        real(self, optimizer)

    learner.Learner.on_before_optimizer_step = lost


@pytest.mark.fault("D1")
def test_a_training_that_fails_leaves_a_run_that_failed(server, lora):
    assert lora.run("train", *lora.of("lora"), fault=broken, MLFLOW_TRACKING_URI=server).process.exitcode == 7
    settled(server, lora, "FAILED")


def plainly(uri: str, ready: str, made: str) -> None:
    """Log values as Lightning's own logger does, in the training's process; note what it did and how long it took."""
    from lightning.pytorch.loggers import MLFlowLogger

    os.environ |= exporter.ENVIRONMENT
    waiting = MLFlowLogger("plain", tracking_uri=uri)
    behind = MLFlowLogger("plain", tracking_uri=uri, synchronous=False)
    waiting.log_metrics({"loss": 1.0}, 0)
    behind.log_metrics({"loss": 1.0}, 0)
    Path(ready).touch()
    while Path(ready).exists():
        time.sleep(0.01)
    started, fault = time.monotonic(), None
    try:
        waiting.log_metrics({"loss": 1.0}, 1)
    except MlflowException as error:
        fault = str(error)
    took = time.monotonic() - started
    for step in range(1, 6):
        behind.log_metrics({"loss": 1.0}, step)
    with suppress(MlflowException):
        behind.finalize("success")
    Path(made).write_text(json.dumps({"took": took, "fault": fault, "run": behind.run_id}))


@pytest.mark.fault("D1")
def test_lightnings_own_logger_under_the_same_fault_stops_the_training_and_loses_values(server, proxy, tmp_path):
    """The negative control."""
    ready, made = tmp_path / "ready", tmp_path / "made"
    logging = process(plainly, proxy.uri, str(ready), str(made))
    logging.start()
    Stage(logging, tmp_path / "said").until(ready.exists)
    proxy.fail("half_open")
    ready.unlink()
    logging.join(120)
    found = json.loads(made.read_text())
    assert found["took"] > exporter.TIMEOUT_S and "timed out" in found["fault"]
    proxy.fail(None)
    run = MlflowClient(server).get_run(found["run"])
    assert told(server, run).total() < 6


ROWS = 1000
WRITE = """
import sys
from stepladder.tracking import Entry, Tracker
name, rows, tracker = sys.argv[1], int(sys.argv[2]), Tracker(experiment="tiny")
points = [{"name": "train/loss", "value": step / 7, "step": step} for step in range(rows)]
for end in range(rows // 10, rows + 1, rows // 10):
    tracker.tell(Entry(name, name, {"seed": 1}, points[:end]), status="RUNNING")
tracker.tell(Entry(name, name, {"seed": 1}, points))
"""


@pytest.mark.fault("D4")
@pytest.mark.parametrize("rows", [ROWS, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.story])])
def test_two_writers_and_a_reader_on_one_file_lose_no_value(rows, empty_store, tmp_path, tally):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    environment = os.environ | {"DVC_ROOT": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-W", "ignore", "-c", WRITE]
    caught = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    writers = [subprocess.Popen([*command, name, str(rows)], **caught) for name in ("one", "two")]
    client, read = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"), 0
    while any(writer.poll() is None for writer in writers):
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                read += told(client.tracking_uri, run).total()
        time.sleep(0.1)
    assert [writer.communicate()[0] for writer in writers] == ["", ""] and read
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    held = {run.info.run_name: told(client.tracking_uri, run) for run in found}
    expected = Counter(("train/loss", step, step / 7) for step in range(rows))
    tally(metrics_lost=sum((expected - held[name]).total() for name in ("one", "two")))
    assert held == {"one": expected, "two": expected}


ODD = {
    "emoji 🎈": "emoji _x1f388_", "a#b": "a_x23_b", "x[0]": "x_x5b_0_x5d_", "../up": "_.._x2f_up", "": "_",
    "/root": "__x2f_root", "a//b": "_a_x2f__x2f_b", "val/accuracy": "val/accuracy", "größe": "größe",
}  # fmt: skip


@pytest.mark.fault("D5")
def test_odd_names_numbers_and_parameters_are_told_and_kept_whole(server, tmp_path, monkeypatch, tally):
    from stepladder.tracking import Entry, Tracker

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    one, long = Tracker(experiment=tmp_path.name, uri=server), "é" * 7000
    history = [{"name": name, "value": 0.5, "step": 1} for name in ODD]
    history += [{"name": "n" * 300, "value": value, "step": 1} for value in (float("inf"), float("nan"), -1e308)]
    params = {"prompt": long, "rate": 1, **dict.fromkeys(ODD, "x")}
    entry = Entry("odd", "odd", params, history, {"test/perplexity": float("inf")}, texts={"config.yaml": long})
    run = one.tell(entry)
    held = one.client.get_run(run)
    cut = next(name for name in held.data.metrics if name.startswith("nnn"))
    assert held.data.metrics.keys() == {*ODD.values(), cut, "test/perplexity"} and len(cut) == 250
    assert held.data.params == {"prompt": long[:6000], "rate": "1", **dict.fromkeys(ODD.values(), "x")}
    assert held.data.metrics["test/perplexity"] == sys.float_info.max
    before = told(server, held).total()
    assert before == len(history) + 1

    again = replace(entry, params=params | {"rate": 2}, texts={"config.yaml": long + "rate: 2\n"})
    assert one.tell(again) == run and told(server, held).total() == before
    assert one.client.get_run(run).data.params["rate"] == "1"
    file = one.client.download_artifacts(run, "config.yaml", str(tmp_path))
    assert Path(file).read_text() == long + "rate: 2\n"
    tally(metrics_lost=len(history) + 1 - before)
    for name in set(ODD) - set(ODD.values()):  # the negative control
        with pytest.raises(MlflowException, match=r"Invalid value|Missing value"):
            one.client.log_metric(run, name, 0.5)


@pytest.mark.fault("D7")
def test_an_upload_that_is_cut_is_repeated_and_checked(server, proxy, tmp_path, monkeypatch):
    from stepladder.tracking import DIGEST, Entry, Tracker

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name, value in exporter.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    one, text = Tracker(experiment=tmp_path.name, uri=proxy.uri), "a line of some length\n" * 20_000
    entry = Entry("cut", "cut", {}, texts={"config.yaml": text, "facts.json": "{}"})
    proxy.cut = 100_000
    with pytest.raises(RemoteError, match=proxy.uri):
        one.tell(entry)
    proxy.cut = None
    (run,) = one.client.search_runs([one.experiment])
    assert run.info.status == "RUNNING" and DIGEST not in run.data.tags
    send = one.client.log_text
    with monkeypatch.context() as patch:
        patch.setattr(one.client, "log_text", lambda run, text, name: send(run, text[:99], name))
        with pytest.raises(RemoteError, match=rf"keeps 99 of the {len(text)} bytes of config\.yaml"):
            one.tell(entry)
    assert one.tell(entry) == run.info.run_id
    file = one.client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert Path(file).read_text() == text
    assert one.client.get_run(run.info.run_id).info.status == "FINISHED"


def killed_at(point: str) -> None:
    """Kill a registration when MLflow's client is about to do, or has just done, `point`; the check costs seconds."""
    from mlflow import MlflowClient

    from stepladder import registry

    when, name = point.split()
    does = getattr(MlflowClient, name)

    def die(*words, **options) -> None:
        if when == "after":
            does(*words, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(MlflowClient, name, die)
    registry._check = lambda *_: None


@pytest.mark.fault("D6")
def test_a_registration_killed_at_any_of_its_steps_ends_with_one_version_and_its_alias_last(
    finished_workshop, empty_store, tmp_path, tally
):
    made = finished_workshop.copy(tmp_path / "project")
    (made.path / "mlflow.db").write_bytes(empty_store.read_bytes())
    board = json.loads((made.path / "reports/leaderboard.json").read_text())
    board["registration"]["passed"] = True  # tiny random models beat no baseline
    (made.path / "reports/leaderboard.json").write_text(json.dumps(board))
    model, client = "stepladder_sample_reviews", MlflowClient(f"sqlite:///{made.path / 'mlflow.db'}")
    steps = ("after create_registered_model", "after _create_model_version", "before set_registered_model_alias")
    for step in steps:
        fault = functools.partial(killed_at, step)
        assert made.run("register", *made.of("compare"), fault=fault).process.exitcode == -9
        assert client.get_registered_model(model).aliases == {}
    made.works("register", *made.of("compare"))
    (version,) = client.search_model_versions(f"name = '{model}'")
    assert client.get_registered_model(model).aliases == {"champion": version.version}
    assert version.status == "READY" and version.tags["candidate"]
    tally(models_lost=0)


@pytest.mark.fault("D1")
@pytest.mark.long
@pytest.mark.story
def test_a_minute_of_training_takes_no_longer_with_a_server_that_is_up_down_or_hung(server, proxy, lora, capsys):
    """The least of three measures each, taken in turn: what else the machine does only adds."""
    text = re.sub(r"max_epochs: \d+", "max_epochs: 60", (lora.path / "build/lora.yaml").read_text())
    (lora.path / "build/lora.yaml").write_text(text)
    seconds: dict[str, list[float]] = {"alone": [], "up": [], "down": [], "half_open": []}
    for _ in range(3):
        for state, measured in seconds.items():
            proxy.fail(state if state in ("down", "half_open") else None)
            words = {"fault": untracked} if state == "alone" else {"MLFLOW_TRACKING_URI": proxy.uri}
            lora.works("train", *lora.of("lora"), STEPLADDER_FRESH="1", **words)
            measured.append(json.loads((lora.path / "runs/lora/train.json").read_text())["fit_seconds"])
    least = {state: min(measured) for state, measured in seconds.items()}
    with capsys.disabled():
        print({state: round(value / least["alone"], 3) for state, value in least.items()}, least)
    assert max(least.values()) < 1.05 * least["alone"]

"""Workers: processes of one command ask one study in PostgreSQL; whichever dies, no trial is lost or made twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from stepladder import storages, study
from tests.test_sweeper import ROOT, SWEEPER

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
NUM_TRIALS, NUM_WORKERS = 24, 4
SLOW = """
import os, time
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def slow(config):
    with open("tried", "a") as tried:
        print(os.getpid(), float(config.x), float(config.y), file=tried, flush=True)
    time.sleep(config.seconds)
    return config.x**2 + config.y**2

if __name__ == "__main__":
    slow()
"""


class Crew:
    """Processes of one command in a folder."""

    def __init__(self, folder: Path, storage: str, environment: dict[str, str] | None = None, **settings):
        self.folder, self.environment = folder, {**os.environ, "PYTHONPATH": str(ROOT / "src"), **(environment or {})}
        params = {"x": "interval(-5, 5)", "y": "interval(-5, 5)"}
        sweeper = SWEEPER | {"storage": storage, "n_trials": NUM_TRIALS, "params": params} | settings
        content = {"defaults": ["_self_", {"override hydra/sweeper": "optuna"}], "x": 1, "y": 1, "seconds": 0.5}
        (folder / "config.yaml").write_text(yaml.safe_dump(content | {"hydra": {"sweeper": sweeper}}))
        (folder / "slow.py").write_text(SLOW)

    def start(self, *words: str) -> subprocess.Popen:
        """Start one more worker; Ctrl-C of the tests is not for it."""
        command = [sys.executable, "slow.py", "-m", f"hydra.sweep.dir=out/{time.time_ns()}", *words]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **options)

    def tried(self) -> list[tuple[int, str]]:
        """Return the process and the point of each trial that was begun."""
        file = self.folder / "tried"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [(int(line.split()[0]), line.partition(" ")[2]) for line in lines]

    def until(self, least: int, *, by: subprocess.Popen | None = None) -> None:
        """Wait until so many trials were begun, all of them or those of one worker."""
        deadline = time.monotonic() + 60
        while sum(by is None or process == by.pid for process, _ in self.tried()) < least:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def trials_of(storage: str, name: str) -> list:
    found = study.open_study(storage, name, study.Plan(0))
    trials = found.get_trials()
    found._storage.remove_session()
    found._storage._backend.engine.dispose()  # an open connection would be warned of when the tests end
    return trials


def point(trial) -> str:
    return " ".join(str(trial.params[key]) for key in "xy")


def test_a_killed_worker_costs_no_trial_and_none_is_made_twice(postgres, tmp_path):
    crew = Crew(tmp_path, postgres, study_name="killed")
    workers = [crew.start() for _ in range(NUM_WORKERS)]
    crew.until(8)
    crew.until(sum(process == workers[0].pid for process, _ in crew.tried()) + 1, by=workers[0])  # it is within one
    workers[0].send_signal(signal.SIGKILL)
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0, 0], said
    made = trials_of(postgres, "killed")
    assert [trial.number for trial in made] == list(range(len(made)))
    complete = [trial for trial in made if trial.state.name == "COMPLETE"]
    (lost,) = [trial for trial in made if trial.state.name == "FAIL" and trial.params]
    assert len(complete) == NUM_TRIALS and len({point(trial) for trial in complete}) == NUM_TRIALS
    (again,) = [trial for trial in complete if trial.params == lost.params]
    assert again.system_attrs["failed_trial"] == lost.number
    begun = Counter(where for _, where in crew.tried())
    assert begun == Counter(map(point, complete)) + Counter([point(lost)]), "only what was in hand is begun again"
    assert point(made[0]) == "1.0 1.0", "the config's own values come first"
    (best,) = {line for told in said[1:] for line in told.splitlines() if line.startswith("best of")}
    assert f"-> [{min(trial.value for trial in complete)}]" in best

    after = crew.start()
    assert after.communicate()[0].splitlines()[-1] == best and after.returncode == 0
    assert len(crew.tried()) == NUM_TRIALS + 1, "the same command tries nothing more"


def test_workers_share_the_points_of_a_grid_of_which_one_is_killed(postgres, tmp_path):
    params = {"x": "choice(1,2,3,4,5)", "y": "choice(-1,0,1)"}
    crew = Crew(tmp_path, postgres, study_name="grid", sampler="grid", params=params)
    workers = [crew.start() for _ in range(3)]
    crew.until(4)
    crew.until(sum(process == workers[0].pid for process, _ in crew.tried()) + 1, by=workers[0])  # it is within one
    workers[0].send_signal(signal.SIGKILL)
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0], said
    made = trials_of(postgres, "grid")
    points = [f"{float(x)} {float(y)}" for x in range(1, 6) for y in (-1, 0, 1)]
    complete = [trial for trial in made if trial.state.name == "COMPLETE"]
    (lost,) = [trial for trial in made if trial.state.name == "FAIL" and trial.params]
    begun = Counter(where for _, where in crew.tried())
    place = " ".join(str(float(lost.params[key])) for key in "xy")
    assert len(complete) == 15 and begun == Counter(points) + Counter([place]), "each point once, the lost one again"
    other = crew.start("x=choice(1,2)")
    assert "study grid searches" in other.communicate()[0] and other.returncode


def test_a_database_that_is_started_again_costs_no_trial(postgres, restart, tmp_path):
    crew = Crew(tmp_path, postgres, study_name="restarted", n_trials=12)
    workers = [crew.start() for _ in range(2)]
    crew.until(4)
    restart()
    said = [worker.communicate()[0] for worker in workers]
    after = crew.start()
    told = after.communicate()[0]
    assert after.returncode == 0, (told, said)
    complete = [trial for trial in trials_of(postgres, "restarted") if trial.state.name == "COMPLETE"]
    assert len(complete) == 12 and len({point(trial) for trial in complete}) == 12
    again = sum(Counter(where for _, where in crew.tried()).values()) - 12
    assert again <= 2, "what a worker had in hand at most is begun again"


def test_what_an_interrupted_worker_has_in_hand_waits_for_the_next_at_once(postgres, tmp_path):
    crew = Crew(tmp_path, postgres, study_name="interrupted", n_trials=4)
    worker = crew.start("seconds=30")
    crew.until(1)
    worker.send_signal(signal.SIGINT)
    worker.communicate()
    assert worker.returncode != 0
    began = time.monotonic()
    after = crew.start("seconds=0")
    said, _ = after.communicate()
    assert after.returncode == 0 and time.monotonic() - began < storages.SILENT_S / 2, said
    (_, first), (_, second) = crew.tried()[:2]
    assert first == second and len(crew.tried()) == 5
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("trial ")] == [
        f"trial {number} of 4" for number in range(1, 5)
    ]


def test_a_study_does_not_begin_anew_under_its_workers_nor_without_a_database(postgres, tmp_path):
    crew = Crew(tmp_path, postgres, study_name="anew", n_trials=2)
    worker = crew.start("seconds=30")
    crew.until(1)
    second = crew.start("hydra.sweeper.resume=false")
    assert "study anew: 1 of its trials are worked on" in second.communicate()[0] and second.returncode
    worker.kill()
    worker.communicate()
    nobody = crew.start("hydra.sweeper.storage=postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert "127.0.0.1:1/none: connection" in nobody.communicate()[0] and nobody.returncode
    secret = crew.start("hydra.sweeper.storage=postgresql://me:word@host/studies")
    assert "let PGPASSWORD or ~/.pgpass hold it" in secret.communicate()[0] and secret.returncode

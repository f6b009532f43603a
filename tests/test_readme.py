"""The README tells the truth: its tree is the repository's, its commands are accepted, its files are there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]


def modules() -> list[str]:
    """Return a line for each module: its path and the first phrase of its docstring."""
    folders = (ROOT / folder for folder in ("pipelines", "src/stepladder"))
    paths = [path for folder in folders for path in sorted(folder.glob("[!_]*.py"))]
    return [f"{path.relative_to(ROOT).as_posix()}  {phrase(path)}" for path in paths]


def plugins() -> dict[str, tuple[str, set[str]]]:
    """Return {folder: (what it holds, names of its files)} of the folders that grow by one file a thing."""
    packages = [path.parent for path in sorted((ROOT / "src/stepladder").glob("*/__init__.py"))]
    found = {path: (phrase(path / "__init__.py"), {file.stem for file in path.glob("[!_]*.py")}) for path in packages}
    groups = sorted({path.parent for path in (ROOT / "conf").glob("*/**/*.yaml")})
    found |= {path: ("", {file.stem for file in path.glob("*.yaml")}) for path in groups}
    return {f"{path.relative_to(ROOT).as_posix()}/": content for path, content in found.items()}


def phrase(path: Path) -> str:
    first = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
    return re.split(r"(?<=\w)[;:](?= )", first.split(": ", 1)[-1])[0].rstrip(".")


def test_the_tree_is_the_repositorys():
    lines = [line for kind, text in BLOCKS if kind == "text" for line in text.splitlines()]
    written = [re.sub(r"\s{2,}", "  ", line.strip()) for line in lines]
    missing = [line for line in modules() if line not in written]
    assert not missing, "README.md lacks these lines:\n" + "\n".join(missing)
    told = dict(line.split("  ", 1) for line in written if re.match(r"(pipelines|src|conf)/", line))
    assert not [name for name in told if not (ROOT / name).exists()]
    for folder, (phrased, there) in plugins().items():
        assert told[folder].startswith(phrased), f"README.md: {folder}  {phrased}: {', '.join(sorted(there))}"
        names = told[folder].removeprefix(f"{phrased}: ").split(", ")
        assert set(names) <= there, f"README.md names files that {folder} does not hold"


def test_it_shows_what_a_run_looks_like():
    assert {"docs/leaderboard.png", "docs/mlflow.png"} <= set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README))


def test_every_file_it_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_its_targets(command: str):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m pipelines.")])
def test_its_stages_accept_their_words(command: str):
    _, _, module, *words = command.split()
    if not any("=" in word for word in words):
        pytest.skip("no words to check")
    words = [word for word in words if word != "-m"]
    single = [word.split(",")[0] for word in words]
    subprocess.run([sys.executable, "-m", module, *single, "--cfg", "job"], cwd=ROOT, check=True, capture_output=True)

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


def tree() -> list[str]:
    """Return a line for each module: its path and the first phrase of its docstring; plug-in folders in one line."""
    lines = []
    for folder in ("pipelines", "src/stepladder"):
        for path in sorted((ROOT / folder).glob("[!_]*.py")):
            lines.append(f"{folder}/{path.name}  {phrase(path)}")
        for path in sorted(p for p in (ROOT / folder).iterdir() if (p / "__init__.py").exists()):
            names = ", ".join(sorted(file.stem for file in path.glob("[!_]*.py")))
            lines.append(f"{folder}/{path.name}/  {phrase(path / '__init__.py')}: {names}")
    for path in sorted(p for p in (ROOT / "conf").iterdir() if p.is_dir()):
        lines.append(f"conf/{path.name}/  {', '.join(sorted(file.stem for file in path.glob('*.yaml')))}")
    return lines


def phrase(path: Path) -> str:
    first = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
    return re.split(r"(?<=\w)[;:](?= )", first.split(": ", 1)[-1])[0].rstrip(".")


def test_the_tree_is_the_repositorys():
    lines = [line for kind, text in BLOCKS if kind == "text" for line in text.splitlines()]
    written = [re.sub(r"\s{2,}", "  ", line.strip()) for line in lines]
    missing = [line for line in tree() if line not in written]
    assert not missing, "README.md lacks these lines:\n" + "\n".join(missing)
    told = [line.split("  ")[0] for line in written if re.match(r"(pipelines|src|conf)/", line)]
    assert not [name for name in told if not (ROOT / name).exists()]


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

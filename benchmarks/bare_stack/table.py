"""Table: the outcomes as people and programs read them, docs/bare_stack.md and docs/bare_stack.json."""

import importlib.metadata
import json
import os
import platform
from collections import Counter
from pathlib import Path

PACKAGES = ("torch", "lightning", "transformers", "peft", "mlflow", "dvc", "hydra-core")
HEAD = """# Twenty groups of faults, beside the plain libraries
`make bare-stack` injects each group for real, in a folder of its own, into the plain libraries wired as their
documentations show it (bare) and into a copy of this repository (ours), on tiny random models, and writes this file.
Handled: **yes** when every demand held, **no** when none did, **partly** in between; demands, durations and what failed
stand in [bare_stack.json](bare_stack.json). All of it is computed from what the run observed.
"""


def text(rows: list[dict]) -> str:
    """Return the table in Markdown."""
    lines = ["| | fault | bare | observed | ours | observed |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["id"], row["fault"]]
        for side in ("bare", "ours"):
            cells += [f"**{row[side]['handled']}**", row[side]["observed"]]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join([*lines, "", *(_count(rows, side) for side in ("bare", "ours"))])


def write(rows: list[dict], folder: Path, *, order: list[str]) -> None:
    """Put the rows into both files in the place of those of the same groups; what another run said of a stack stays."""
    file = folder / "bare_stack.json"
    known = {row["id"]: row for row in json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    for row in rows:
        known[row["id"]] = known.get(row["id"], {}) | row | {"versions": versions}
    merged = [known[name] for name in order if name in known]
    file.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = [row for row in merged if "bare" in row and "ours" in row]
    dates = sorted({row["date"] for row in shown})
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    said = f"{' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}, {machine}, "
    said += ", ".join(f"{name} {version}" for name, version in versions.items())
    (folder / "bare_stack.md").write_text(f"{HEAD}\n{said}.\n\n{text(shown)}\n", encoding="utf-8")


def _count(rows: list[dict], side: str) -> str:
    counts = Counter(row[side]["handled"] for row in rows)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("yes", "partly", "no", "not run") if counts[kind])
    return f"{'Plain libraries' if side == 'bare' else 'Stepladder'}: of {len(rows)} groups, {told}.  "

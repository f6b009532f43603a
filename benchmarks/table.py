"""Table: the rows of all jobs, as JSON for programs, Markdown for people and a picture, in benchmarks/results/.

| job | peer | ours | theirs | ratio | rounds | goal | equal work | share of limit |
"""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import chart
from benchmarks.rounds import OURS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
JSON, MARKDOWN, PICTURE = (RESULTS / f"latest.{end}" for end in ("json", "md", "png"))
PACKAGES = (
    "stepladder", "torch", "transformers", "peft", "lightning", "tokenizers", "accelerate",
    "trl", "sentence-transformers", "lm-eval", "datasets", "dvc", "hydra-core",
)  # fmt: skip
HEADER = ("job", "peer", "ours", "theirs", "ratio", "rounds", "goal", "equal work", "share of limit")
LEGEND = """
Ratio: the peer's seconds through ours, the median of the rounds; above the goal is better. Ours and theirs are
seconds of the work that both do. Share of limit: useful matrix FLOPs a second of ours through those of the machine's
own matrix product of the same shapes, in bf16 where it has units for it, measured in the same run.
"""


def circumstances() -> dict:
    """Return the date, the versions and the load under which rows are measured."""
    return {
        "date": str(datetime.now(UTC).date()),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "machine": _machine(),
        "load": round(os.getloadavg()[0], 1),
    }


def kept(families: list[str]) -> list[dict]:
    """Return the rows of the last table that are of other families than these."""
    rows = json.loads(JSON.read_text()) if JSON.is_file() else []
    return [row for row in rows if row.get("family", families[0]) not in families]


def write(rows: list[dict]) -> None:
    """Write the table in all three forms."""
    RESULTS.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    JSON.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    MARKDOWN.write_text(markdown(rows), encoding="utf-8")
    chart.draw(rows, PICTURE)


def markdown(rows: list[dict]) -> str:
    """Return the page: under what circumstances, then a table for each clock, then how equal work was seen."""
    parts = [_head(rows), LEGEND.strip().replace("\n", " ")]
    for clock, threads in dict.fromkeys((row["clock"], row["threads"]) for row in rows):
        chosen = [row for row in rows if (row["clock"], row["threads"]) == (clock, threads)]
        said = f"## {clock}, {threads} thread{'s' * (threads > 1)}\n"
        ruled = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
        parts.append("\n".join([said, *ruled, *map(_line, chosen)]))
    seen = [f"- {row['job']}, {row['peer']}: {row['evidence']}." for row in rows if row.get("evidence")]
    parts.append("\n".join(["## Equal work", "", *dict.fromkeys(seen)]))
    return "\n\n".join(parts) + "\n"


def _head(rows: list[dict]) -> str:
    versions = {name: version for row in rows for name, version in row["versions"].items()}
    dates = sorted({row["date"] for row in rows})
    loads = [row["load"] for row in rows]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machines = "; ".join(sorted({row["machine"] for row in rows}))
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    load = f"load {min(loads)} to {max(loads)} before each job"
    return f"{when}, {machines}, {load}. Python {platform.python_version()}, {said}."


def _line(row: dict) -> str:
    job = row["job"] if row["ours_is"] == OURS else f"{row['job']} ({row['ours_is']})"
    goal = "" if row["goal"] is None else f">= {row['goal']}"
    if row.get("missing"):
        return f"| {job} | {row['peer']} | | | **{row['missing']}** | | {goal} | | |"
    spread = f"{min(row['ratios'])} to {max(row['ratios'])}"
    share = f"{row['share_of_limit']:.0%}" if row.get("share_of_limit") else ""
    equal = "yes" if row["equal_work"] else "**no**"
    cells = [job, row["peer"], f"{row['ours']:.2f} s", f"{row['theirs']:.2f} s", f"**{row['ratio']}**", spread, goal]
    return "| " + " | ".join([*cells, equal, share]) + " |"


def _machine() -> str:
    """Return the processor, its cores, and whether it computes in bf16, which decides what may be expected of it."""
    file = Path("/proc/cpuinfo")
    told = dict(line.partition("\t")[::2] for line in file.read_text().splitlines()) if file.is_file() else {}
    name = next((told[key].lstrip("\t :") for key in told if key == "model name"), platform.machine())
    units = any(unit in " ".join(told.values()) for unit in ("avx512_bf16", "amx_bf16"))
    return f"{name}, {os.cpu_count()} cores {'with' if units else 'without'} bf16 units"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Table: one adapter on the union of three domains, and three adapters combined, on each domain's test rows.

python -m studies.domains.table        docs/domains.{json,md}, from reports/leaderboard.json of this study
"""

import json
from pathlib import Path

from stepladder import comparison

BOARD, MADE = Path("reports/leaderboard.json"), Path("docs/domains")
CONTROL = "union"
PAIRED = ("difference", "low", "high", "p_holm")


def main() -> None:
    """Read the leaderboard of the study and write the table as JSON and Markdown."""
    rows = table(json.loads(BOARD.read_text()))
    MADE.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    MADE.with_suffix(".md").write_text(markdown(rows))


def table(board: dict) -> list[dict]:
    """Return a row for each candidate: its scores on all rows and on each domain, and what the union is better by."""
    domains = {part["value"]: part["scores"] for part in board["slices"] if part["by"] == "source"}
    rows = []
    for row in board["rows"]:
        name = row["candidate"]
        gain = None if name == CONTROL else comparison.between(board["pairs"], CONTROL, name)
        scores = {domain: scores[name][board["metric"]] for domain, scores in sorted(domains.items())}
        seconds = board["prices"][name]["train_seconds"]
        found = {"candidate": name, "score": row["score"], "domains": scores, "train_seconds": seconds}
        rows.append(found | {"union_gain": gain and {key: gain[key] for key in PAIRED}})
    return rows


def markdown(rows: list[dict]) -> str:
    """Return the rows as a table of Markdown, each score with its 95 % interval."""
    domains = list(rows[0]["domains"])
    lines = [
        f"| candidate | all rows | {' | '.join(domains)} | union better by | p (Holm) | seconds |",
        f"|---|---|{'---|' * len(domains)}---|---|---|",
    ]
    for row in rows:
        score, gain = row["score"], row["union_gain"]
        cells = [row["candidate"], _interval(score["test"], score["low"], score["high"])]
        cells += [_interval(*row["domains"][domain]) for domain in domains]
        cells += [_signed(gain), f"{gain['p_holm']:.3g}"] if gain else ["-", "-"]
        lines.append("| " + " | ".join([*cells, f"{row['train_seconds']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _signed(gain: dict) -> str:
    return "{difference:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain)


if __name__ == "__main__":
    main()

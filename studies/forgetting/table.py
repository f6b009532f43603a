"""Table: what tuning SmolLM2 by each method bought on its task, and what general text and questions it cost.

python -m studies.forgetting.table        docs/forgetting.{json,md,png}, from reports/leaderboard.json of this study
Gains are those of stage probe, paired by text and question with the untuned model, and hold its intervals.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

BOARD, MADE = Path("reports/leaderboard.json"), Path("docs/forgetting")
CONTROL = "zero_shot"
LINEAR = 2e-3  # bits per byte on both sides of zero that are drawn linearly, what is beyond by its logarithm


def main() -> None:
    """Read the leaderboard of the study and write the table as JSON, Markdown and a picture."""
    board = json.loads(BOARD.read_text())
    rows = table(board)
    MADE.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    MADE.with_suffix(".md").write_text(markdown(rows, board["num_test_rows"]))
    picture(rows, MADE.with_suffix(".png"))


def table(board: dict) -> list[dict]:
    """Return a row for each tuned candidate, the one that forgot least first."""
    tuned = [row for row in board["rows"] if row["risks"]]
    control = next(row["score"] for row in board["rows"] if row["candidate"] == CONTROL)
    rows = [
        {
            "method": row["candidate"],
            "test_accuracy": row["score"]["test"],
            "interval": [row["score"]["low"], row["score"]["high"]],
            "zero_shot_accuracy": control["test"],
            "num_trained_parameters": row["num_trained_parameters"],
            "train_seconds": board["prices"][row["candidate"]]["train_seconds"],
            "bits_per_byte": {key: row["risks"]["retention"][key] for key in ("base_bits_per_byte", "gain")},
            "openbookqa": {key: row["risks"]["openbookqa"][key] for key in ("base_accuracy", "accuracy_gain")},
        }
        for row in tuned
    ]
    return sorted(rows, key=lambda row: -row["bits_per_byte"]["gain"]["value"])


def markdown(rows: list[dict], num_rows: int) -> str:
    """Return the rows as a table of Markdown, with what was before in its head."""
    before = {key: rows[0][key][name]["value"] for key, name in BEFORE.items()}
    items = {key: rows[0][key][name]["num_items"] for key, name in BEFORE.items()}
    asked, bits, right = rows[0]["zero_shot_accuracy"], before["bits_per_byte"], before["openbookqa"]
    head = f"Before: {asked:.3f} zero-shot on {num_rows:,} test rows, {bits:.4f} bits per byte on "
    head += f"{items['bits_per_byte']} passages of presidents, {right:.3f} of {items['openbookqa']} questions right."
    lines = [
        f"{head}\n",
        "| method | test accuracy | bits per byte: gain | 95 % | OpenBookQA: gain | 95 % | trained | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        text, questions = row["bits_per_byte"]["gain"], row["openbookqa"]["accuracy_gain"]
        cells = [row["method"], f"{row['test_accuracy']:.3f}", f"{text['value']:+.4f}", between(text, 4)]
        cells += [f"{questions['value']:+.3f}", between(questions, 3), f"{row['num_trained_parameters']:,}"]
        lines.append("| " + " | ".join([*cells, f"{row['train_seconds']:.0f}"]) + " |")
    return "\n".join(lines) + "\n"


BEFORE = {"bits_per_byte": "base_bits_per_byte", "openbookqa": "base_accuracy"}


def between(found: dict, digits: int) -> str:
    """Return an interval in words."""
    return f"{found['low']:+.{digits}f} to {found['high']:+.{digits}f}"


def picture(rows: list[dict], file: Path) -> None:
    """Draw accuracy on the task against the gain in bits per byte, each with its interval."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for row in rows:
        gain, (low, high) = row["bits_per_byte"]["gain"], row["interval"]
        place = (gain["value"], row["test_accuracy"])
        sides = [[gain["value"] - gain["low"]], [gain["high"] - gain["value"]]]
        ends = [[place[1] - low], [high - place[1]]]
        axes.errorbar(*place, yerr=ends, xerr=sides, fmt="o", color="#3465a4", ecolor="#b0c4de", capsize=3)
        axes.annotate(row["method"], place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.axhline(rows[0]["zero_shot_accuracy"], color="#888888", linestyle=":", label="zero-shot, nothing forgotten")
    axes.axvline(0, color="#888888", linestyle=":")
    axes.set(xlabel="gain in bits per byte of general text; left of zero it was forgotten", ylabel="test accuracy")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()

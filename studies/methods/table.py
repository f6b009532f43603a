"""Table: what each method reached on validation over its seeds, with intervals, and what it took.

python -m studies.methods.table        docs/methods.json, .md and .png, from studies/methods/fits/<method>-<seed>/
The interval holds both chances, of the rows and of the seed: rows and fits are drawn anew together (two-way bootstrap,
Owen & Eckles 2012, arXiv:1106.2125). Seconds are those of one core's work, so that other work beside it counts less.
"""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl

FITS, MADE = Path("studies/methods/fits"), Path("docs/methods")
FORGOTTEN = Path("docs/forgetting.json")  # of SmolLM2, since no general text can be put to a MiniLM
NUM_RESAMPLES, CONFIDENCE, SEED = 4000, 0.95, 7
CONTROL = "frozen"
PLACES = (4, -10, 16, -22)  # of names above and below their dots, in turn: neighbours have as many parameters


def main() -> None:
    """Read every fit and write the table as JSON, Markdown and a picture."""
    rows = with_forgetting(table(FITS), json.loads(FORGOTTEN.read_text()))
    MADE.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    MADE.with_suffix(".md").write_text(markdown(rows))
    picture(rows, MADE.with_suffix(".png"))


def table(folder: Path) -> list[dict]:
    """Return a row for each method, the best first."""
    fits = defaultdict(list)
    for place in sorted(folder.glob("*-*/model/stepladder.json")):
        fits[place.parts[-3].rpartition("-")[0]].append(place.parents[1])
    right = {method: np.stack([_right(fit) for fit in found]) for method, found in fits.items()}  # (seeds, rows)
    control = right.get(CONTROL)
    rows = [_row(method, fits[method], hits, control) for method, hits in right.items()]
    return sorted(rows, key=lambda row: -row["accuracy"])


def with_forgetting(rows: list[dict], forgotten: list[dict]) -> list[dict]:
    """Return the rows with what each method made SmolLM2 forget: None where that was not, or cannot be, asked."""
    found = {row["method"]: {key: row[key] for key in ("bits_per_byte", "openbookqa")} for row in forgotten}
    return [row | {"forgetting": found.get(row["method"])} for row in rows]


def interval(hits: np.ndarray, control: np.ndarray | None = None) -> tuple[float, float]:
    """Return the interval of the mean of `hits`, (seeds, rows), or of its difference to another method's."""
    random, ends = np.random.default_rng(SEED), []
    rows = hits.shape[1]
    for _ in range(NUM_RESAMPLES):
        drawn = random.integers(rows, size=rows)
        means = [
            each[random.integers(len(each), size=len(each))][:, drawn].mean()
            for each in (hits, control)
            if each is not None
        ]
        ends.append(means[0] - means[1] if control is not None else means[0])
    tail = (1 - CONFIDENCE) / 2
    return tuple(float(end) for end in np.quantile(ends, [tail, 1 - tail]))


def markdown(rows: list[dict]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [
        "| method | val accuracy | 95 % interval | over frozen, 95 % | seeds (s.d.) | trained | CPU-seconds "
        "| SmolLM2: bits per byte of general text, 95 % | OpenBookQA, 95 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["difference"] or (None, None)
        gain = "-" if low is None else f"{low:+.3f} to {high:+.3f}"
        ends = "{:.3f} to {:.3f}".format(*row["interval"])
        seeds = f"{row['num_seeds']} ({row['deviation']:.3f})"
        numbers = f"{row['num_trained_parameters']:,} | {row['cpu_seconds']:.0f}"
        cells = [row["method"], f"{row['accuracy']:.3f}", ends, gain, seeds, numbers, *_forgotten(row["forgetting"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _forgotten(found: dict | None) -> list[str]:
    """Return what was gained in general text and in questions: what is below zero was forgotten."""
    if found is None:
        return ["-", "-"]
    text, questions = found["bits_per_byte"]["gain"], found["openbookqa"]["accuracy_gain"]
    return [f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})" for gain in (text, questions)]


def picture(rows: list[dict], file: Path) -> None:
    """Draw accuracy with its interval against the number of trained parameters."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for number, row in enumerate(sorted(rows, key=lambda row: row["num_trained_parameters"])):
        size, mean, (low, high) = row["num_trained_parameters"], row["accuracy"], row["interval"]
        axes.errorbar(size, mean, [[mean - low], [high - mean]], fmt="o", color="#3465a4", ecolor="#b0c4de", capsize=3)
        axes.annotate(
            row["method"], (size, mean), xytext=(5, PLACES[number % 4]), textcoords="offset points", fontsize=8
        )
    axes.set(xscale="log", xlabel="trained parameters", ylabel="accuracy on validation, 95 % interval")
    axes.grid(alpha=0.25)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _row(method: str, fits: list[Path], hits: np.ndarray, control: np.ndarray | None) -> dict:
    facts = json.loads((fits[0] / "model" / "stepladder.json").read_text())
    seconds = [json.loads((fit / "train.json").read_text())["cpu_seconds"] for fit in fits]
    compared = control is not None and method != CONTROL
    return {
        "method": method,
        "accuracy": float(hits.mean()),
        "interval": interval(hits),
        "difference": interval(hits, control) if compared else None,
        "num_seeds": len(fits),
        "deviation": float(hits.mean(1).std(ddof=1)) if len(fits) > 1 else 0.0,
        "num_trained_parameters": facts["num_trained_parameters"],
        "num_rows": hits.shape[1],
        "cpu_seconds": float(np.median(seconds)),
    }


def _right(fit: Path) -> np.ndarray:
    """Return which val rows a fit answered rightly, in the order of their ids, (rows,)."""
    frame = pl.read_parquet(fit / "val.parquet").sort("id")
    return (frame["target"] == frame["answer"]).to_numpy()


if __name__ == "__main__":
    main()

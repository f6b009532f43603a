"""The leaderboard as files: JSON for programs, CSV for spreadsheets, a self-contained page, a picture for a README."""

import io
import math
from pathlib import Path

import jinja2
from defusedcsv import csv

from stepladder import records
from stepladder.report import chart, text
from stepladder.verdict import LADDER

FACTS = ("num_parameters", "num_trained_parameters", "rows_seen", "num_train_rows")
PRICES = ("sweep_seconds", "train_seconds", "examples_per_second", "model_bytes", "base_bytes")


def write(board: dict, folder: Path) -> None:
    """Write leaderboard.json, .csv, .html and .png to `folder`."""
    sheet, lines = io.StringIO(), table(board)
    writer = csv.DictWriter(sheet, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    records.write_json(board, folder / "leaderboard.json")
    records.write_text(sheet.getvalue(), folder / "leaderboard.csv")
    records.write_text(page(board), folder / "leaderboard.html")
    chart.draw(board, folder / "leaderboard.png")


def table(board: dict) -> list[dict]:
    """Return one flat row for each candidate, those on other data sets and failed ones included."""
    names = metric_names(board)
    rows = [*board["rows"], *board["elsewhere"], *board["failed"]]
    return [_line(row, board["prices"].get(row["candidate"], {}), names) for row in rows]


def page(board: dict) -> str:
    """Return the leaderboard as one HTML page that needs no network; every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (text.score, text.gain, text.count, text.seconds, text.size, text.words)
    environment.filters |= {function.__name__: function for function in filters}
    scale = Scale([row["score"][end] for row in board["rows"] for end in ("low", "high")])
    levels = {row["level"] for row in [*board["rows"], *board["failed"]]}
    ladder = [level for level in LADDER if level in levels]
    html = environment.get_template("leaderboard.html")
    return html.render(board, scale=scale, names=metric_names(board), ladder=ladder)


def metric_names(board: dict) -> list[str]:
    """Return all metrics of the rows, the one that decides first."""
    rows = [*board["rows"], *board["elsewhere"]]
    found = {name for row in rows for part in row["metrics"].values() for name in part}
    return sorted(found, key=lambda name: (name != board["metric"], name))


class Scale:
    """Where values lie between the ends of an axis that holds them all, in percent; ticks are round numbers."""

    def __init__(self, values: list[float]) -> None:
        low, high = min(values, default=0.0), max(values, default=1.0)
        margin = 0.06 * (high - low) or 0.5
        self.low, self.high = low - margin, high + margin

    def at(self, value: float) -> str:
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [step * place for place in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _line(row: dict, price: dict, names: list[str]) -> dict:
    score, difference = row.get("score") or {}, row.get("difference") or {}
    parts = row.get("metrics") or {"val": {}, "test": {}}
    return {
        **{key: row.get(key) for key in ("rank", "candidate", "level", "model", "method", "data", "seed", "group")},
        "status": f"failed at {row['stage']}" if "stage" in row else "measured",
        **{key: score.get(key) for key in ("val", "test", "low", "high")},
        "difference": difference.get("difference"),
        "difference_low": difference.get("low"),
        "difference_high": difference.get("high"),
        "p_value": difference.get("p_value"),
        "p_holm": difference.get("p_holm"),
        **{key: row.get(key) for key in FACTS},
        **{key: price.get(key) for key in PRICES},
        **{f"{part}/{name}": parts[part].get(name) for part in ("val", "test") for name in names},
        "command": row["command"],
    }

"""The leaderboard as files: JSON for programs, CSV for spreadsheets, a page, and a table and a picture to show."""

import base64
import io
from functools import partial
from pathlib import Path

import jinja2
from defusedcsv import csv

from stepladder import comparison, gate, ledger, records
from stepladder.report import chart, evidence, text
from stepladder.report.data import visible

FACTS = ("num_parameters", "num_trained_parameters", "rows_seen", "num_train_rows")
PRICES = ("sweep_seconds", "train_seconds", "examples_per_second", "model_bytes", "base_bytes")
SEARCHES = {  # pictures of a search, as Optuna draws them
    "coordinates": "Trials as lines through their settings",
    "slices": "Score by setting",
    "importance": "How much each setting matters",
    "curves": "Validation score of each trial",
}
PAID = ("money", "energy", "latency")


def write(board: dict, folder: Path, *, root: Path = Path()) -> None:
    """Write leaderboard.json, .csv, .md, .html and .png to `folder`; `root` is where the board's pictures lie."""
    sheet, lines = io.StringIO(), table(board)
    writer = csv.DictWriter(sheet, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    records.write_json(board, folder / "leaderboard.json")
    records.write_text(sheet.getvalue(), folder / "leaderboard.csv")
    records.write_text(markdown(board), folder / "leaderboard.md")
    records.write_text(page(board, root=root), folder / "leaderboard.html")
    chart.draw(board, folder / "leaderboard.png")


def table(board: dict) -> list[dict]:
    """Return one flat row for each candidate, those on other data sets and failed ones included."""
    names = metric_names(board)
    rows = [*board["rows"], *board["elsewhere"], *board["failed"]]
    return [_line(row, board["prices"].get(row["candidate"], {}), names) for row in rows]


def markdown(board: dict) -> str:
    """Return verdict and table in Markdown, to be pasted into a README."""
    metric, sure = text.words(board["metric"]), f"{100 * board['gate']['confidence']:g} %"
    than = board["decision"]["best_baseline"] if board["decision"] else "the baseline"
    head = (
        f"| # | candidate | level | model | test {metric} | {sure} interval | group | better than {than} | training |"
    )
    words = " ".join(filter(None, (board["verdict"], board["worth"])))
    lines = [f"{words}\n", head, "|--:|---|---|---|--:|---|---|---|--:|"]
    for row in board["rows"]:
        score, gap, price = row["score"], row["difference"], board["prices"][row["candidate"]]
        gain = (
            f"{text.gain(gap['difference'])} ({text.gain(gap['low'])} to {text.gain(gap['high'])})"
            if gap
            else text.DASH
        )
        cells = [row["rank"], row["candidate"], row["level"], " ".join(filter(None, (row["model"], row["method"])))]
        cells += [text.score(score["test"]), f"{text.score(score['low'])} to {text.score(score['high'])}", row["group"]]
        lines.append("| " + " | ".join(map(str, [*cells, gain, text.seconds(price["paid"]["training"])])) + " |")
    shared = "Candidates that share a letter of the group are not shown to differ (Holm over all pairs)."
    return "\n".join([*lines, f"\n{board['num_test_rows']:,} test rows of {board['data']}. {shared}\n"])


def page(board: dict, *, root: Path = Path()) -> str:
    """Return the leaderboard as one HTML page that needs no network; every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (text.score, text.gain, text.chance, text.count, text.seconds, text.size, text.words, visible)
    filters += (text.amount, text.energy)
    environment.filters |= {function.__name__: function for function in filters}
    scale = evidence.Scale([row["score"][end] for row in board["rows"] for end in ("low", "high")])
    html = environment.get_template("leaderboard.html")
    told = {
        "board": board,
        "names": metric_names(board),
        "ladder": evidence.ladder(board),
        "drawn": evidence,
        "plain": "{:g}".format,
        "fastest": ledger.fastest,
    }
    told |= {"titles": SEARCHES, "embedded": partial(embedded, root)}
    told |= {"between": comparison.between, "required": gate.said, "prices_of": board["price"]}
    return html.render(board, scale=scale, **told)


def embedded(root: Path, file: str) -> str:
    """Return a picture as an address that holds its bytes."""
    return f"data:image/svg+xml;base64,{base64.b64encode((root / file).read_bytes()).decode()}"


def metric_names(board: dict) -> list[str]:
    """Return all metrics of the rows, the one that decides first."""
    rows = [*board["rows"], *board["elsewhere"]]
    found = {name for row in rows for part in row["metrics"].values() for name in part}
    return sorted(found, key=lambda name: (name != board["metric"], name))


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
        **{key: price.get("paid", {}).get(key) for key in PAID},
        **{f"{part}/{name}": parts[part].get(name) for part in ("val", "test") for name in names},
        "command": row["command"],
    }

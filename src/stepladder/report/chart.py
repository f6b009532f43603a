"""The leaderboard as a picture: one dot and interval a candidate, coloured by level, beside the time it trained."""

import textwrap
from pathlib import Path

from stepladder.report import text

COLOURS = {"baseline": "#667085", "prompt": "#0e7c6b", "finetune": "#3b5bdb", "pretrain": "#c2571a"}
INK, SOFT, LINE = "#1c2430", "#5d6b7c", "#d9dfe6"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "text.parse_math": False,
}
ROW_INCHES, LINE_INCHES, FOOT_INCHES = 0.4, 0.21, 0.95


def draw(board: dict, path: Path) -> None:
    """Write the picture as PNG; equal boards give equal bytes (no date and no version of a library in it)."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = board["rows"][::-1]
    evidence = textwrap.wrap(f"{board['evidence'][:1].upper()}{board['evidence'][1:]}.", 118)
    head = 0.95 + LINE_INCHES * len(evidence)
    height = head + FOOT_INCHES + ROW_INCHES * max(len(rows), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, height), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        bottom, tall = FOOT_INCHES / height, 1 - (head + FOOT_INCHES) / height
        figure.text(0.03, 1 - 0.4 / height, board["claim"], size=16, weight="bold", va="center")
        lines = "\n".join(evidence)
        figure.text(0.03, 1 - 0.64 / height, lines, color=SOFT, va="top", linespacing=1.45)
        _scores(figure.add_axes((0.16, bottom, 0.5, tall)), rows, board)
        _prices(figure.add_axes((0.74, bottom, 0.16, tall)), rows, board["prices"])
        _legend(figure, rows, height)
        if board["partial"]:
            mark = {"size": 96, "color": "#c92a2a", "alpha": 0.15, "rotation": 15, "ha": "center", "va": "center"}
            figure.text(0.5, 0.42, "PARTIAL", **mark)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def _scores(axes, rows: list[dict], board: dict) -> None:
    for place, row in enumerate(rows):
        colour, score = COLOURS[row["level"]], row["score"]
        axes.plot([score["low"], score["high"]], [place, place], color=colour, lw=5, alpha=0.3, solid_capstyle="round")
        axes.plot(score["test"], place, "o", ms=8.5, color=colour, mec="white", mew=1.2, zorder=3)
        axes.annotate(text.score(score["test"]), (1.01, place), xycoords=("axes fraction", "data"), va="center")
    axes.set_yticks(range(len(rows)), [row["candidate"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.05)
    axes.grid(axis="x", color=LINE, lw=0.7)
    axes.set_axisbelow(True)
    better = "higher" if board["greater_is_better"] else "lower"
    sure = f"{100 * board['gate']['confidence']:g} % interval ({better} is better)"
    axes.set_xlabel(f"{text.words(board['metric'])} on {board['num_test_rows']:,} test rows of {board['data']}, {sure}")
    if board["decision"]:
        baseline = next(row for row in rows if row["candidate"] == board["decision"]["best_baseline"])
        rule = baseline["score"]["test"]
        axes.axvline(rule, color=COLOURS["baseline"], lw=1, ls=(0, (3, 3)), zorder=1)
        place = {"xycoords": ("data", "axes fraction"), "ha": "center"}
        axes.annotate("best baseline", (rule, 1.01), color=SOFT, size=8.5, **place)
    _bare(axes)


def _prices(axes, rows: list[dict], prices: dict) -> None:
    longest = 0.0
    for place, row in enumerate(rows):
        price = prices[row["candidate"]]
        train, sweep = price["train_seconds"] or 0, price["sweep_seconds"] or 0
        longest = max(longest, train + sweep)
        axes.barh(place, train, height=0.46, color=COLOURS[row["level"]])
        axes.barh(place, sweep, left=train, height=0.46, color=COLOURS[row["level"]], alpha=0.35)
        label = text.seconds(None if price["train_seconds"] is None else train + sweep)
        axes.annotate(label, (train + sweep, place), xytext=(5, 0), textcoords="offset points", va="center", color=SOFT)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, longest or 1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("time of training (pale: sweep)")
    _bare(axes)


def _legend(figure, rows: list[dict], height: float) -> None:
    from matplotlib.lines import Line2D

    levels = [level for level in COLOURS if level in {row["level"] for row in rows}]
    dots = [Line2D([], [], ls="", marker="o", ms=7, color=COLOURS[level]) for level in levels]
    figure.legend(
        dots, levels, loc="lower left", bbox_to_anchor=(0.02, 0.05 / height), ncols=4, frameon=False, labelcolor=SOFT,
        handletextpad=0.1, columnspacing=1.4, fontsize=9.5,
    )  # fmt: skip


def _bare(axes) -> None:
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)

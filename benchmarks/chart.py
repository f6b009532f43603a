"""Chart: each ratio beside its goal, on a scale where twice as fast is the same step everywhere."""

from pathlib import Path

from benchmarks.rounds import OURS

REACHED, SHORT, GOAL = "#2a7f62", "#c8553d", "#1d1d1f"


def draw(rows: list[dict], file: Path) -> None:
    """Draw the measured rows of one thread as bars with a mark at each goal; nothing where no row is measured."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.get("ratio") and row["threads"] == 1][::-1]
    if not shown:
        return
    figure = Figure(figsize=(11, 1.4 + 0.34 * len(shown)), layout="constrained")
    axes, places = figure.subplots(), range(len(shown))
    colours = [REACHED if row["goal"] is None or row["ratio"] >= row["goal"] else SHORT for row in shown]
    axes.barh(places, [row["ratio"] for row in shown], color=colours, height=0.66)
    for place, row in zip(places, shown, strict=True):
        note = "" if row["equal_work"] else "  work not shown equal"
        goal = row["goal"] or 0
        end = goal if row["ratio"] <= goal < 1.35 * row["ratio"] else row["ratio"]  # not under the mark
        axes.text(end, place, f" {row['ratio']:g}x{note}", va="center", fontsize=9, zorder=3)
        if goal:
            axes.plot([goal] * 2, [place - 0.42, place + 0.42], color=GOAL, linewidth=2)
    axes.set_yticks(places, [_name(row) for row in shown], fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.5, 2 * max(max(row["ratio"], row["goal"] or 0) for row in shown))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.axvline(1, color="#999999", linewidth=0.8)
    axes.set_xlabel(f"times as fast as the peer, {shown[0]['clock']} at one thread; the black mark is the goal")
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _name(row: dict) -> str:
    variant = row["ours_is"].removeprefix(OURS).removeprefix(", ")
    return f"{row['job']}{f' ({variant})' if variant else ''}  |  {row['peer']}"

"""What stands behind the table, as drawings: quality against price, learning curves, reliability.

Where lines, dots and labels lie is told in units of each drawing's viewBox; evidence.html draws them.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

from stepladder.report import text
from stepladder.verdict import LADDER, PAID

WIDTH, HEIGHT = 340, 220  # of a drawing
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 34  # its margins
LABEL = 12  # from one line of small text to the next
SHOWN = {"memory": text.size, "disk": text.size, "money": text.amount, "energy": text.energy}  # the others: seconds


class Scale:
    """Where values lie between the ends of an axis that holds them all; ticks are round numbers."""

    def __init__(self, values: list[float], *, logarithmic: bool = False) -> None:
        self.logarithmic = logarithmic
        values = [self._inner(value) for value in values]
        low, high = min(values, default=0.0), max(values, default=1.0)
        margin = 0.06 * (high - low) or 0.5
        self.low, self.high = low - margin, high + margin

    def share(self, value: float) -> float:
        """Return 0 at the lower end and 1 at the upper one."""
        return (self._inner(value) - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        """Return the place in percent."""
        return f"{100 * self.share(value):.2f}%"

    def ticks(self, most: int = 6) -> list[float]:
        """Return round numbers between the ends: multiples of 1, 2 or 5, or of 10 where powers are told."""
        rough = (self.high - self.low) / most
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        step = max(1, round(step)) if self.logarithmic else step
        places = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [10.0 ** (step * place) if self.logarithmic else step * place for place in places]

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


@dataclass(frozen=True)
class Plot:
    """A drawing's two axes."""

    x: Scale
    y: Scale

    def left(self, value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * self.x.share(value), 1)

    def top(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * self.y.share(value), 1)

    def line(self, points: list) -> str:
        """Return the points of a polyline."""
        return " ".join(f"{self.left(x)},{self.top(y)}" for x, y in points)


def prices(board: dict) -> list[dict]:
    """Return a drawing of test score against each price that was measured for at least two candidates."""
    drawings = []
    for kind, title in PAID.items():
        shown = SHOWN.get(kind, text.seconds)
        rows = [row for row in board["rows"] if (board["prices"][row["candidate"]]["paid"][kind] or 0) > 0]
        if len(rows) < 2:
            continue
        paid = {row["candidate"]: board["prices"][row["candidate"]]["paid"][kind] for row in rows}
        ends = [row["score"][end] for row in rows for end in ("low", "high")]
        plot = Plot(Scale(list(paid.values()), logarithmic=True), Scale(ends))
        points = [_point(plot, row, paid[row["candidate"]], board, kind) for row in rows]
        front = sorted((point["x"], point["y"]) for point in points if point["front"])
        _spread(points)
        path = " ".join(f"{x:g},{y:g}" for x, y in front)
        drawings.append({"kind": kind, "title": title, "shown": shown, "plot": plot, "points": points, "front": path})
    return drawings


def learning(row: dict) -> list[dict]:
    """Return a drawing for each phase of a training: losses on train and validation by step."""
    phases = defaultdict(dict)
    for name, points in row["curves"].items():
        phase = name[: name.index("train/" if "train/" in name else "val/")]
        phases[phase.strip("/")][name.removeprefix(phase)] = points
    drawings = []
    for phase, curves in sorted(phases.items()):
        lines = {part: curves[f"{part}/loss"] for part in ("train", "val") if f"{part}/loss" in curves}
        points = [point for line in lines.values() for point in line if math.isfinite(point[1])]
        if len({step for step, _ in points}) > 1:
            plot = Plot(Scale([step for step, _ in points]), Scale([value for _, value in points]))
            checks = {name.removeprefix("val/"): line for name, line in curves.items() if name.startswith("val/")}
            drawings.append({"phase": phase, "plot": plot, "lines": lines, "checks": checks})
    return drawings


def unit_square() -> Plot:
    """Return the axes of a reliability diagram or of accuracy against coverage: 0 to 1, both."""
    return Plot(Scale([0.0, 1.0]), Scale([0.0, 1.0]))


def ladder(board: dict) -> list[str]:
    """Return the levels of the table from the lowest rung."""
    levels = {row["level"] for row in [*board["rows"], *board["failed"]]}
    return [level for level in LADDER if level in levels]


def _point(plot: Plot, row: dict, paid: float, board: dict, kind: str) -> dict:
    score = row["score"]
    front = kind in board["prices"][row["candidate"]]["best_at_price_of"]
    found = {"candidate": row["candidate"], "level": row["level"], "paid": paid, "front": front, "score": score}
    return found | {
        "x": plot.left(paid),
        "y": plot.top(score["test"]),
        "ends": [plot.top(score[end]) for end in ("low", "high")],
    }


def _spread(points: list[dict]) -> None:
    """Give each point a place for its name that lies on no other: right of the dot or, near the edge, left of it."""
    taken = []
    for point in sorted(points, key=lambda point: point["y"]):
        wide = 6.2 * len(point["candidate"])
        right = point["x"] + 8 + wide < WIDTH
        start, height = (point["x"] + 8 if right else point["x"] - 8 - wide), point["y"] + 4
        while any(abs(height - y) < LABEL and start < end and begin < start + wide for begin, end, y in taken):
            height += 2
        taken.append((start, start + wide, height))
        point |= {
            "label_x": point["x"] + (8 if right else -8),
            "label_y": height,
            "anchor": "start" if right else "end",
        }

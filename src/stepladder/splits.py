"""Splits: divide records into train, val and test so that no group and no equal input sits on two sides."""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from stepladder import records, targets
from stepladder.errors import ConfigError, DataError, unknown

log = logging.getLogger(__name__)

PARTS = ("train", "val", "test")
MAX_DEVIATION = 0.03  # a class share further than 3 points from the whole is worth a warning


def partition(frame: pl.DataFrame, shares: dict[str, float], *, name: str, seed: int, column: str | None) -> dict:
    """Return {"train", "val", "test"} by the split `name`; `shares` holds "val" and "test", the rest is train.

    hash: by a seeded hash of the group, or of the normalised input, so that added records move none of the old.
    stratified: exact shares of each target, groups kept whole. time: the last ones are test. column: as `column` says.
    Raises ConfigError for shares that leave no training data, DataError for an empty part or a leak.
    """
    val, test = shares["val"], shares["test"]
    if not (val > 0 and test > 0 and val + test < 1):
        raise ConfigError(f"split.val={val} and split.test={test}: both must be above 0 and their sum below 1")
    kinds = {
        "hash": lambda: _by_hash(frame, val, test, seed),
        "stratified": lambda: _by_label(frame, val, test, seed),
        "time": lambda: _by_time(frame, val, test),
        "column": lambda: _by_column(frame, column),
    }
    if name not in kinds:
        raise ConfigError(f"split.name: {unknown('split', name, kinds)}")
    side = pl.Series(kinds[name](), dtype=pl.String)
    parts = {part: frame.filter(side == part).drop("split", strict=False) for part in PARTS}
    empty = [part for part in PARTS if not parts[part].height]
    if empty:
        raise DataError(
            f"split={name} leaves {', '.join(empty)} empty of {frame.height} records; {_advice(frame, name)}"
        )
    _require_no_leak(parts)
    return parts


def describe(parts: dict[str, pl.DataFrame], *, name: str, task: str) -> dict:
    """Return rows and shares of each part, where there are labels also of each class.

    A class also has its deviation: its share of the part minus its share of the whole. Warns above 3 points. A class
    that a part lacks raises DataError; of several labels a record only train must have each, the others are warned of.
    """
    whole = pl.concat(parts.values())
    report = {"split": name, "rows": whole.height, "parts": {}}
    counts = targets.counts(whole["target"], task)
    for part, frame in parts.items():
        rows = targets.counts(frame["target"], task)
        absent = sorted(label for label in counts if label not in rows)
        if absent:
            found = f"{counts[absent[0]]} of {whole.height} records in all"
            missing = f"no record of class {absent[0]!r} in {part} ({found})"
            if task == "multilabel" and part != "train":
                log.warning("split=%s: %s; its answers are not measured there", name, missing)
            else:
                cure = "add some" if task == "multilabel" else "add some or use split=stratified"
                raise DataError(f"split={name}: {missing}; {cure}")
        classes = {label: _balance(rows[label], frame.height, counts[label] / whole.height) for label in sorted(counts)}
        for label, balance in classes.items():
            if abs(balance["deviation"]) > MAX_DEVIATION:
                points = f"{100 * balance['deviation']:+.1f} points"
                exact = "; split=stratified is exact" if task == "classification" else ""
                log.warning("%s: class %r is %s off its share of all%s", part, label, points, exact)
        share = round(frame.height / whole.height, 6)
        report["parts"][part] = {"rows": frame.height, "share": share, "classes": classes or None}
    return report


def assign(data: str, corpus: str | None, further: list[str] | tuple = ()) -> dict:
    """Return which files a candidate reads, with path and sha256 of each.

    {"data", "train", "val", "test", "corpus": {"train", "val"} or None, "mixture": {data set: {"train", "val"}}}
    """
    read = {
        name: {part: _file(name, part) for part in ("train", "val")} for name in (*further, *filter(None, [corpus]))
    }
    files = {part: _file(data, part) for part in PARTS}
    mixture = {name: read[name] for name in further}
    return {"data": data, **files, "corpus": corpus and read[corpus], "mixture": mixture}


def _file(data: str, part: str) -> dict[str, str]:
    path = Path("data", data, f"{part}.parquet")
    if not path.is_file():
        command = f"for stage in fetch prepare split; do python -m pipelines.$stage data={data}; done"
        raise DataError(f"{path}: no such file; name {data} in params.yaml and type dvc repro, or by hand: {command}")
    with path.open("rb") as file:
        return {"path": path.as_posix(), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _by_hash(frame: pl.DataFrame, val: float, test: float, seed: int) -> list[str]:
    places = [_place(unit, seed) for unit in _units(frame)]
    return ["test" if place < test else "val" if place < test + val else "train" for place in places]


def files(assigned: dict) -> list[dict]:
    """Return {path, sha256} of each file that `assign` chose."""
    further = [*filter(None, [assigned["corpus"]]), *assigned["mixture"].values()]
    return [*(assigned[part] for part in PARTS), *(file for parts in further for file in parts.values())]


def _units(frame: pl.DataFrame) -> list[str]:
    """Return what must stay whole: the group of each record, else its normalised input."""
    pairs = frame.select("group", "input").iter_rows()
    return [f"input {records.normalise(text)}" if group is None else f"group {group}" for group, text in pairs]


def _place(unit: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but `unit` and `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{unit}".encode()).digest()[:6]) / 2**48


def _by_label(frame: pl.DataFrame, val: float, test: float, seed: int) -> list[str]:
    """Give each unit, largest first, to the part that most lacks its labels, like scikit-learn's StratifiedGroupKFold.

    Without groups the shares are exact to the record.
    """
    log.info("split=stratified keeps the class shares; records added later may move others to another part")
    labels = frame["target"].to_list()
    units = _units(frame)
    members: dict[str, Counter] = defaultdict(Counter)
    for unit, label in zip(units, labels, strict=True):
        members[unit][label] += 1
    lacking = {part: Counter() for part in PARTS}
    for label, total in Counter(labels).items():
        if label is None or total < len(PARTS):
            raise DataError(f"split=stratified: target {label!r} has {total} records, 3 are needed; use split=hash")
        lacking["test"][label] = max(1, round(total * test))
        lacking["val"][label] = min(max(1, round(total * val)), total - lacking["test"][label] - 1)
        lacking["train"][label] = total - lacking["test"][label] - lacking["val"][label]
    chosen = {}
    for unit in sorted(members, key=lambda unit: (-members[unit].total(), _place(unit, seed))):
        need = {part: sum(n * lacking[part][label] for label, n in members[unit].items()) for part in PARTS}
        chosen[unit] = max(PARTS, key=need.__getitem__)
        lacking[chosen[unit]].subtract(members[unit])
    return [chosen[unit] for unit in units]


def _by_time(frame: pl.DataFrame, val: float, test: float) -> list[str]:
    """Cut between two distinct times, as near to the shares as they allow; the last part is test."""
    times = [_time(stamp, row) for row, stamp in enumerate(frame["timestamp"], start=1)]
    if len({type(time) for time in times}) > 1:
        raise DataError("split=time: some timestamps are numbers and some are dates; write them all in one way")
    ends, seen = {}, 0
    for time, rows in sorted(Counter(times).items()):
        seen += rows
        ends[time] = seen
    cuts = [min(ends, key=lambda time: abs(ends[time] - share * len(times))) for share in (1 - val - test, 1 - test)]
    return ["train" if time <= cuts[0] else "val" if time <= cuts[1] else "test" for time in times]


def _time(stamp: str | None, row: int) -> float | datetime:
    """Return a year or number as it is, an ISO 8601 date as a time, in UTC where no zone is given."""
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", stamp or ""):
        return float(stamp)
    try:
        time = datetime.fromisoformat(stamp or "")
    except ValueError:
        raise DataError(f"split=time: record {row}: timestamp {stamp!r} is no number and no ISO 8601 date") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _by_column(frame: pl.DataFrame, column: str | None) -> list[str]:
    if column not in frame.columns:
        raise DataError(f"split.column: {unknown('column of the records', column, frame.columns)}")
    for row, value in enumerate(frame[column], start=1):
        if value not in PARTS:
            raise DataError(f"split=column: record {row}:{column}: {value!r}; expected one of {', '.join(PARTS)}")
    return frame[column].to_list()


def _require_no_leak(parts: dict[str, pl.DataFrame]) -> None:
    side: dict[tuple[str, str], str] = {}
    for part, frame in parts.items():
        for group, text in frame.select("group", "input").iter_rows():
            for kind, key in (("group", group), ("normalised input", records.normalise(text))):
                other = part if key is None else side.setdefault((kind, key), part)
                if other != part:
                    raise DataError(f"split: {kind} {key[:60]!r} sits in {other} and in {part}; it must be on one side")


def _advice(frame: pl.DataFrame, name: str) -> str:
    num_groups = frame["group"].n_unique()
    if name == "column":
        return f"its values must include {', '.join(PARTS)}"
    if frame["group"].null_count() < frame.height and num_groups < 30:
        return f"they are in {num_groups} groups that stay whole: use smaller groups or none"
    return "add data or raise the share"


def _balance(rows: int, size: int, expected: float) -> dict:
    share = rows / size
    return {"rows": rows, "share": round(share, 6), "deviation": round(share - expected, 6) + 0.0}

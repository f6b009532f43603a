"""Trials: what a search tried, told to people: how much each parameter matters, what is still untried, and pictures.

reports/searches/<c>/search.json    {"states": {"complete": 6}, "best": {...}, "importance": {...}, "untried": [...]}
reports/searches/<c>/*.svg          parallel coordinates, slices, importance and learning curves, as Optuna draws them
"""

import itertools
import math
import warnings
from collections import Counter
from pathlib import Path

from stepladder import records, spaces, study

PICTURES = {  # name of a file: what Optuna calls the plot
    "coordinates": "plot_parallel_coordinate",
    "slices": "plot_slice",
    "importance": "plot_param_importances",
    "curves": "plot_intermediate_values",
}
LEAST = 4  # finished trials from which an importance is told
GAP = 0.2  # share of a parameter's range without a trial that is worth telling
INCHES = (7.0, 3.6)
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "stepladder", "font.size": 8.0}  # the same bytes from the same trials


def write(found: list, space: list[spaces.Parameter], plan: study.Plan, folder: Path) -> dict:
    """Write search.json and the pictures of finished trials to `folder`; return what search.json says."""
    states = Counter(study.STATES[trial.state.name] for trial in found)
    best = study.best(found, plan.directions[0])
    told = {"states": dict(states), "best": {"point": study.point(best, space), "score": best.value}}
    told |= {"importance": importance(found, plan), "untried": untried(found, space)}
    records.write_json(told, folder / "search.json")
    draw(found, plan, folder, told["importance"])
    return told


def importance(found: list, plan: study.Plan) -> dict[str, float]:
    """Return the share that each parameter which all trials have takes in how their scores differ, the largest first.

    By fANOVA (Hutter et al. 2014, ICML), whose forest is seeded; empty where too few trials came to an end, where
    none differs from another, and for one key alone.
    """
    import optuna

    if len(_done(found)) < LEAST or len({trial.value for trial in _done(found)}) == 1:
        return {}
    shares = optuna.importance.get_param_importances(_study(found, plan), evaluator=_fanova(plan))
    return {name: round(float(share), 3) for name, share in shares.items()} if len(shares) > 1 else {}


def untried(found: list, space: list[spaces.Parameter]) -> list[str]:
    """Return in words which choices, and how wide a part of the numbers of a parameter, no finished trial has had."""
    lines = []
    for each in space:
        had = [trial.params[each.name] for trial in found if each.name in trial.params]
        if each.choices:
            never = [word for word in map(spaces.word, each.choices) if word not in had]
            lines += [f"{each.name}: {', '.join(never)}"] if never else []
        elif not had:
            lines.append(f"{each.name}: all of {each.low:g} to {each.high:g}")
        else:
            lines += _gaps(each, had)
    return lines


def draw(found: list, plan: study.Plan, folder: Path, shares: dict[str, float]) -> None:
    """Draw those of the pictures that these trials have something to show in; `shares` are their importance."""
    import matplotlib.pyplot as plt
    import optuna

    drawn = _study(found, plan)
    for name, plot in PICTURES.items():
        if name not in _worth(found, plan, shares):
            continue
        options = {"evaluator": _fanova(plan)} if name == "importance" else {}
        with warnings.catch_warnings(), plt.rc_context(STYLE):
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            axes = getattr(optuna.visualization.matplotlib, plot)(drawn, **options)
            figure = plt.gcf() if hasattr(axes, "__len__") else axes.figure
            figure.set_size_inches(INCHES)
            for legend in filter(None, (each.get_legend() for each in figure.axes)):
                legend.remove()  # one line a trial
            figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)


def _worth(found: list, plan: study.Plan, shares: dict) -> set[str]:
    """Return the names of the pictures that would show something; those of one score need one direction."""
    done = _done(found)
    if len(plan.directions) > 1 or len(done) < 2:
        return set()
    names = {"slices"} | ({"coordinates"} if len({key for trial in done for key in trial.params}) > 1 else set())
    names |= {"importance"} if shares else set()
    return names | ({"curves"} if any(len(trial.intermediate_values) > 1 for trial in found) else set())


def _gaps(each: spaces.Parameter, had: list) -> list[str]:
    """Return the widest part of a parameter's numbers between two that were tried, where it is wide."""
    scale = math.log if each.log else float
    places = sorted({each.low, *had, each.high})
    width = scale(each.high) - scale(each.low)
    if not width:
        return []
    low, high = max(itertools.pairwise(places), key=lambda pair: scale(pair[1]) - scale(pair[0]))
    share = (scale(high) - scale(low)) / width
    least = each.step or (1 if isinstance(each.low, int) else 0)  # between two numbers that are neighbours is none
    wide = share >= GAP and high - low > 1.5 * least
    return [f"{each.name}: {low:g} to {high:g}, {share:.0%} of its range"] if wide else []


def _done(found: list) -> list:
    return [trial for trial in found if trial.state.name == "COMPLETE"]


def _study(found: list, plan: study.Plan):
    """Return a study in memory that holds these trials and no other."""
    import optuna

    made = optuna.create_study(directions=plan.directions)
    made.add_trials(found)
    return made


def _fanova(plan: study.Plan):
    import optuna

    return optuna.importance.FanovaImportanceEvaluator(seed=plan.seed)

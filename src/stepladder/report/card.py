"""The model card of a registered version: README.md as Hugging Face reads it, every number from the files of the run.

Front matter and its keys: https://huggingface.co/docs/hub/model-cards (huggingface_hub.ModelCardData). The sections are
those of Mitchell et al. 2019, "Model cards for model reporting" (arXiv:1810.03993). No text of a record stands in it.
"""

import re
from pathlib import Path

import jinja2

from stepladder import gate, metrics, provenance
from stepladder.report import text
from stepladder.report.data import visible

PIPELINES = {"causal": "text-generation", "seq2seq": "text2text-generation"}  # tags of the hub, by what answers
COVERED = (0.5, 0.8, 1.0)  # shares of the surest answers that are told
FILTERS = (text.score, text.gain, text.count, text.seconds, text.size, text.words)
UNTOLD = ("candidate=", "gate.", "probe=", "runtime.")  # overrides that change nothing of a model
ROLES = {"task": "the task", "mixture": "learnt along with it", "corpus": "raw text read before it"}


def markdown(known: dict) -> str:
    """Return the card of a version of which provenance.of knows all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in (*FILTERS, cell, span)}
    told = {"front": front(known).to_yaml(), "measured": measured(known), "slices": slices(known), "roles": ROLES}
    told["words"] = [word for word in known["row"]["overrides"] if not word.startswith(UNTOLD)]
    told |= {
        "answers": answers(known["description"]),
        "trained": trained(known),
        "limits": limits(known),
        "licence": provenance.licence(known),
    }
    told |= {"price": known["board"]["prices"][known["candidate"]]["paid"], "required": gate.said}
    return environment.get_template("card.md").render(**known, **told)


def front(known: dict):
    """Return the front matter (ModelCardData): licence, base, data sets and every test score, as the hub reads them."""
    from huggingface_hub import ModelCardData

    row, description, licence = known["row"], known["description"], provenance.licence(known)
    given = {"license": "unknown"}
    if licence:
        named = bool(re.fullmatch(r"[\w.+-]+", licence))  # SPDX's, which the hub writes in small letters
        given = {"license": licence.lower()} if named else {"license": "other", "license_name": licence}
    return ModelCardData(
        **given,
        base_model=_base(known),
        datasets=[each["name"] for each in known["data"]],
        metrics=[name for name, *_ in measured(known)],
        library_name="transformers",
        pipeline_tag=PIPELINES.get(description["form"] if description["labels"] is None else "", "text-classification"),
        tags=["stepladder", *filter(None, (description["task"], row["level"], row["method"]))],
        model_name=f"{known['model']}: {known['candidate']}",
        eval_results=_results(known),
    )


def measured(known: dict) -> list[tuple]:
    """Return (metric, test, low, high, val) of each metric that is defined on test, the one that decides first."""
    row, first = known["row"], known["board"]["metric"]
    names, (val, test) = row["intervals"], (row["metrics"][part] for part in ("val", "test"))
    ordered = sorted(names, key=lambda name: (name != first, name))
    return [(name, test[name], *names[name], val[name]) for name in ordered]


def slices(known: dict) -> list[dict]:
    """Return each slice with score, low and high in the metric that decides, the weakest first."""
    metric, name, ends = known["board"]["metric"], known["candidate"], ("score", "low", "high")
    held = [(part, part["scores"].get(name, {}).get(metric)) for part in known["board"]["slices"]]
    found = [part | dict(zip(ends, numbers, strict=True)) for part, numbers in held if numbers]
    return sorted(found, key=lambda part: part["score"], reverse=not known["board"]["greater_is_better"])


def limits(known: dict) -> list[str]:
    """Return in a sentence each what the measures show, and what nobody has measured."""
    row, board, description = known["row"], known["board"], known["description"]
    (own,) = (each for each in known["data"] if each["role"] == "task")
    lengths = own["report"]["lengths"]["input"]["words"]
    learnt = f"It learnt from {row['rows_seen']:,} rows" if row["rows_seen"] else "It learnt from no row"
    told = [
        f"{learnt} and was tested on rows of the same source, texts of {lengths['min']} to {lengths['max']} words. "
        "Other domains, languages and lengths were not measured.",
        f"It reads {description['inference']['max_length']} tokens; what is longer is cut.",
    ]
    if description["task"] == "classification":
        told.append("It gives one of its labels to any text, also where none fits.")
    for part in slices(known)[:1]:
        found = f"{text.score(part['score'])} ({text.score(part['low'])} to {text.score(part['high'])})"
        place = f"{part['by']} {cell(part['value'])}: {text.words(board['metric'])} {found}"
        told.append(f"It is weakest on {place} on {part['rows']:,} rows.")
    told += _calibrated(row.get("calibration"))
    if not any(known["candidate"] in same["candidates"] for same in board["seeds"]):
        told.append(f"It was trained with one seed ({known['config']['seed']}); what another would give is not known.")
    return [*told, *_unasked(row)]


def answers(description: dict) -> str:
    """Return in words what the model answers."""
    labels = ", ".join(map(span, description["labels"] or []))
    if description["task"] == "regression":
        scale = description["reading"]["scale"]
        return f"a number from {scale['low']:g} to {scale['high']:g}" if scale else "a number"
    if description["task"] == "multilabel":
        return f"those of {labels} that fit, and how probable each is"
    return f"one of {labels}, and how probable each is" if labels else "a text"


def trained(known: dict) -> str | None:
    """Return in words what it was trained with, the values that a search chose among them; None for level prompt."""
    optimizer, trainer, seed = (known["config"][key] for key in ("optimizer", "trainer", "seed"))
    if not optimizer:
        return None
    steps = f"batches of {trainer['batch_size']}, at most {trainer['max_epochs']} epochs"
    name, rate = optimizer["_target_"].rpartition(".")[2], optimizer["learning_rate"]
    precision = known["description"]["inference"]["precision"]
    return f"{name}, learning rate {rate:g}, {steps}, precision {precision}, seed {seed}"


def cell(value: str) -> str:
    """Return a text of the user's as one cell of a table, which no character of it can end or turn into HTML."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", visible(str(value)))


def span(value: str) -> str:
    """Return a text of the user's as code."""
    return f"`{visible(str(value)).replace('`', chr(39)).replace('|', '/')}`"


def _base(known: dict) -> str | None:
    """Return the hub's name of the base where it came from there, else its name here, which the hub does not know."""
    hub = [asset["id"] for asset in (known["base"] or {}).get("assets", ()) if asset["kind"] == "hub"]
    return hub[0] if hub else known["base"] and known["base"]["name"]


def _results(known: dict) -> list:
    from huggingface_hub import EvalResult

    (own,) = (each for each in known["data"] if each["role"] == "task")
    sure = f"{100 * known['board']['gate']['confidence']:g} % interval"
    return [
        EvalResult(
            task_type=PIPELINES.get(known["description"]["form"], "text-classification"),
            dataset_type=own["name"],
            dataset_name=own["name"],
            dataset_split="test",
            dataset_revision=own["parts"]["test"]["sha256"],
            metric_type=name,
            metric_value=value,
            metric_name=f"{text.words(name)} ({sure} {text.score(low)} to {text.score(high)})",
        )
        for name, value, low, high, _ in measured(known)
    ]


def _calibrated(found: dict | None) -> list[str]:
    if not found:
        return []
    error, temperature = found["before"]["calibration_error"], found["temperature"]
    surest = [each for each in found["abstention"] if each["coverage"] in COVERED and each["accuracy"] is not None]
    shares = ", ".join(f"{text.score(each['accuracy'])} of the surest {100 * each['coverage']:g} %" for each in surest)
    return [
        f"Its probabilities are off by {text.score(error)} (expected calibration error); logits divided by "
        f"{temperature:.2f} would make it {text.score(found['after']['calibration_error'])}.",
        f"Accuracy by how sure it is: {shares}.",
    ]


def _unasked(row: dict) -> list[str]:
    asked = row["risks"]
    known = sorted(file.stem for file in Path(metrics.__file__).parents[1].joinpath("probes").glob("[a-z]*.py"))
    left = [name for name in known if name not in asked]
    return [f"Not asked: {', '.join(left)} (`conf/probe/` says what each would show)."] if left else []

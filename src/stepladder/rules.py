"""Rules: what the sections of a composed candidate demand of each other; each rule yields (dotted key, sentence)."""

import string
from collections.abc import Iterator
from pathlib import Path

from stepladder import fingerprints, schema
from stepladder.errors import unknown
from stepladder.schema import Problem

FIELDS = ("answer_name", "input", "input_name")  # what braces in a template may hold


def of_data(found: dict, package: Path = schema.PACKAGE) -> list[Problem]:
    """Return what is wrong between the sections data, split and task, which must be well formed by themselves."""
    return [*_split(found["split"]), *_source(found["data"], package), *_metric(found, package)]


def of_candidate(found: dict, package: Path = schema.PACKAGE) -> list[Problem]:
    """Return what is wrong between the sections of a candidate, which must be well formed by themselves."""
    first = list(_uses(found)) or list(_model(found))
    if first:  # a section too many or too few, or a model of another kind, makes the other rules noise
        return first
    parts = (_answers, _decoding, _trainer, _prompt, _shots, _sweep)
    problems = [problem for rule in parts for problem in rule(found)]
    return problems + list(_monitor(found, package))


def uses(level: str) -> dict[str, bool]:
    """Return {section: whether it must be there} of what a level reads, besides seed, runtime and gate."""
    return {name.rstrip("?"): not name.endswith("?") for name in schema.table()["uses"][level]}


def _uses(found: dict) -> Iterator[Problem]:
    level = found["level"]["name"]
    read = uses(level) | {"level": True, "candidate": False, "seed": True, "runtime": True, "gate": True}
    for section in schema.table()["sections"]:
        if found[section] is not None and section not in read:
            yield section, f"level {level} never reads {section}; leave it out, or take {_readers(section)}"
        elif found[section] is None and read.get(section):
            yield section, f"level {level} needs {section}; choose one"


def _readers(section: str) -> str:
    return "level " + " or ".join(level for level in schema.table()["uses"] if section in uses(level))


def _split(split: dict) -> Iterator[Problem]:
    if split["val"] + split["test"] >= 1:
        yield "split", f"val={split['val']} and test={split['test']} leave no training data; their sum must be below 1"


def _source(data: dict, package: Path) -> Iterator[Problem]:
    if data["asset"] is None and data["path"] is None:
        yield "data.path", f"data {data['name']} needs data.path, the file or folder in data/raw/"
    if data["columns"] is not None and "columns" not in schema.keywords(data["source"], package):
        yield "data.columns", f"source {data['source']} has no columns to name; leave it null"


def _metric(found: dict, package: Path) -> Iterator[Problem]:
    yield from _of_task("task.metric", found["task"]["metric"], found["task"]["name"], package)
    words = list((found["task"]["labels"] or {}).values())
    if len(set(words)) < len(words):
        yield "task.labels", f"two labels have one word ({', '.join(words)}); the model could not tell them apart"
    labels = schema.labels(found["data"]["source"], package)
    if labels and found["task"]["labels"] and set(found["task"]["labels"]) != set(labels):
        yield "task.labels", f"{', '.join(found['task']['labels'])}: the labels of this data are {', '.join(labels)}"


def _of_task(key: str, metric: str, task: str, package: Path) -> Iterator[Problem]:
    if task not in (fits := fingerprints.tasks(package / "metrics" / f"{metric}.py")):
        known = [name for name in schema.files("metrics", package) if task in _tasks(name, package)]
        yield key, f"{metric} scores {' and '.join(fits)}, not {task}; expected {', '.join(known)}"


def _tasks(metric: str, package: Path) -> tuple[str, ...]:
    return fingerprints.tasks(package / "metrics" / f"{metric}.py")


def _monitor(found: dict, package: Path) -> Iterator[Problem]:
    monitor = (found["trainer"] or {}).get("monitor", "loss")
    if monitor != "loss":
        yield from _of_task("trainer.monitor", monitor, found["task"]["name"], package)


def _model(found: dict) -> Iterator[Problem]:
    level, model = found["level"]["name"], found["model"]
    kinds = schema.table()["kinds"][level]
    if model["kind"] not in kinds:
        yield "model", f"{model['name']} is of kind {model['kind']}; level {level} works with {' or '.join(kinds)}"
    if model["kind"] == "architecture" and model["hidden_size"] % model["num_attention_heads"]:
        heads = model["num_attention_heads"]
        yield "model.hidden_size", f"{model['hidden_size']} is no multiple of num_attention_heads={heads}"


def _answers(found: dict) -> Iterator[Problem]:
    """A head answers (objective supervised, no prompt) or the tokens do (objective response, a prompt)."""
    objective, prompt = (found["objective"] or {}).get("name"), found["prompt"]
    kind, task = found["model"]["kind"], found["task"]["name"]
    if kind == "encoder" and (objective != "supervised" or prompt):
        yield (
            "objective" if objective != "supervised" else "prompt",
            "an encoder wants objective: supervised, prompt: none",
        )
    elif (found["method"] or {}).get("name") == "frozen" and objective != "supervised":
        yield "method", "a frozen decoder has only its head to train; it wants objective: supervised, prompt: none"
    elif objective == "supervised" and prompt:
        yield "prompt", "objective supervised answers by a head and never reads a prompt; it wants prompt: none"
    elif objective == "response" and not prompt:
        yield "prompt", "objective response needs a prompt; choose prompt: zero_shot"
    elif found["level"]["name"] == "prompt" and not prompt and task != "language_modeling":
        yield "prompt", "level prompt needs a prompt; choose prompt: zero_shot"
    if task == "generation" and (kind == "encoder" or objective == "supervised"):
        yield "task", "generation needs a decoder with objective: response"
    if task == "language_modeling" and (kind == "encoder" or objective or prompt):
        yield "task", "language_modeling wants a decoder or an architecture with objective: none, prompt: none"


def _decoding(found: dict) -> Iterator[Problem]:
    task, level = found["task"]["name"], found["level"]["name"]
    if task == "generation" and not found["decoding"] and level != "baseline":
        yield "decoding", "task generation needs decoding; choose decoding: greedy"
    if task != "generation" and found["decoding"]:
        yield "decoding", f"task {task} generates nothing and never reads decoding; leave it out"


def _trainer(found: dict) -> Iterator[Problem]:
    level, trainer = found["level"]["name"], found["trainer"] or {}
    if level == "prompt" and "max_epochs" in trainer:
        yield "trainer", "level prompt trains nothing; it wants trainer: inference"
    if level in ("finetune", "pretrain") and "max_epochs" not in trainer:
        yield "trainer", f"level {level} needs max_epochs, batch_size, ...; it wants trainer: default"


def _prompt(found: dict) -> Iterator[Problem]:
    """Braces of a template or an instruction hold known fields alone, and the record is shown."""
    if not found["prompt"]:
        return
    labels = ("labels",) if found["task"]["name"] == "classification" else ()
    texts = {
        "prompt.template": (found["prompt"]["template"], FIELDS),
        "task.instruction": (found["task"]["instruction"] or "", labels),
    }
    for key, (text, known) in texts.items():
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
        except ValueError as error:
            yield key, f"{text!r} is no template ({error}); double braces mean a brace"
            continue
        yield from ((key, unknown("field", field, known)) for field in fields if field not in known)
        if key == "prompt.template" and "input" not in fields:
            yield key, "the template never shows the record; it needs {input}"


def _shots(found: dict) -> Iterator[Problem]:
    prompt = found["prompt"] or {"name": "zero_shot", "num_shots": 0}
    if (prompt["name"] == "few_shot") != (prompt["num_shots"] > 0):
        yield (
            "prompt.num_shots",
            f"prompt {prompt['name']} with num_shots={prompt['num_shots']}; few_shot has at least 1, zero_shot 0",
        )


def _sweep(found: dict) -> Iterator[Problem]:
    """The keys of a search must be keys of the candidate."""
    for key in (found["sweep"] or {}).get("parameters", {}):
        section, *inner = key.split(".")
        if inner and inner[0] not in (found[section] or {}):
            known = [f"{section}.{name}" for name in found[section] or ()]
            yield f"sweep.parameters.{key}", unknown("key of this candidate", key, known)

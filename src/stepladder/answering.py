"""Answering: a language model together with all it needs to answer records, on disk and in memory.

A folder holds the ecosystem's own files (`save_pretrained`: safetensors, tokenizer, adapter_config) and
`stepladder.json`, which says how the answer is read off:
{"form": "classifier", "objective": "supervised", "labels": ["negative", "positive"], "base": "state/store/models/..."}
`base` names the folder of weights that are not in this one (adapters, frozen backbones, prompting), relative to the
repository's root; `./base` is a part of this one, of a base that was adapted to its domain first.
"""

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl

from stepladder import latency, methods, models, objectives, pooled, quantization, records, store, targets, training
from stepladder.errors import ConfigError, IntegrityError
from stepladder.prompts import Prompt
from stepladder.settings import Settings, dtype, resolve, speed

DESCRIPTION = "stepladder.json"
OWN = "./base"  # folder of a base that is no other's
NAMED = ("language_modeling", "multilabel", "regression")  # tasks with an objective of their name
NUMBER = ["number"]  # what a head without labels says
ADAPTER = "adapter"  # folder of what an exported model could not merge
KEYS = ("form", "task", "labels", "objective", "reading", "prompt", "decoding", "inference", "base", "quantization")


class Answerer:
    """A model, its tokenizer and its objective; `description` is what is needed to open it again."""

    def __init__(self, model, tokenizer, description: dict, *, runtime: dict | None = None):
        self.model, self.tokenizer, self.description = model, tokenizer, description
        prompt = description["prompt"] and Prompt(**description["prompt"])
        self.objective = objectives.load(description["objective"])(
            tokenizer,
            task=description["task"],
            labels=description["labels"],
            prompt=prompt,
            decoding=description["decoding"],
            reading=description["reading"],
            max_length=description["inference"]["max_length"],
        )
        self.settings = Settings(**description["inference"], **speed(runtime or {}))

    def predict(self, records: pl.DataFrame) -> pl.DataFrame:
        """Return predictions for `records` in their order."""
        return training.predict(self.model, self.objective, records, self.settings)

    def save(self, folder: Path, facts: dict) -> None:
        """Write weights that are not the base's, the tokenizer and the description with `facts` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        adapter = methods.adapted(self.model)
        if adapter:
            base = self.description["base"]
            methods.save(self.model, folder, base=None if base == OWN else base)
        elif self.description["form"] == "pooled" or self.description["base"] is None:
            with models.quiet():
                self.model.save_pretrained(folder)
        if self.description["base"] is None or adapter:
            models.save_tokenizer(self.tokenizer, folder)
        _write(folder, {**self.description, "adapter": adapter, **facts})

    def merged(self) -> "Answerer":
        """Return this answerer with its adapter, where it has one that can be, multiplied into its base."""
        self.model = methods.merged(self.model)
        return self

    def export(self, folder: Path) -> None:
        """Write a folder that needs no other: adapters merged into their base, a frozen backbone beside its head.

        What cannot be merged, virtual tokens and bottlenecks, lies in `adapter` beside its base.
        """
        if "gguf" in (self.description["decoding"] or {}):
            raise ConfigError("decoding: what llama.cpp writes is measured, not registered; serve its GGUF file by it")
        model = self.merged().model
        with models.quiet():
            if self.description["form"] == "pooled":
                model.base_model.save_pretrained(folder)
            if methods.adapted(model):
                methods.save(model, folder / ADAPTER, base=None)
                base, weights = methods.base_weights(model)
                base.save_pretrained(folder, state_dict=weights)
            else:
                model.save_pretrained(folder)
        models.save_tokenizer(self.tokenizer, folder)
        _write(folder, {**self.description, "base": None, "adapter": False, "quantization": None})
        store.seal(folder)


class LanguageLevel:
    """What the levels that answer with a language model share; each of them adds its own `fit`."""

    validated = None

    def __init__(self, sections: dict, *, base: Path | None):
        self.sections, self.base, self.answerer, self.facts = sections, base, None, {}

    def predict(self, records: pl.DataFrame) -> pl.DataFrame:
        """Return predictions for `records` in their order."""
        return self.answerer.predict(records)

    @property
    def tokens_read(self) -> int:
        """How many tokens the inputs had that were answered last."""
        return self.answerer.objective.tokens_read

    def latency(self, records: pl.DataFrame) -> list[dict]:
        """Return how long answers to some of `records` take, see latency.of."""
        return latency.of(self.predict, records)

    def save(self, folder: Path) -> None:
        """Write a folder that transformers (and peft, for adapters) open without this package."""
        self.answerer.save(folder, self.facts)

    @classmethod
    def load(cls, folder: Path) -> "LanguageLevel":
        """Return the level that was saved in `folder`, ready to answer as it will be served: adapters merged."""
        level = cls({}, base=None)
        level.answerer = load(folder).merged()
        models.lighten(level.answerer.model, level.answerer.settings.precision)
        return level


def open_model(
    form: str,
    folder: Path,
    labels: list[str] | None,
    *,
    seed: int | None,
    task: str = "classification",
    precision: str = "32-true",
    rounding: dict | None = None,
):
    """Return the model of this form; with a seed its head is new, without one it is the folder's own.

    `rounding` are options of a quantization.
    """
    given = quantization.given(rounding)
    if form == "pooled":
        return pooled.classifier(folder, labels or NUMBER, seed=seed)
    if form in ("causal", "seq2seq"):
        return quantization.steady(getattr(models, form)(folder, dtype=dtype(precision), **given))
    return quantization.steady(models.classifier(folder, labels or NUMBER, seed=seed, task=task, **given))


def describe(
    form: str, *, task: str, labels: list[str] | None, objective: str, prompt: Prompt | None, **sections
) -> dict:
    """Return a description; `sections` are decoding, inference (max_length, eval_batch_size, precision), base and,
    where the base is rounded, the options of its quantization.

    `reading`, among them where a task has it, is what turns the numbers of a head into an answer.
    `longest`, among them, is how many tokens the model can read: a larger max_length is lowered to it, aloud.
    """
    inference = {key: sections["inference"][key] for key in ("max_length", "eval_batch_size", "precision")}
    inference["precision"] = resolve(inference["precision"])
    if inference["max_length"] > sections["longest"]:
        print(f"trainer.max_length={inference['max_length']} is lowered to the model's {sections['longest']} tokens")
        inference["max_length"] = sections["longest"]
    return {
        "form": form,
        "task": task,
        "labels": labels,
        "objective": objective,
        "reading": sections.get("reading"),
        "prompt": prompt and asdict(prompt),
        "decoding": sections["decoding"],
        "inference": inference,
        "base": sections["base"],
        "quantization": sections.get("rounding"),
    }


def read(folder: Path) -> dict:
    """Return the description of a saved folder; IntegrityError when there is none."""
    file = folder / DESCRIPTION
    if not file.is_file():
        raise IntegrityError(f"{file}: missing; this is no finished model (run its stage train again)")
    return json.loads(file.read_text())


def load(folder: Path) -> Answerer:
    """Return the Answerer that was saved in `folder`."""
    saved = read(folder)
    base = folder / OWN if saved["base"] == OWN else store.root() / saved["base"] if saved["base"] else folder
    seed, precision = 0 if saved["base"] else None, saved["inference"]["precision"]
    rounding, options = saved.get("quantization"), {"task": saved["task"], "precision": precision}
    model = open_model(saved["form"], base, saved["labels"], seed=seed, rounding=rounding, **options)
    model = quantization.widened(model) if rounding else model
    if saved["form"] == "pooled":
        model.load_head(folder)
    elif saved["adapter"] or (folder / ADAPTER).is_dir():
        model = methods.attach(model, folder if saved["adapter"] else folder / ADAPTER)
    return Answerer(model, models.tokenizer(base), {key: saved.get(key) for key in KEYS})


def _write(folder: Path, content: dict) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def objective(sections: dict) -> str:
    """Return the objective's name: raw text is always language modelling, else what the sections say.

    The response of an encoder-decoder is an objective of its own, and so is a head's on several labels or numbers.
    """
    if sections["task"]["name"] in NAMED:
        return sections["task"]["name"]
    name = (sections["objective"] or {"name": "response"})["name"]
    return "seq2seq" if name == "response" and sections["model"].get("kind") == "encoder_decoder" else name


def writer(objective: str) -> str:
    """Return the form of the model that answers by writing."""
    return "seq2seq" if objective == "seq2seq" else "causal"


def labels(task: dict, train: pl.DataFrame) -> list[str] | None:
    """Return the labels of a task in their order: its own, else those of train, sorted; None where it has none."""
    if task["name"] not in records.LABELLED:
        return None
    return list(task["labels"]) if task["labels"] else sorted(targets.counts(train["target"], task["name"]))


def reading(task: dict) -> dict | None:
    """Return what turns the numbers of a head into an answer, None where the largest one is the answer."""
    return {key: task[key] for key in ("threshold", "scale") if key in task} or None


def decoding(section: dict | None, train: pl.DataFrame) -> dict | None:
    """Return how answers are written: to the end of a line, unless some target of train has several lines."""
    return section and {**section, "one_line": one_line(train)}


def one_line(train: pl.DataFrame) -> bool:
    """Say whether no target of train has several lines."""
    return not train["target"].str.contains("\n", literal=True).any()

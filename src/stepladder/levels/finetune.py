"""Level finetune: change some weights of a pretrained model for one task.

A head answers where the objective is `supervised` (encoders; decoders without a prompt), the model itself where it is
`response`. With method `frozen` the backbone runs once over the data and only a linear layer is trained.
With a mixture each step learns from further data sets as well. With phases [adapt, finetune] the base first reads the
corpus; what was made of it is saved along, in `base/`.
"""

import itertools
import json
import shutil
from functools import partial
from pathlib import Path

import polars as pl

from stepladder import (
    adapters,
    adapting,
    answering,
    combining,
    examples,
    methods,
    mixture,
    models,
    prompts,
    quantization,
    settings,
    store,
    training,
    virtual,
)


class Level(answering.LanguageLevel):
    """A pretrained model, a method and an objective."""

    def __init__(self, sections: dict, *, base: Path | None):
        super().__init__(sections, base=base)
        self.further = {}  # records of the data sets of its mixture

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None, mixture=None) -> dict:
        """Train with early stopping on val and restore the best weights; return what was seen and reached."""
        self.further = mixture or {}
        if self.adapts:
            self.base = adapting.of(self.base, corpus, self.sections, state=state / "adapt", log=log)
            self.facts["adapting"] = json.loads((self.base / adapting.FACTS).read_text())
        if (self.sections["method"] or {}).get("combination"):
            self.facts |= self._combined(train, val, state=state, log=log)
        else:
            self.answerer = self._open(train)
            self.facts |= self._learn(train, val, state=state, log=log)
        return self.facts

    def _learn(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log) -> dict:
        answerer, plan = self.answerer, settings.of(self.sections)
        total, trained = models.count(answerer.model)
        answerer.objective.packing = plan.packing
        further, seen_of_further = mixture.parts(self.sections, self.further, answerer)
        parts, seen = examples.of(answerer, train, val, plan, base=self.base)
        facts, self.validated = training.fit(
            (answerer.model, answerer.objective),
            plan,
            train=parts[0],
            val=parts[1],
            state=state,
            log=log,
            further=further,
        )
        if further and answerer.objective.columns:
            mixture.narrow(answerer.model, answerer.description["labels"])
            answerer.objective.columns = None
        sizes = {"num_parameters": total, "num_trained_parameters": trained}
        told = {"level": self.sections["level"]["name"], "rows_seen": len(train), "rows_cut": seen["cut"]}
        told |= {"mixture": seen_of_further} if further else {}
        return {**told, **facts, **sizes, "doctor": seen}

    def _combined(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log) -> dict:
        """Train an adapter on the rows of each source, each finished by itself, and combine them; return all facts."""
        folders, method = {}, self.sections["method"]
        for number, source in enumerate(combining.sources(train, val)):
            parts = [frame.filter(pl.col("source") == source) for frame in (train, val)]
            place = {"state": state / f"adapter{number}", "log": combining.named(log, source)}
            build = partial(self._adapter, train, parts, **place)
            folders[source] = store.settle(state / "adapters" / str(number), build)
        self.answerer = self._open(train)
        adapters.combine(self.answerer.model, list(folders.values()), method, seed=self.sections["seed"])
        self.validated = None  # the combination has not answered val yet
        return combining.facts({source: combining.read(folder) for source, folder in folders.items()})

    def _adapter(self, train: pl.DataFrame, parts: list[pl.DataFrame], made: Path, **place) -> None:
        self.answerer = self._open(train)  # all rows name the labels
        facts = self._learn(*parts, **place)
        methods.save(self.answerer.model, made, base=None)
        combining.write(facts, made)

    @property
    def adapts(self) -> bool:
        """Whether the base reads the corpus first."""
        return "adapt" in self.sections["level"].get("phases", ())

    def save(self, folder: Path) -> None:
        """Write a folder that transformers (and peft, for adapters) open without this package."""
        super().save(folder)
        if self.answerer.description["base"] == answering.OWN:
            shutil.copytree(self.base, folder / answering.OWN, copy_function=shutil.copyfile)

    def _open(self, train: pl.DataFrame) -> answering.Answerer:
        sections = self.sections
        task, method, seed = sections["task"], sections["method"] or methods.FULL, sections["seed"]
        labels, objective = answering.labels(task, train), answering.objective(sections)
        heads = "pooled" if method == methods.FROZEN else "classifier"
        headed = (sections["objective"] or {}).get("name") == "supervised"
        form = heads if headed else answering.writer(objective)
        precision, rounding = settings.resolve(sections["trainer"]["precision"]), None
        if kind := method.get("quantization"):
            rounding = quantization.options(kind, models.empty(form, self.base), precision=precision)
        heads = mixture.outputs(self.sections["tasks"], self.further) if headed else {}
        named = [*(labels or answering.NUMBER), *itertools.chain(*heads.values())] if heads else labels
        opened = answering.open_model(form, self.base, named, seed=seed, task=task["name"], rounding=rounding)
        model = methods.apply(opened, method, seed=seed, base=self.base)
        models.lighten(model, precision)
        whole, tokenizer = method.get("name") in methods.WHOLE, models.tokenizer(self.base)
        asked = objective in ("response", "seq2seq")
        description = answering.describe(
            form,
            task=task["name"],
            labels=labels,
            objective=objective,
            reading=answering.reading(task),
            prompt=prompts.of(task, sections["prompt"], labels, tokenizer) if asked else None,
            decoding=answering.decoding(sections["decoding"], train),
            inference=sections["trainer"],
            longest=models.longest(model, tokenizer) - virtual.count(model),
            base=None if whole else answering.OWN if self.adapts else store.shown(self.base),
            rounding=rounding,
        )
        return answering.Answerer(model, tokenizer, description, runtime=sections["runtime"])

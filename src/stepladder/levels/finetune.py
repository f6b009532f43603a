"""Level finetune: change some weights of a pretrained model for one task.

A head answers where the objective is `supervised` (encoders; decoders without a prompt), the model itself where it is
`response`. With method `frozen` the backbone runs once over the data and only a linear layer is trained.
"""

from pathlib import Path

import polars as pl

from stepladder import answering, doctor, features, methods, models, settings, store, training, virtual


class Level(answering.LanguageLevel):
    """A pretrained model, a method and an objective."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None) -> dict:
        """Train with early stopping on val and restore the best weights; return what was seen and reached."""
        self.answerer = self._open(train)
        answerer, plan = self.answerer, settings.of(self.sections)
        total, trained = models.count(answerer.model)
        answerer.objective.packing = plan.packing
        parts, seen = doctor.encoded(answerer.objective, train, val)
        if answerer.description["form"] == "pooled":
            parts = [features.of(answerer, part, plan, base=self.base) for part in parts]
        facts, self.validated = training.fit(
            (answerer.model, answerer.objective), plan, train=parts[0], val=parts[1], state=state, log=log
        )
        self.facts |= {
            "level": self.sections["level"]["name"],
            "rows_seen": len(train),
            "rows_cut": seen["cut"],
            **facts,
        }
        self.facts |= {"num_parameters": total, "num_trained_parameters": trained, "doctor": seen}
        return self.facts

    def _open(self, train: pl.DataFrame) -> answering.Answerer:
        sections = self.sections
        task, method, seed = sections["task"], sections["method"] or methods.FULL, sections["seed"]
        labels, objective = answering.labels(task, train), answering.objective(sections)
        heads = "pooled" if method == methods.FROZEN else "classifier"
        headed = (sections["objective"] or {}).get("name") == "supervised"
        form = heads if headed else answering.writer(objective)
        opened = answering.open_model(form, self.base, labels, seed=seed, task=task["name"])
        model = methods.apply(opened, method, seed=seed, base=self.base)
        models.lighten(model, settings.resolve(sections["trainer"]["precision"]))
        whole, tokenizer = method.get("name") in methods.WHOLE, models.tokenizer(self.base)
        description = answering.describe(
            form,
            task=task["name"],
            labels=labels,
            objective=objective,
            reading=answering.reading(task),
            prompt=answering.prompt(task, sections["prompt"], labels) if objective in ("response", "seq2seq") else None,
            decoding=answering.decoding(sections["decoding"], train),
            inference=sections["trainer"],
            longest=models.longest(model, tokenizer) - virtual.count(model),
            base=None if whole else store.shown(self.base),
        )
        return answering.Answerer(model, tokenizer, description, runtime=sections["runtime"])

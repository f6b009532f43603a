"""Level prompt: ask a language model as it is; the only thing taken from train is the few-shot examples."""

from pathlib import Path

import polars as pl

from stepladder import answering, models, prompts, store
from stepladder.errors import ConfigError


class Level(answering.LanguageLevel):
    """A decoder with a filled-in prompt; nothing is trained."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None) -> dict:
        """Choose the few-shot examples and open the model; return the facts of the choice."""
        task, chosen = self.sections["task"], self.sections["prompt"]
        labels = answering.labels(task, train)
        prompt = None
        if task["name"] != "language_modeling":
            prompt = answering.prompt(task, chosen, labels)
            shots = prompts.choose_shots(
                train, per_class=chosen["num_shots"], seed=self.sections["seed"], by_label=labels is not None
            )
            prompt = prompt.with_shots(shots if chosen["num_shots"] else [])
        elif chosen and chosen["num_shots"]:
            raise ConfigError("prompt.num_shots: language modelling has no examples to show; set it to 0")
        model, tokenizer = models.causal(self.base), models.tokenizer(self.base)
        description = answering.describe(
            "causal",
            task=task["name"],
            labels=labels,
            objective=answering.objective(self.sections),
            prompt=prompt,
            decoding=self.sections["decoding"],
            inference=self.sections["trainer"],
            longest=models.longest(model, tokenizer),
            base=store.shown(self.base),
        )
        self.answerer = answering.Answerer(model, tokenizer, description, runtime=self.sections["runtime"])
        total, _ = models.count(model)
        num_shots = len(prompt.shots) if prompt else 0
        self.facts = {"level": "prompt", "num_parameters": total, "num_trained_parameters": 0}
        self.facts |= {"rows_seen": num_shots, "examples_seen": 0, "tokens_seen": 0}
        return self.facts

"""Level prompt: ask a language model as it is; the only thing taken from train is the few-shot examples.

The model is a folder of weights, or stands behind an API.
"""

import math
from pathlib import Path

import polars as pl

from stepladder import answering, models, prompts, replies, settings, store
from stepladder.errors import ConfigError
from stepladder.prompts import Prompt


class Level(answering.LanguageLevel):
    """A decoder, or encoder-decoder, with a filled-in prompt; nothing is trained."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None, mixture=None) -> dict:
        """Choose the few-shot examples and open the model; return the facts of the choice."""
        if self.sections["model"].get("kind") == replies.FORM:
            return self._connect(train)
        task, labels = self.sections["task"], answering.labels(self.sections["task"], train)
        precision = settings.resolve(self.sections["trainer"]["precision"], trained=False)
        objective = answering.objective(self.sections)
        form = answering.writer(objective)
        model = answering.open_model(form, self.base, labels, seed=None, precision=precision)
        tokenizer = models.tokenizer(self.base)
        longest = models.longest(model, tokenizer)
        prompt = self._prompt(train, labels, tokenizer, longest)
        description = answering.describe(
            form,
            task=task["name"],
            labels=labels,
            objective=objective,
            prompt=prompt,
            decoding=answering.decoding(self.sections["decoding"], train),
            inference=self.sections["trainer"] | {"precision": precision},
            longest=longest,
            base=store.shown(self.base),
        )
        self.answerer = answering.Answerer(model, tokenizer, description, runtime=self.sections["runtime"])
        if prompt and (empty := self.sections["prompt"].get("content_free")):
            description["prompt"]["prior"] = self._prior(empty)
            self.answerer = answering.Answerer(model, tokenizer, description, runtime=self.sections["runtime"])
        total, _ = models.count(model)
        return self._told(total, prompt)

    @classmethod
    def load(cls, folder: Path) -> "Level":
        """Return the level that was saved in `folder`, ready to answer."""
        description = answering.read(folder)
        if description["form"] != replies.FORM:
            return super().load(folder)
        level = cls({}, base=None)
        level.answerer = replies.Answerer(description)
        return level

    @property
    def tokens_read(self) -> int:
        """How many tokens the inputs had that were answered last."""
        return self.answerer.tokens_read if self._remote else super().tokens_read

    def latency(self, records: pl.DataFrame) -> list[dict]:
        """Return how long answers take, see latency.of; of a remote model as long as its replies took."""
        return self.answerer.latency() if self._remote else super().latency(records)

    @property
    def _remote(self) -> bool:
        return self.answerer.description["form"] == replies.FORM

    def _connect(self, train: pl.DataFrame) -> dict:
        """Choose the few-shot examples for a model that stays where it is; return the facts of the choice."""
        task, chosen, seed = (self.sections[key] for key in ("task", "prompt", "seed"))
        labels = answering.labels(task, train)
        prompt = prompts.of(task, chosen, labels, None)
        if number := chosen["num_shots"]:
            shots = prompts.choose_shots(train, per_class=number, seed=seed, by_label=labels is not None)
            prompt = prompt.with_shots(shots)
        told = replies.describe(self.sections, prompt, labels, one_line=answering.one_line(train))
        self.answerer = replies.Answerer(told)
        return self._told(None, prompt)

    def _told(self, num_parameters: int | None, prompt: Prompt | None) -> dict:
        self.facts = {"level": "prompt", "num_parameters": num_parameters, "num_trained_parameters": 0}
        self.facts |= {"rows_seen": len(prompt.shots) if prompt else 0, "examples_seen": 0, "tokens_seen": 0}
        return self.facts

    def _prior(self, texts: list[str]) -> dict[str, float]:
        """Return the log of the mean share that each label gets for inputs without content (arXiv:2102.09690, 3)."""
        rows = {"id": list(map(str, range(len(texts)))), "input": texts}
        asked = pl.DataFrame(rows).with_columns(pl.lit(None, pl.String).alias(name) for name in ("source", "target"))
        (shares,) = self.answerer.predict(asked)["probabilities"].struct.unnest().mean().to_dicts()
        said = ", ".join(f"{label} {share:.3f}" for label, share in shares.items())
        print(f"without content: {said}", flush=True)
        return {label: math.log(share) for label, share in shares.items()}

    def _prompt(self, train: pl.DataFrame, labels: list[str] | None, tokenizer, longest: int) -> Prompt | None:
        """Return the prompt with as many examples a class as leave half of max_length to the input, None for raw text.

        Raises ConfigError where not one example fits.
        """
        task, chosen = self.sections["task"], self.sections["prompt"]
        wanted = (chosen or {}).get("num_shots", 0)
        if task["name"] == "language_modeling":
            if wanted:
                raise ConfigError("prompt.num_shots: language modelling has no examples to show; set it to 0")
            return None
        prompt = prompts.of(task, chosen, labels, tokenizer)
        limit = min(self.sections["trainer"]["max_length"], longest)
        if not wanted:
            return prompt
        for number in range(wanted, 0, -1):
            options = {"per_class": number, "seed": self.sections["seed"], "by_label": labels is not None}
            shown = prompt.with_shots(prompts.choose_shots(train, **options))
            if 2 * len(tokenizer(shown.question(""), verbose=False)["input_ids"]) <= limit:
                if number < wanted:
                    said = f"{number} of {wanted} examples a class fit into half of {limit} tokens"
                    print(f"few-shot: {said}", flush=True)
                return shown
        raise ConfigError(
            f"prompt.num_shots={wanted}: not one example a class fits into half of trainer.max_length={limit} tokens; "
            "raise it, or take prompt: zero_shot"
        )

"""Level pretrain: all weights are ours: learn a tokenizer, predict the next token of a corpus, then specialise.

Phases: tokenizer -> pretrain (packed rows, reported as bits per byte of held-out text) -> specialise, which is level
finetune with every weight on the model just built. Only train parts feed the first two. The corpus may be larger than
memory: it is walked on the disk, and so are its tokens.
"""

import json
from pathlib import Path

import polars as pl

from stepladder import adapting, corpora, models, objectives, records, store, vocabulary
from stepladder.errors import ConfigError
from stepladder.levels import finetune

FACTS = "pretrained.json"


class Level(finetune.Level):
    """A tokenizer and a small Llama of our own, specialised to the task."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None, mixture=None) -> dict:
        """Build the model from `corpus`, files {"train", "val"}, then train it on the task; return both facts."""
        if corpus is None:
            raise ConfigError("corpus: level=pretrain needs one; name a data set, for example corpus=plain_english")

        def build(made: Path) -> None:
            self._pretrain(corpus, made=made, state=state, log=log)

        self.base = store.settle(state / "pretrained", build)  # with it the phase is done, whatever happens to the next
        facts = super().fit(train, val, state=state / "specialise", log=log, mixture=mixture)
        facts["pretraining"] = json.loads((self.base / FACTS).read_text())
        return facts

    def _pretrain(self, corpus: dict[str, Path], *, made: Path, state: Path, log) -> None:
        section, plan, seed = self.sections["model"], self.sections["level"]["pretraining"], self.sections["seed"]
        length, texts = section["context_length"], corpora.Texts(corpus["train"])
        learned = vocabulary.learn(texts, vocab_size=section["vocab_size"], context_length=length)
        model = models.llama(section, learned, seed=seed)
        packing = self.sections["trainer"].get("packing", "joined")
        objective = objectives.load("language_modeling")(
            learned, task="language_modeling", max_length=length, packing=packing
        )
        facts = adapting.learn(
            (model, objective),
            texts,
            corpora.held_out(corpus["val"]),
            adapting.settings(self.sections, plan, length, self.sections["optimizer"]),
            state=state / "pretrain",
            log=lambda name, *values: log(f"pretrain/{name}", *values),
        )
        with models.quiet():
            model.save_pretrained(made)
        learned.save_pretrained(made)
        records.write_json({"vocabulary": len(learned), **facts}, made / FACTS)

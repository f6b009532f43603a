"""Level pretrain: all weights are ours: learn a tokenizer, predict the next token of a corpus, then specialise.

Phases: tokenizer -> pretrain (packed rows, reported as bits per byte of held-out text) -> specialise, which is level
finetune with every weight on the model just built. Only train parts feed the first two.
"""

import json
from pathlib import Path

import polars as pl

from stepladder import models, objectives, records, store, training, vocabulary
from stepladder.errors import ConfigError
from stepladder.levels import finetune
from stepladder.settings import Settings, resolve, speed

FACTS = "pretrained.json"
NUM_CHECKS = 4  # validations over the pretraining
SHARED = ("eval_batch_size", "not_finite", "divergence", "gradient_checkpointing", "compile", "attention")
NUM_HELD_OUT = 500  # texts, evenly spread over the corpus's val part, that measure it


class Level(finetune.Level):
    """A tokenizer and a small Llama of our own, specialised to the task."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame, *, state: Path, log, corpus=None) -> dict:
        """Build the model from `corpus`, {"train", "val"}, then train it on the task; return the facts of both."""
        if corpus is None:
            raise ConfigError("corpus: level=pretrain needs one; name a data set, for example corpus=plain_english")
        held_out = _texts(corpus["val"])
        held_out = held_out.gather_every(max(1, len(held_out) // NUM_HELD_OUT)).head(NUM_HELD_OUT)
        texts = (_texts(corpus["train"]), held_out)

        def build(made: Path) -> None:
            self._pretrain(*texts, made=made, state=state, log=log)

        self.base = store.settle(state / "pretrained", build)  # with it the phase is done, whatever happens to the next
        facts = super().fit(train, val, state=state / "specialise", log=log)
        facts["pretraining"] = json.loads((self.base / FACTS).read_text())
        return facts

    def _pretrain(self, texts: pl.DataFrame, held_out: pl.DataFrame, *, made: Path, state: Path, log) -> None:
        section, plan, seed = self.sections["model"], self.sections["level"]["pretraining"], self.sections["seed"]
        length = section["context_length"]
        learned = vocabulary.learn(texts["input"], vocab_size=section["vocab_size"], context_length=length)
        model = models.llama(section, learned, seed=seed)
        packing = self.sections["trainer"].get("packing", "joined")
        objective = objectives.load("language_modeling")(
            learned, task="language_modeling", max_length=length, packing=packing
        )
        packed = training.encode(objective, texts, train=True)
        print(f"to pretrain: {plan['max_tokens']:,} tokens of {sum(packed.lengths):,}", flush=True)
        facts, answers = training.fit(
            (model, objective),
            self._settings(plan, length),
            train=packed,
            val=training.encode(objective, held_out),
            state=state / "pretrain",
            log=lambda name, *values: log(f"pretrain/{name}", *values),
        )
        with models.quiet():
            model.save_pretrained(made)
        learned.save_pretrained(made)
        bits = float(answers["bits"].sum() / answers["num_bytes"].sum())
        records.write_json(
            {"bits_per_byte": bits, "vocabulary": len(learned), "num_texts": len(texts), **facts}, made / FACTS
        )

    def _settings(self, plan: dict, length: int) -> Settings:
        optimizer = {**self.sections["optimizer"], "learning_rate": plan["learning_rate"]}
        optimizer["weight_decay"] = plan["weight_decay"]
        steps, trainer = plan["max_tokens"] // (plan["batch_size"] * length), self.sections["trainer"]
        return Settings(
            **{name: trainer[name] for name in SHARED if name in trainer},
            max_length=length,
            precision=resolve(trainer["precision"]),
            batch_size=plan["batch_size"],
            max_steps=max(NUM_CHECKS, steps - steps % NUM_CHECKS),
            patience=NUM_CHECKS,
            checks_per_epoch=NUM_CHECKS,
            seed=self.sections["seed"],
            **speed(self.sections["runtime"]),
            optimizer=optimizer,
            scheduler={"name": "cosine", "warmup_share": plan["warmup_share"]},
        )


def _texts(records: pl.DataFrame) -> pl.DataFrame:
    """Return inputs and, where there are any, targets as texts of their own, each once."""
    columns = [records.select("id", "source", pl.col(name).alias("input")) for name in ("input", "target")]
    texts = pl.concat(columns).drop_nulls("input").unique("input", maintain_order=True)
    return texts.with_columns(pl.lit(None, pl.String).alias("target"))

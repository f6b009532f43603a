"""Level pretrain: all weights are ours: learn a tokenizer, predict the next token of a corpus, then specialise.

Phases: tokenizer -> pretrain (packed rows, reported as bits per byte of held-out text) -> specialise, which is level
finetune with every weight on the model just built. Only train parts feed the first two. The corpus may be larger than
memory: it is walked on the disk, and so are its tokens.
"""

import hashlib
import itertools
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from stepladder import doctor, models, objectives, records, store, training, vocabulary
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
        """Build the model from `corpus`, files {"train", "val"}, then train it on the task; return both facts."""
        if corpus is None:
            raise ConfigError("corpus: level=pretrain needs one; name a data set, for example corpus=plain_english")
        texts = (Texts(corpus["train"]), _held_out(Texts(corpus["val"])))

        def build(made: Path) -> None:
            self._pretrain(*texts, made=made, state=state, log=log)

        self.base = store.settle(state / "pretrained", build)  # with it the phase is done, whatever happens to the next
        facts = super().fit(train, val, state=state / "specialise", log=log)
        facts["pretraining"] = json.loads((self.base / FACTS).read_text())
        return facts

    def _pretrain(self, texts: Collection[str], held_out: pl.DataFrame, *, made: Path, state: Path, log) -> None:
        section, plan, seed = self.sections["model"], self.sections["level"]["pretraining"], self.sections["seed"]
        length = section["context_length"]
        learned = vocabulary.learn(texts, vocab_size=section["vocab_size"], context_length=length)
        model = models.llama(section, learned, seed=seed)
        packing = self.sections["trainer"].get("packing", "joined")
        objective = objectives.load("language_modeling")(
            learned, task="language_modeling", max_length=length, packing=packing
        )
        packed = training.Examples(texts, objective.pack(texts))
        measured = training.encode(objective, held_out)
        seen = doctor.look(objective, packed, measured)
        print(f"to pretrain: {plan['max_tokens']:,} tokens of {sum(packed.lengths):,}", flush=True)
        facts, answers = training.fit(
            (model, objective),
            self._settings(plan, length),
            train=packed,
            val=measured,
            state=state / "pretrain",
            log=lambda name, *values: log(f"pretrain/{name}", *values),
        )
        with models.quiet():
            model.save_pretrained(made)
        learned.save_pretrained(made)
        bits = float(answers["bits"].sum() / answers["num_bytes"].sum())
        told = {"bits_per_byte": bits, "vocabulary": len(learned), "num_texts": len(texts), **facts, "doctor": seen}
        records.write_json(told, made / FACTS)

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


class Texts:
    """The inputs of a file of records and then its targets, where there are any, as texts, each once.

    They are read anew at each pass. Which are the first of their kind is known by a hash of 64 bits: some 25 bytes a
    text while it is found out, a bit afterwards.
    """

    def __init__(self, file: Path):
        self.file = file
        hashes = bytearray()
        for text in self._all():
            hashes += hashlib.blake2b(text.encode(), digest_size=8).digest()
        _, firsts = np.unique(np.frombuffer(hashes, np.uint64), return_index=True)
        first = np.zeros(len(hashes) // 8, bool)
        first[firsts] = True
        self.count, self.first = len(firsts), np.packbits(first)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return (text for i, text in enumerate(self._all()) if self.first[i // 8] >> (7 - i % 8) & 1)

    def _all(self) -> Iterator[str]:
        for column in ("input", "target"):
            for piece in records.pieces(self.file, column):
                yield from piece.drop_nulls()


def _held_out(texts: Texts) -> pl.DataFrame:
    """Return some texts, evenly spread, as records."""
    chosen = list(itertools.islice(itertools.islice(texts, 0, None, max(1, len(texts) // NUM_HELD_OUT)), NUM_HELD_OUT))
    rows = {"id": list(map(str, range(len(chosen)))), "input": chosen, "source": None, "target": None}
    return pl.DataFrame(rows, dict.fromkeys(rows, pl.String))

"""Adapting: a model reads the corpus of a domain before its task, all weights trained, by the loss it was made with.

Tokens of an encoder are hidden and found (objective `masked`), a decoder predicts the next (`language_modeling`), a
model of two halves writes the spans that were taken out (`spans`). Level pretrain learns from its corpus the same way.
Source: Gururangan et al. 2020, arXiv:2004.10964 (domain-adaptive pretraining).
"""

import hashlib
import json
from pathlib import Path

import polars as pl

from stepladder import corpora, curriculum, doctor, models, objectives, records, store, training, work
from stepladder.errors import ConfigError
from stepladder.settings import Settings, resolve, speed

FACTS = "adapted.json"
OBJECTIVES = {"encoder": "masked", "decoder": "language_modeling", "encoder_decoder": "spans"}
OPEN = {"decoder": models.causal, "encoder_decoder": models.seq2seq}
NUM_CHECKS = 4  # validations over the corpus
SHARED = ("eval_batch_size", "not_finite", "divergence", "gradient_checkpointing", "compile", "attention")


def of(base: Path, corpus: dict[str, Path] | None, sections: dict, *, state: Path, log) -> Path:
    """Return the folder of the base after it has read the files {"train", "val"} of the corpus, and of its facts.

    It lies under the hash of all that leads to it, so the trials of a sweep, and other candidates, find it there.
    """
    if corpus is None:
        raise ConfigError("corpus: phase adapt needs one; name a data set, for example corpus=plain_english")
    names, trainer = ("level", "model", "curriculum", "seed", "code"), sections["trainer"]
    content = [{name: sections.get(name) for name in names}, store.hashes(base), work.versions()]
    content += [{name: trainer.get(name) for name in (*SHARED, "max_length", "precision", "packing")}]
    content += [{part: store.sha256(file) for part, file in corpus.items()}]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def build(made: Path) -> None:
        _adapt(base, corpus, sections, made=made, state=state, log=log)

    return store.settle(store.kept("adapted") / key, build)


def learn(learning, texts: corpora.Texts, held_out: pl.DataFrame, plan: Settings, *, state: Path, log) -> dict:
    """Train `learning`, a pair (model, objective), on the texts in place; return what was seen and reached."""
    _, objective = learning
    packed = training.Examples(texts, objective.pack(texts))
    measured = training.encode(objective, held_out)
    seen = doctor.look(objective, packed, measured)
    steps = f"{plan.max_steps:,} steps of {plan.batch_size} rows"
    packed = curriculum.scored(packed, objective, plan.curriculum, seed=plan.seed)
    print(f"to read: {steps}, of {sum(packed.lengths):,} tokens in {len(packed.rows):,} rows", flush=True)
    facts, answers = training.fit(learning, plan, train=packed, val=measured, state=state, log=log)
    if answers is not None:
        facts["bits_per_byte"] = float(answers["bits"].sum() / answers["num_bytes"].sum())
    return {"num_texts": len(texts), **facts, "doctor": seen}


def settings(sections: dict, plan: dict, max_length: int, optimizer: dict) -> Settings:
    """Return the settings of a training for `plan["max_tokens"]` in rows of `max_length`."""
    trainer, steps = sections["trainer"], plan["max_tokens"] // (plan["batch_size"] * max_length)
    return Settings(
        **{name: trainer[name] for name in SHARED if name in trainer},
        max_length=max_length,
        precision=resolve(trainer["precision"]),
        batch_size=plan["batch_size"],
        max_steps=max(NUM_CHECKS, steps - steps % NUM_CHECKS),
        patience=NUM_CHECKS,
        checks_per_epoch=NUM_CHECKS,
        seed=sections["seed"],
        **speed(sections["runtime"]),
        optimizer={**optimizer, "learning_rate": plan["learning_rate"], "weight_decay": plan["weight_decay"]},
        scheduler={"name": "cosine", "warmup_share": plan["warmup_share"]},
        curriculum=_order(sections["curriculum"]),
    )


def _order(section: dict | None) -> dict | None:
    """Return the curriculum of the corpus, whose packed rows have a score of few kinds."""
    return section if section and section["score"] in curriculum.FOR_PACKED else None


def _adapt(base: Path, corpus: dict[str, Path], sections: dict, *, made: Path, state: Path, log) -> None:
    plan, kind, seed = sections["level"]["adapting"], sections["model"]["kind"], sections["seed"]
    tokenizer, name = models.tokenizer(base), OBJECTIVES[kind]
    model = models.masked(base, seed=seed) if kind == "encoder" else OPEN[kind](base)
    length = min(sections["trainer"]["max_length"], models.longest(model, tokenizer))
    packing = sections["trainer"].get("packing", "joined")
    task = "language_modeling" if kind == "decoder" else None
    objective = objectives.load(name)(tokenizer, task=task, max_length=length, packing=packing)
    chosen = settings(sections, plan, length, {"_target_": "torch.optim.AdamW"})
    facts = learn(
        (model, objective),
        corpora.Texts(corpus["train"]),
        corpora.held_out(corpus["val"]),
        chosen,
        state=state,
        log=lambda name, *values: log(f"adapt/{name}", *values),
    )
    with models.quiet():
        models.save_backbone(model, base, made) if kind == "encoder" else model.save_pretrained(made)
    models.save_tokenizer(tokenizer, made)
    records.write_json({"objective": name, **facts}, made / FACTS)

"""Rules: what the sections of a composed candidate demand of each other: (is broken, dotted key, sentence) each.

The sections must be well formed by themselves (schema.problems); of_candidate(found) == [] when all is well.
"""

import itertools
from pathlib import Path

from stepladder import fingerprints, schema, spaces, templates
from stepladder.schema import Problem

LIKELY = ("classification", "language_modeling")  # tasks whose answers tell how likely a record is
HEADED = ("multilabel", "regression")  # tasks that a head answers, or a baseline
ALWAYS = dict.fromkeys(("level", "runtime", "gate", "price", "seed"), True) | {"candidate": False, "probe": False}


def of_data(found: dict) -> list[Problem]:
    """Return what is wrong between the sections data, split and task."""
    data, split, task = found["data"], found["split"], found["task"]
    scale = task.get("scale")
    named, source = task.get("labels") or {}, data["source"]
    words = named if isinstance(named, dict) else dict(zip(named, named, strict=True))
    labels = schema.constant("sources", source, "LABELS") or tuple(words)
    unnamed = "columns" not in schema.of_source(source)
    shares = f"val={split['val']} and test={split['test']} leave no training data; their sum must be below 1"
    rules = [
        (split["val"] + split["test"] >= 1, "split", shares),
        (not (data["asset"] or data["path"]), "data.path", f"data {data['name']} needs data.path, a file in data/raw/"),
        (unnamed and data["columns"], "data.columns", f"source {source} has no columns to name; leave it null"),
        (
            len({*words.values()}) < len(words),
            "task.labels",
            "two labels have one word; no model can tell them apart",
        ),
        ({*words} - {*labels}, "task.labels", f"{', '.join(words)}: the labels of this data are {', '.join(labels)}"),
        (scale and scale["low"] >= scale["high"], "task.scale", "low must lie below high"),
        (len(words) < len(named), "task.labels", "a label stands there twice"),
        (
            data["canaries"] and task["name"] not in LIKELY,
            "data.canaries",
            f"their exposure goes by how likely a record is, which tasks {' and '.join(LIKELY)} tell",
        ),
        (
            split["name"] == "stratified" and task["name"] == "multilabel",
            "split",
            "stratified keeps the shares of one label a record, task multilabel has several; choose split: hash",
        ),
    ]
    return _broken(rules) + _metric("task.metric", task["metric"], task["name"])


def of_candidate(found: dict) -> list[Problem]:
    """Return what is wrong between the sections of a candidate.

    A section too many or too few, or a model of another kind, is told alone: it makes the other rules noise.
    """
    monitor = (found["trainer"] or {}).get("monitor", "loss")
    watched = [] if monitor == "loss" else _metric("trainer.monitor", monitor, found["task"]["name"])
    between = _broken(
        [*_answers(found), *_phases(found), *_methods(found), *_curriculum(found), *_probes(found), *_runtime(found)]
    )
    return _uses(found) or _model(found) or [*between, *templates.problems(found), *watched]


def without_effect(found: dict, keys: set[str]) -> list[Problem]:
    """Return the keys a person set for this candidate although nothing reads them here."""
    searched, shots = found["sweep"] and spaces.of(found["sweep"]), (found["prompt"] or {}).get("num_shots", 0)
    grid = searched if (found["sweep"] or {}).get("sampler", "grid") == "grid" else None
    remote = found["model"]["kind"] == "remote"
    split, level, pacing = found["split"]["name"], found["level"]["name"], (found["curriculum"] or {}).get("pacing")
    rules = [
        *((True, each.key, "the grid chooses it; take it off here or off the sweep") for each in grid or ()),
        (not shots, "prompt.separator", "it stands between examples, and num_shots is 0"),
        (level == "prompt" and not shots, "data.max_rows", "level prompt without examples never reads a train row"),
        (level == "prompt", "data.canaries", "level prompt trains on no row"),
        (split != "column", "split.column", f"split {split} never reads a column"),
        (pacing == "step", "curriculum.duration", "pacing step goes by curriculum.steps"),
        *((remote, f"trainer.{key}", "a model behind an API reads by model.options") for key in found["trainer"] or ()),
    ]
    return [(key, text) for key, text in _broken(rules) if key in keys]


def uses(level: str) -> dict[str, bool]:
    """Return {section: whether it must be there} of what a level reads, besides those of ALWAYS."""
    return {name.rstrip("?"): not name.endswith("?") for name in schema.table()["uses"][level]}


def _broken(rules: list[tuple]) -> list[Problem]:
    return [(key, text) for broken, key, text in rules if broken]


def _uses(found: dict) -> list[Problem]:
    level, read = found["level"]["name"], ALWAYS | uses(found["level"]["name"])
    problems = []
    for name, section in found.items():
        if section is not None and name not in read:
            readers = " or ".join(other for other in schema.table()["uses"] if name in uses(other))
            problems.append((name, f"level {level} never reads {name}; leave it out, or take level {readers}"))
        elif section is None and read.get(name):
            problems.append((name, f"level {level} needs {name}; choose one"))
    return problems


def _model(found: dict) -> list[Problem]:
    level, model = found["level"]["name"], found["model"]
    kinds, width, heads = (
        schema.table()["kinds"][level],
        model.get("hidden_size", 0),
        model.get("num_attention_heads", 1),
    )
    mute = model["name"] == "tfidf" and found["task"]["name"] == "language_modeling"
    other = f"{model['name']} is of kind {model['kind']}; level {level} works with {' or '.join(kinds)}"
    rules = [
        (model["kind"] not in kinds, "model", other),
        (mute, "model", "tfidf has no answer to language_modeling; take model: majority"),
        (width % heads, "model.hidden_size", f"{width} is no multiple of num_attention_heads={heads}"),
    ]
    return _broken(rules)


def _answers(found: dict) -> list[tuple]:
    """A head answers (objective supervised, no prompt) or the tokens do (objective response, a prompt).

    Raw text has neither: its objective follows from the task.
    """
    objective, prompt = (found["objective"] or {}).get("name"), found["prompt"]
    encoder, task = found["model"]["kind"] == "encoder", found["task"]["name"]
    numeric, level = task in HEADED, found["level"]["name"]
    both, halves = found["model"]["kind"] == "encoder_decoder", "the objective of a model of two halves follows from"
    head, asked = objective == "supervised", objective == "response" or found["level"]["name"] == "prompt"
    frozen, modeling = (found["method"] or {}).get("name") == "frozen", task == "language_modeling"
    aimless = found["optimizer"] and objective in (None, "language_modeling")
    wanted = "objective: supervised, prompt: none"
    writing = "an encoder_decoder answers by writing; it wants objective: response"
    headed = f"level: baseline, or level: finetune with {wanted}"
    idle = objective in ("masked", "spans")  # the losses of phase adapt
    remote, told = found["model"]["kind"] == "remote", "a model behind an API tells no probability of a text"
    bare = "language_modeling wants a decoder or an architecture with objective: none, prompt: none"
    return [
        (both and numeric, "model", f"an encoder_decoder has no head, which alone answers {task}; take another model"),
        (both and head and not numeric, "objective", writing),
        (idle, "objective.name", f"{objective} answers no task; level: adapt learns by it"),
        (objective == "seq2seq", "objective.name", f"{halves} objective: response and model.kind: encoder_decoder"),
        (objective in HEADED, "objective.name", f"it follows from task: {objective} and objective: supervised"),
        (remote and modeling, "task", f"{told}; language_modeling wants a decoder"),
        (remote and (prompt or {}).get("content_free"), "prompt.content_free", f"{told}; leave it out"),
        (numeric and not (both or head or level == "baseline"), "task", f"a head alone answers {task}; take {headed}"),
        (both and modeling, "task", "an encoder_decoder models no raw text here; take a decoder"),
        (encoder and not (head or modeling or idle), "objective", f"an encoder wants {wanted}"),
        (aimless and not (encoder or modeling), "objective", f"{task} wants objective: response (labels: or {wanted})"),
        (frozen and not (head or encoder), "method", f"a frozen decoder trains its head alone; it wants {wanted}"),
        (head and prompt, "prompt", f"a head never reads a prompt (an encoder wants {wanted})"),
        (asked and not (prompt or modeling), "prompt", "nothing asks the model; choose prompt: zero_shot"),
        (task == "generation" and (encoder or head), "task", "generation needs a decoder with objective: response"),
        (modeling and (encoder or objective or prompt), "task", bare),
        (
            found["task"].get("turns") and (both or (prompt or {}).get("num_shots")),
            "task.turns",
            "a conversation is its own example, read by a decoder; set prompt.num_shots: 0, or take a decoder",
        ),
    ]


def _phases(found: dict) -> list[tuple]:
    """What trains needs a trainer for that, what writes text needs decoding, and examples need a number."""
    task, level, decoding = found["task"]["name"], found["level"]["name"], found["decoding"]
    trains, trainable = level in ("finetune", "pretrain"), "max_epochs" in (found["trainer"] or {})
    remote = found["model"]["kind"] == "remote"
    prompt = found["prompt"] or {"name": "", "num_shots": 0}
    writes = task == "generation" and level != "baseline" and not remote
    shots = f"num_shots={prompt['num_shots']}; few_shot has at least 1, zero_shot 0"
    trainer, frozen = found["trainer"] or {}, (found["method"] or {}).get("name") == "frozen"
    phases, corpus = found["level"].get("phases", ["finetune"]), found["corpus"]
    order = f"{phases}: the order is [adapt, finetune], or [finetune] alone"
    idle = "no phase reads it; take level: adapt, which reads it first, or leave it out"
    rounded = "weights in bf16 do not learn: a small step is lost in rounding (loss .693 against .683); take bf16-mixed"
    return [
        (phases not in (["finetune"], ["adapt", "finetune"]), "level.phases", order),
        ("adapt" in phases and not corpus, "level", "phase adapt reads a corpus; name one, as corpus: plain_english"),
        (level == "finetune" and corpus and "adapt" not in phases, "corpus", idle),
        (trains and trainer.get("precision") == "bf16-true", "trainer.precision", rounded),
        (
            frozen and trainer.get("gradient_checkpointing"),
            "trainer.gradient_checkpointing",
            "a frozen backbone keeps none",
        ),
        (
            "gguf" in (decoding or {}) and found["model"]["kind"] != "decoder",
            "decoding",
            "llama.cpp writes for a decoder here; choose decoding: greedy",
        ),
        (
            trains and "gguf" in (decoding or {}),
            "decoding",
            f"a GGUF file says what its own weights do, level {level} trains others; take decoding: greedy",
        ),
        (remote and decoding, "decoding", "a model behind an API writes by model.options; choose decoding: none"),
        (writes and not decoding, "decoding", "task generation needs decoding; choose decoding: greedy"),
        (task != "generation" and decoding, "decoding", f"task {task} generates nothing; leave decoding out"),
        (trains and not trainable, "trainer", f"level {level} needs max_epochs and more; it wants trainer: default"),
        (trainable and not trains, "trainer", f"level {level} trains nothing; it wants trainer: inference"),
        (
            prompt["name"] != "chat" and (prompt["name"] == "few_shot") != (prompt["num_shots"] > 0),
            "prompt.num_shots",
            shots,
        ),
    ]


def _methods(found: dict) -> list[tuple]:
    """Virtual tokens want a model that sees them, and a head that finds its text behind them."""
    method, trainer, model = found["method"] or {}, found["trainer"] or {}, found["model"]
    target = method.get("_target_", "").removeprefix("peft.")
    prefix, prompt = target == "PrefixTuningConfig", target in ("PromptTuningConfig", "PromptEncoderConfig")
    headed = model["kind"] == "decoder" and (found["objective"] or {}).get("name") == "supervised"
    rates = "loraplus_lr_ratio" in (found["optimizer"] or {})
    ids = "the head of a decoder finds its token by the text's ids, which a learnt prompt has none of; take prefix"
    return [
        (prefix and model.get("conversion") == "distilbert", "method", "DistilBERT has no place for a prefix"),
        (prompt and headed, "method", f"{ids}, or objective: response"),
        (prefix and trainer.get("gradient_checkpointing"), "trainer.gradient_checkpointing", "a prefix keeps none"),
        (
            (prefix or prompt) and trainer.get("packing") == "documents",
            "trainer.packing",
            "documents of one row would share the learnt tokens before it; take joined",
        ),
        (
            method.get("combination") and (found["objective"] or {}).get("name") == "supervised",
            "method",
            "heads of several adapters cannot be combined; take a decoder and objective: response",
        ),
        (
            method.get("density") is None and method.get("combination", "").startswith(("ties", "dare")),
            "method.density",
            f"{method.get('combination')} keeps a share of the weights; name it, as 0.5",
        ),
        (rates and target != "LoraConfig", "optimizer.loraplus_lr_ratio", "LoRA alone has a B; take method: lora_plus"),
    ]


def _curriculum(found: dict) -> list[tuple]:
    """A score must be there for every row, and the last rows must open."""
    section, task, columns = found["curriculum"], found["task"]["name"], found["data"]["columns"]
    if not section:
        return []
    score, steps, start = section["score"], section["steps"], section["start"]
    packed = f"rows of raw text are packed, several texts in each: {score} is not theirs; take curriculum: rarity"
    pairs = all(len(pair) == 2 for pair in steps or [])
    rising = pairs and all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise([[0, start], *(steps or [])]))
    wanted = f"expected pairs [time, share] that rise from start={start} to share 1.0, such as [[0.2, 0.5], [0.4, 1.0]]"
    unrated = "the data names no column of numbers for it; add rating to data.columns"
    return [
        (task == "language_modeling" and score != "rarity", "curriculum", packed),
        (
            task == "generation" and score == "loss",
            "curriculum",
            "it is a classifier's loss; take length or rarity",
        ),
        (score == "rating" and columns and "rating" not in columns, "curriculum", unrated),
        ((section["pacing"] == "step") != bool(steps), "curriculum.steps", "pacing step and steps belong together"),
        (bool(steps) and not (rising and steps[-1][1] == 1), "curriculum.steps", f"{steps}: {wanted}"),
    ]


def _probes(found: dict) -> list[tuple]:
    """A probe says which tasks and which forms of an answering model it can ask, and why no other."""
    head, both = (found["objective"] or {}).get("name") == "supervised", found["model"]["kind"] == "encoder_decoder"
    form, kind = "head" if head else "seq2seq" if both else "causal", found["model"]["kind"]
    form = kind if kind in ("baseline", "remote") else form
    asked = {"TASK": found["task"]["name"], "FORM": form}
    return [
        ((fits := schema.constant("probes", name, kind)) and one not in fits, f"probe.{name}", _because(name))
        for name in found["probe"] or {}
        for kind, one in asked.items()
    ]


def _runtime(found: dict) -> list[tuple]:
    """What is to check signatures is a file of the repository."""
    key = found["runtime"]["public_key"]
    return [
        (key and not Path(key).is_file(), "runtime.public_key", f"{key}: no such file; openssl ec -pubout makes one")
    ]


def _because(probe: str) -> str:
    return f"{''.join(schema.constant('probes', probe, 'BECAUSE'))}; leave it out here"


def _metric(key: str, metric: str, task: str) -> list[Problem]:
    fits = schema.constant("metrics", metric, "TASK")
    known = ", ".join(fingerprints.metrics(task))
    return [] if task in fits else [(key, f"{metric} scores {' and '.join(fits)}, not {task}; expected {known}")]

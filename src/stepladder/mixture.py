"""Mixture: with each of its own batches a training learns from one of every further data set, by that one's own task.

loss = own + the sum of weight x the mean loss of the batch of each further data set (Caruana 1997, "Multitask
learning"). One that writes reads their prompts, or raw text as it did before (replay, against forgetting: Scialom et
al. 2022, arXiv:2205.12393); a head gets outputs of its own for each, which are cut off in the end. Which rows come is a
function of seed and step, so a stopped fit goes on with them.
"""

from collections.abc import Iterator

import polars as pl
import torch

from stepladder import answering, corpora, doctor, objectives, prompts, training
from stepladder.batches import Batches
from stepladder.errors import DataError

RAW = {"causal": "language_modeling", "seq2seq": "spans"}  # what a model of this form reads raw text by
Frames = dict[str, tuple[pl.DataFrame, pl.DataFrame]]  # of each further data set: train, val


class Part:
    """A further data set in training: the rows that come at a step, what they are learnt by and with which weight."""

    def __init__(self, objective, examples: training.Examples, *, weight: float, batch_size: int, seed: int):
        self.objective, self.rows, self.weight = objective, examples.rows, weight
        self.batches = Batches(examples.lengths, batch_size, seed=seed)
        self.epoch, self.order = None, []

    def batch(self, step: int, device: torch.device) -> dict:
        """Return the batch of a step, counted from 0; after its last row a data set begins again, in another order."""
        epoch, place = divmod(step, len(self.batches))
        if epoch != self.epoch:
            self.batches.epoch = self.epoch = epoch
            self.order = list(self.batches)
        drawn = self.objective.collate([self.rows[row] for row in self.order[place]])
        return {key: value.to(device) if torch.is_tensor(value) else value for key, value in drawn.items()}


def parts(sections: dict, frames: Frames, answerer: answering.Answerer) -> tuple[dict[str, Part], dict]:
    """Return the parts of a composed mixture, and what the doctor saw in each; the model learns to tell them apart.

    Raises DataError where the doctor finds that nothing can be learnt from one of them.
    """
    found, seen, mixture = {}, {}, sections["mixture"] or {"weights": {}}
    heads = columns(sections["tasks"], frames, answerer.description["labels"])
    for name, weight in mixture["weights"].items():
        train, val = frames[name]
        objective = _objective(sections, name, train, answerer)
        objective.columns = heads.get(name)
        print(f"further data {name}: weight {weight:g}, {mixture['batch_size']} rows a step", flush=True)
        try:
            examples, seen[name] = _examples(objective, train, val)
        except DataError as error:
            raise DataError("\n".join(f"further data {name}: {line}" for line in str(error).splitlines())) from None
        options = {"weight": weight, "batch_size": mixture["batch_size"], "seed": sections["seed"]}
        found[name] = Part(objective, examples, **options)
    if found:
        answerer.objective.columns = slice(len(answerer.description["labels"] or answering.NUMBER))
    return found, seen


def outputs(tasks: dict[str, dict], frames: Frames) -> dict[str, list[str]]:
    """Return {data set: the names of the outputs that a head gets for it}."""
    labels = {name: answering.labels(tasks[name], frames[name][0]) for name in tasks}
    return {name: [f"{name}: {label}" for label in own or answering.NUMBER] for name, own in labels.items()}


def columns(tasks: dict[str, dict], frames: Frames, own: list[str] | None) -> dict[str, slice]:
    """Return {data set: its outputs among those of the head}, which begin with the candidate's own."""
    found, start = {}, len(own or answering.NUMBER)
    for name, names in outputs(tasks, frames).items():
        found[name] = slice(start, start + len(names))
        start += len(names)
    return found


def narrow(model: torch.nn.Module, labels: list[str] | None) -> None:
    """Cut the outputs of further data sets off the head, in its adapter as well, so that it is one of its own task."""
    names = labels or answering.NUMBER
    base = getattr(model, "get_base_model", lambda: model)()
    for layer in _heads(model, base):
        layer.weight = torch.nn.Parameter(layer.weight[: len(names)].clone(), layer.weight.requires_grad)
        if layer.bias is not None:
            layer.bias = torch.nn.Parameter(layer.bias[: len(names)].clone(), layer.bias.requires_grad)
        layer.out_features = len(names)
    base.config.id2label = dict(enumerate(names))
    base.config.label2id = {name: index for index, name in base.config.id2label.items()}


def _heads(model: torch.nn.Module, base: torch.nn.Module) -> Iterator[torch.nn.Linear]:
    """Yield the layers outside of the backbone that have all outputs, those that peft keeps beside them included."""
    inside = set(base.base_model.modules())
    for layer in model.modules():
        wide = isinstance(layer, torch.nn.Linear) and layer.out_features == base.config.num_labels
        if wide and layer not in inside:
            yield layer


def _objective(sections: dict, name: str, train: pl.DataFrame, answerer: answering.Answerer):
    """Return what the answerer's model learns from the further data set."""
    task, length = sections["tasks"][name], answerer.objective.max_length
    labels, tokenizer = answering.labels(task, train), answerer.tokenizer
    raw = task["name"] == "language_modeling"
    chosen = RAW[answerer.description["form"]] if raw else answering.objective({**sections, "task": task})
    asked = answerer.description["prompt"] and not raw
    prompt = prompts.of(task, sections["prompt"], labels, tokenizer) if asked else None
    return objectives.load(chosen)(
        tokenizer,
        task=task["name"],
        labels=labels,
        prompt=prompt,
        decoding={"max_new_tokens": length // 2} if task["name"] == "generation" else None,
        reading=answering.reading(task),
        max_length=length,
    )


def _examples(objective, train: pl.DataFrame, val: pl.DataFrame) -> tuple[training.Examples, dict]:
    """Return the rows of a data set, of raw text packed ones, after the doctor has looked at them."""
    if hasattr(objective, "pack"):
        packed = training.Examples(train, objective.pack(train["input"]))
        return packed, doctor.look(objective, packed, training.encode(objective, val.head(corpora.NUM_HELD_OUT)))
    examples, seen = doctor.encoded(objective, train, val)
    return examples[0], seen

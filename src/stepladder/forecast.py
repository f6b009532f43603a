"""Forecast: the time and memory that a fit will take, by a batch of mean size that is tried.

What cannot fit is refused, and a batch that does not fit at once is set to be computed in parts.

to train: 7,056 rows of 189,512 tokens, at most 442 steps, about 95 s and 1.4 GB of memory here
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from stepladder import microbatches
from stepladder.batches import Batches
from stepladder.errors import MachineError
from stepladder.learner import build

TRIED: dict[tuple, tuple] = {}  # what was measured in this process of fits that are alike: trials of a search are
LONG_S = 600  # a training longer than this is told how to be shorter
TRIES, SHARE = 3, 0.06  # steps that are tried, at most, also as a share of those of the training
LONG_ENOUGH_S = 5.0  # of trying: the first of shorter steps is slow, while kernels are made for its shapes
GROUP = Path("/sys/fs/cgroup")  # of this process within a container: memory.max and memory.current, in bytes


def of(learner, lengths: tuple[list[int], list[int]], sampler: Batches, trainer, collate) -> str:
    """Return the line that says what is to be done; `lengths` are tokens of train's and of val's rows.

    `collate` makes a batch of positions. A batch that would not fit is set to be computed in parts.
    Raises MachineError when the optimizer, or a single row, will not fit.
    """
    train, val = lengths
    sizes = {tuple(rows): padded(rows, train) for rows in sampler}
    largest, mean = max(sizes.values()), sum(sizes.values()) / len(sizes)
    rows, middle = min(sizes.items(), key=lambda item: abs(item[1] - mean))
    device = trainer.strategy.root_device
    learner.model.to(device)
    batch = trainer.strategy.batch_to_device(collate(list(rows)), device)
    free = available(device)
    trained = [weight for weight in learner.parameters() if weight.requires_grad]
    moved = _moved_bytes(learner.settings.optimizer, trained)
    _require(moved, free, "the gradients and the optimizer", microbatches.ADVICE)
    settings = learner.settings
    alike = (*_kind(learner), moved, middle, largest, sampler.batch_size, str(device), torch.get_num_threads())
    saved, parts, forward, whole = TRIED.get(alike, (0.0, learner.parts, 0.0, 0.0))
    learner.parts = _parts(moved, saved, free, parts=max(parts, learner.parts), rows=sampler.batch_size)
    if alike not in TRIED:
        with torch.random.fork_rng(), trainer.precision_plugin.forward_context():
            saved = _within_memory(learner, batch, saved_bytes) * largest / middle
            learner.parts = _parts(moved, saved, free, parts=learner.parts, rows=sampler.batch_size)
            forward, whole = _within_memory(learner, batch, _seconds)
        TRIED[alike] = (saved, learner.parts, forward, whole)
    epochs = learner.total_steps / len(sampler) if settings.max_steps < 0 else 1
    seconds = (
        whole * learner.total_steps * mean / middle + forward * sum(val) / middle * epochs * settings.checks_per_epoch
    )
    weights = sum(weight.numel() * weight.element_size() for weight in trained)  # the best of them come back in the end
    size = _peak(device) + (1 - middle / largest) * saved / learner.parts + weights
    return told(rows=len(train), tokens=sum(train), steps=learner.total_steps, seconds=seconds, size_bytes=size)


def _kind(learner) -> tuple:
    """Return what decides, beside the sizes of a batch, what a step of training takes."""
    settings, count = learner.settings, sum(weight.numel() for weight in learner.parameters())
    said = (settings.precision, settings.gradient_checkpointing, settings.attention, settings.compile)
    return (*said, settings.optimizer["_target_"], type(learner.model), type(learner.objective), count)


def told(*, rows: int, tokens: int, steps: int, seconds: float, size_bytes: float) -> str:
    """Return a line that says how much is to be done before it begins; where it is long, how to have less."""
    minutes = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(seconds, 1):.0f} s"
    cure = "; fewer rows: set: {data: {max_rows: ...}}" if seconds > LONG_S else ""
    work = f"{rows:,} rows of {tokens:,} tokens, at most {steps:,} steps"
    return f"to train: {work}, about {minutes} and {size_bytes / 1e9:.1f} GB of memory here{cure}"


def padded(rows: list[int], lengths: list[int]) -> int:
    """Return the tokens of a batch with its padding."""
    return len(rows) * max(lengths[row] for row in rows)


def available(device: torch.device) -> int:
    """Return the bytes of memory that this process may still take: of the device, the machine, its group and limits."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found, (limit, _) = [psutil.virtual_memory().available], resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        found.append(limit - psutil.Process().memory_info().vms)
    limits = [GROUP / "memory.max", GROUP / "memory.current"]
    if all(file.is_file() for file in limits) and (most := limits[0].read_text().strip()) != "max":
        found.append(int(most) - int(limits[1].read_text()))
    return max(0, min(found))


def saved_bytes(learner, batch: dict, parts: int) -> int:
    """Return the bytes that a batch's loss at once would keep for its gradient, weights apart; one part is tried."""
    weights, kept = {weight.untyped_storage().data_ptr() for weight in learner.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would hold its graph, and the graph it, for ever

    pieces = microbatches.split(batch, parts)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.objective.loss(learner.model, pieces[-1])
    return sum(kept.values()) * len(pieces)


def _within_memory(learner, batch: dict, measure: Callable):
    """Return `measure(learner, batch, parts)` with the parts of the learner, or as many more as memory asks for."""
    found, learner.parts = microbatches.within_memory(
        lambda parts: measure(learner, batch, parts), parts=learner.parts, rows=len(batch["row"])
    )
    return found


def _peak(device: torch.device) -> int:
    """Return the most bytes that were taken so far: by the steps that were tried, as by any other."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


def _moved_bytes(section: dict, weights: list[torch.nn.Parameter]) -> int:
    """Return the bytes of the gradients and of the optimizer's state, whose tensors are as large as the weights."""
    probe = torch.nn.Parameter(torch.zeros(2, 2))
    probe.grad = torch.zeros(2, 2)
    small = build(section, torch.nn.ParameterList([probe]))
    small.step()
    states = [value for value in small.state[probe].values() if torch.is_tensor(value) and value.shape == probe.shape]
    return sum(weight.numel() * weight.element_size() for weight in weights) * (1 + len(states))


def _parts(moved: int, saved: float, free: int, *, parts: int, rows: int) -> int:
    """Return in how many parts, or more than that, the largest batch is to be computed, so that it fits."""
    wanted = parts
    while moved + saved / parts > free and parts < rows:
        parts *= 2
    _require(moved + saved / parts, free, "a single row of the longest", microbatches.ADVICE)
    if parts > wanted:
        print(f"batches are computed in {parts} parts, to fit into {free / 1e9:.1f} GB of free memory", flush=True)
    return parts


def _require(needed: float, free: int, what: str, advice: str) -> None:
    if needed > free:
        sizes = f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
        raise MachineError(f"training does not fit: {what} would take {sizes}; {advice}")


def _seconds(learner, batch: dict, parts: int) -> tuple[float, float]:
    """Return the seconds of a batch forwards, as answers to val take it, and of its whole step."""
    optimizer = build(learner.settings.optimizer | {"learning_rate": 0.0}, learner.model)  # moves nothing
    forward, whole, most = [], [], min(TRIES, max(1, int(SHARE * learner.total_steps)))
    while len(whole) < most and sum(whole) < LONG_ENOUGH_S:  # the first one warms up, and other work may disturb one
        started = time.perf_counter()
        learner.loss(batch, parts).backward()
        optimizer.step()
        learner.model.zero_grad()
        whole.append(time.perf_counter() - started)
        started = time.perf_counter()
        with torch.no_grad():
            for piece in microbatches.split(batch, parts):
                learner.objective.loss(learner.model, piece)
        forward.append(time.perf_counter() - started)
    return min(forward), min(whole)

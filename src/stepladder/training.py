"""Training: fit a model to an objective, and run it over records, with Lightning.

The levers are length buckets from a deterministic sampler, bf16 autocast where the device has bf16 units, fused AdamW,
and logits only where they count (the objective's part). `fit` ends with the best weights by the watched validation
metric restored.
"""

import bisect
import dataclasses
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning
import polars as pl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader

from stepladder import adapters, checkpoints, float32, forecast, interruption, metrics, progress, store
from stepladder.batches import Batches, Curriculum
from stepladder.errors import ConfigError, MachineError, unknown
from stepladder.learner import Embedder, Learner, Log, Recorder
from stepladder.settings import Settings


@dataclasses.dataclass(frozen=True)
class Examples:
    """Records and what an objective made of them: a record may give several rows, or none of its own.

    `scores` of the rows, where there are any, say which are easy: low ones.
    """

    records: pl.DataFrame
    rows: Sequence[dict]
    scores: Sequence[float] | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row; rows that are made when they are asked for know theirs."""
        return [row["length"] for row in self.rows] if isinstance(self.rows, list) else self.rows.lengths

    @property
    def num_cut(self) -> int:
        """Records that were longer than the objective's `max_length`."""
        return sum(row.get("cut", False) for row in self.rows) if isinstance(self.rows, list) else 0


def fit(
    learning, settings: Settings, *, train: Examples, val: Examples, state: Path, log: Log, further: dict | None = None
) -> tuple[dict, pl.DataFrame | None]:
    """Train in place `learning`, a pair (model, objective); return facts and what the restored weights answer on val.

    Facts are the best value and its step, rows and tokens seen; the answers are None where only a loss was watched.
    `further` are parts of a mixture by name. `state` holds the checkpoints: a fit that was stopped goes on from the
    newest. Raises NumericsError when a loss is not finite, ConfigError for a metric to watch that is not the task's.
    """
    model, objective = learning
    watched, mode = _watched(settings.monitor, objective.task)
    lightning.seed_everything(settings.seed, verbose=False)
    sampler = Batches(train.lengths, settings.batch_size * settings.accumulate, seed=settings.seed)
    total = len(sampler) * settings.max_epochs if settings.max_steps < 0 else settings.max_steps
    sampler.curriculum = _curriculum(train, settings, total)
    learner = Learner(model, objective, settings, total_steps=total, val=val.records, further=further)
    best = ModelCheckpoint(state, monitor=watched, mode=mode, save_top_k=1, save_weights_only=True, filename="best")
    keeper = checkpoints.Keeper(state, sampler, every_s=settings.checkpoint_every_s)  # last: it keeps what others did
    trainer = _trainer(
        settings,
        callbacks=[best, EarlyStopping(watched, mode=mode, patience=settings.patience), Recorder(log), keeper],
        plugins=[checkpoints.Careful()],
        default_root_dir=state,
        max_epochs=settings.max_epochs if settings.max_steps < 0 else -1,
        max_steps=settings.max_steps,
        **_checks(settings),
        num_sanity_val_steps=0,
    )
    options = {"batch_sampler": sampler, "collate_fn": objective.collate, "num_workers": settings.num_workers}
    options["generator"] = torch.Generator().manual_seed(settings.seed)  # the loader draws nothing of training's chance
    loaders = DataLoader(train.rows, **options), _sorted_loader(val, objective, settings)
    model.train()
    last = checkpoints.newest(state)
    with _switched(model, settings), interruption.patient():
        if last:
            print(f"going on from {store.shown(last)}", flush=True)
        else:
            print(_forecast(learner, train, val, trainer), flush=True)
        _run(lambda: trainer.fit(learner, *loaders, ckpt_path=last))
    saved = checkpoints.read(best.best_model_path)
    learner.load_state_dict(saved["state_dict"], strict=False)
    adapters.load_state_dict(model, saved["adapter"])
    model.eval()
    assert learner.best_step == saved["global_step"], "the checkpoint is not of the validation that is reported"
    facts = {
        "monitor": watched,
        "best_score": float(best.best_model_score),
        "best_loss": learner.best_loss,
        "best_epoch": int(saved["epoch"]),
        "best_step": int(saved["global_step"]),
        "num_steps": trainer.global_step,
        "examples_seen": learner.examples_seen,
        "tokens_seen": learner.tokens_seen,
        "precision": settings.precision,
        "steps_skipped": learner.watch.skipped,
    }
    if sampler.curriculum:
        facts["rows_open"] = _opened(sampler.curriculum, trainer.global_step)
    return facts, learner.best_predictions


def encode(objective, records: pl.DataFrame, *, train: bool = False) -> Examples:
    """Return the records as examples of the objective, and say how many of them were too long."""
    found = Examples(records, objective.encode(records, train=train))
    if found.num_cut:
        print(f"{found.num_cut:,} of {len(records):,} inputs are cut to {objective.max_length} tokens", flush=True)
    return found


def predict(model, objective, records: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Return predictions for `records` in their order; batches go from long to short inputs."""
    examples = encode(objective, records)
    objective.tokens_read = sum(examples.lengths)
    share = getattr(objective, "share", None)
    model.eval()
    trainer = _trainer(settings)
    learner = Learner(model, objective, settings)  # chooses the attention, also of what is shared
    if share:
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            share(model.to(trainer.strategy.root_device), examples.rows)
    batches = _run(lambda: trainer.predict(learner, _sorted_loader(examples, objective, settings)))
    if share:
        objective.prefix = None
    return objective.predictions(records, [row for batch in batches for row in batch])


def embed(model, objective, examples: Examples, settings: Settings) -> torch.Tensor:
    """Return what a frozen backbone makes of the examples, (rows, width) in float32, in their order."""
    trainer = _trainer(settings)
    learner = Embedder(model)
    batches = _run(lambda: trainer.predict(learner, _sorted_loader(examples, objective, settings)))
    vectors = {row: vector for rows, vectors in batches for row, vector in zip(rows, vectors, strict=True)}
    return torch.stack([vectors[example["row"]] for example in examples.rows])


def _curriculum(train: Examples, settings: Settings, num_steps: int) -> Curriculum | None:
    """Return which rows open when, and say so."""
    if train.scores is None:
        return None
    pacing = {key: settings.curriculum[key] for key in ("pacing", "start", "duration", "steps")}
    size = settings.batch_size * settings.accumulate
    found = Curriculum(train.scores, num_steps=num_steps, batch_size=size, **pacing)
    before = bisect.bisect_left(range(num_steps), len(train.rows), key=found.num_open)
    first = f"{found.num_open(0):,} of {len(train.rows):,} rows open at first"
    said = f"by {settings.curriculum['score']}, {first}, all after {before:,} of {num_steps:,} steps"
    print(f"curriculum: {said}", flush=True)
    return found


def _opened(curriculum: Curriculum, num_steps: int) -> int:
    """Return how many rows were open at the last of the steps taken; say so where a training ended before all were."""
    number, rows = curriculum.num_open(num_steps - 1), len(curriculum.order)
    if number < rows:
        cure = "raise trainer.patience, or lower curriculum.duration"
        print(f"curriculum: it ended with {number:,} of {rows:,} rows open; {cure}", flush=True)
    return number


def _forecast(learner: Learner, train: Examples, val: Examples, trainer: lightning.Trainer) -> str:
    settings = learner.settings  # a step is as long as one of all rows, whichever a curriculum opens first
    sampler = Batches(train.lengths, settings.batch_size * settings.accumulate, seed=settings.seed)

    def collate(rows: list[int]) -> dict:
        return learner.objective.collate([train.rows[row] for row in rows])

    return forecast.of(learner, (train.lengths, val.lengths), sampler, trainer, collate)


@contextmanager
def _switched(model, settings: Settings) -> Iterator[None]:
    """Train with what trainer.gradient_checkpointing and trainer.compile ask for, and answer without."""
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        _require_compiler()
        model.compile(dynamic=True)
    try:
        yield
    finally:
        model._compiled_call_impl = None
        if settings.gradient_checkpointing:
            model.activation_checkpointing_disable()


def _require_compiler() -> None:
    names = [os.environ.get("CXX", "g++"), "clang++"]
    if not torch.cuda.is_available() and not any(map(shutil.which, names)):
        raise MachineError("trainer.compile: true needs a C++ compiler here; install g++, or set it to false")


def _checks(settings: Settings) -> dict:
    """Return when to validate: so often an epoch, or so often over a fixed number of steps."""
    if settings.max_steps < 0:
        return {"val_check_interval": 1 / settings.checks_per_epoch}
    return {
        "val_check_interval": max(1, settings.max_steps // settings.checks_per_epoch),
        "check_val_every_n_epoch": None,
    }


def _watched(monitor: str, task: str) -> tuple[str, str]:
    if monitor == "loss":
        return "val/loss", "min"
    if monitor not in (known := metrics.names(task)):
        raise ConfigError(f"trainer.monitor: {unknown(f'metric of {task}', monitor, ['loss', *known])}")
    return f"val/{monitor}", "max" if metrics.load(monitor).GREATER_IS_BETTER else "min"


def _sorted_loader(examples: Examples, objective, settings: Settings) -> DataLoader:
    lengths, size = examples.lengths, settings.eval_batch_size
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    options = {"collate_fn": objective.collate, "num_workers": settings.num_workers}
    return DataLoader(examples.rows, size, sampler=order, **options)


def _trainer(settings: Settings, *, callbacks: Iterable = (), plugins: Iterable = (), **options) -> lightning.Trainer:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    float32.prefer(settings.precision == "32-true")
    said = progress.callbacks(settings.log_every_s)
    return lightning.Trainer(
        devices=1,
        precision=settings.precision.replace("bf16-true", "32-true"),  # such weights need nothing of Lightning
        logger=False,
        callbacks=[*callbacks, *said],
        plugins=[LightningEnvironment(), *plugins],  # Slurm's would save and requeue within a signal's handler
        enable_model_summary=False,
        enable_progress_bar=len(said) > 1,
        use_distributed_sampler=False,
        **options,
    )


def _run(work: Callable):
    """Run Lightning without its warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        return work()

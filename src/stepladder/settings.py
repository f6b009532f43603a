"""Settings: how long to train, in which portions, at which precision."""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long, in which portions and at which precision; `optimizer`, `scheduler` and `curriculum` are sections."""

    max_length: int  # tokens
    eval_batch_size: int
    precision: str
    max_epochs: int = 1
    batch_size: int = 16
    accumulate: int = 1
    gradient_clip: float | None = 1.0
    monitor: str = "loss"
    patience: int = 1
    checks_per_epoch: int = 1
    not_finite: str = "stop"
    divergence: float | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    attention: str = "auto"
    packing: str = "joined"
    layers_per_epoch: int | None = None  # that method gradual lets learn
    max_steps: int = -1
    seed: int = 0
    log_every_s: float = 10.0
    checkpoint_every_s: float = 60.0
    num_workers: int = 0
    num_threads: int | None = None
    optimizer: dict = dataclasses.field(default_factory=dict)
    scheduler: dict = dataclasses.field(default_factory=dict)
    curriculum: dict | None = None


def resolve(precision: str, *, trained: bool = True) -> str:
    """Return the precision to use: `auto` is bf16 where the device computes in it, else float32.

    Weights that are trained stay in float32 (bf16-mixed: autocast); those that only answer are bf16 (bf16-true).
    """
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities()
        able = units.get("avx512_bf16") or units.get("amx_bf16")
    return ("bf16-mixed" if trained else "bf16-true") if able else "32-true"


def dtype(precision: str) -> torch.dtype:
    """Return the type of the weights at a precision."""
    return torch.bfloat16 if precision == "bf16-true" else torch.float32


def of(sections: dict) -> Settings:
    """Return the settings of composed sections, with the precision that this device takes."""
    chosen = {**sections["trainer"], "precision": resolve(sections["trainer"]["precision"])}
    parts = {key: sections[key] for key in ("optimizer", "scheduler", "curriculum", "seed")}
    gradual = (sections["method"] or {}).get("layers_per_epoch")
    return Settings(**chosen, **parts, **speed(sections["runtime"]), layers_per_epoch=gradual)


def speed(runtime: dict) -> dict:
    """Return the settings of section `runtime` that concern the machine and change no output byte."""
    names = ("log_every_s", "checkpoint_every_s", "num_workers", "num_threads")
    return {key: runtime[key] for key in names if key in runtime}

"""Pipelines: one file a stage, run by DVC on a composed file or by hand with Hydra overrides.

python -m pipelines.train -cd build -cn lora                       as DVC does
python -m pipelines.train level=finetune method=lora method.r=16   by hand; -m for a grid, --help, --cfg job
Exit codes: 2 config, 3 data, 4 integrity, 5 machine, 6 remote, 7 numerics, 75 interrupted, 143 terminated, 1 a bug.
"""

import argparse
import ctypes
import functools
import inspect
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "src") in sys.path:
    sys.path.remove(str(ROOT / "src"))
sys.path.insert(0, str(ROOT / "src"))  # a copy that DVC queues runs its own code, not the installed workspace's

CONF = ROOT / "conf"
ENVIRONMENT = {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 13 s where no server answers; MLflow's own 7 take 4 minutes
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # an overloaded server may ask for an hour
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
WRITTEN = ("assets", "data", "inputs", "logs", "metrics", "models", "predictions", "reports", "runs", "state", "tuned")
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/", UserWarning)  # ours merge with the plugin's of that name
INTERRUPTED, TERMINATED = 75, 143  # EX_TEMPFAIL of sysexits.h: try again; 128 + SIGTERM


def stage(function: Callable[[dict], float | None]) -> Callable[[], None]:
    """Return the command line of a stage: it checks what was typed, composes, and calls function with a plain dict.

    The process ends with the exit code of the fault and one line for each; HYDRA_FULL_ERROR=1 adds the traceback.
    """
    name = Path(function.__code__.co_filename).stem

    @functools.wraps(function)
    def main() -> None:
        _guarded(lambda wanted: _hydra(function, name, wanted))

    return main


def plain_stage(function: Callable[[], None]) -> Callable[[], None]:
    """Return the command line of a stage without config, with the same exit codes."""

    @functools.wraps(function)
    def main() -> None:
        _guarded(lambda _: _no_words(function))

    return main


def worded_stage(function: Callable[[argparse.ArgumentParser], None]) -> Callable[[], None]:
    """Return the command line of a stage that names its own words to the parser it is given; the same exit codes."""
    about = inspect.getmodule(function).__doc__

    @functools.wraps(function)
    def main() -> None:
        name = Path(function.__code__.co_filename).stem
        parser = argparse.ArgumentParser(f"python -m pipelines.{name}", description=about.partition("\n")[0])
        _guarded(lambda _: function(parser))

    return main


def _guarded(run: Callable[[bool], None]) -> None:
    """Run, and end the process with the code of what went wrong; a traceback only for those who asked for one."""
    wanted = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    _settle(Path.cwd())
    from stepladder import interruption

    try:
        with interruption.listening():
            if "DVC_STAGE" in os.environ:
                _end_with_parent()
            run(wanted)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit:
        interruption.requeue()
        raise
    except Exception as error:
        sys.exit(_told(error, wanted))


def _settle(folder: Path) -> None:
    """Work where the command was typed and in its environment, which a worker of a running cluster does not share."""
    os.chdir(folder)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def _end_with_parent() -> None:
    """Be terminated when DVC dies, which would start the stage again beside this one (prctl(2), Linux alone)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(TERMINATED)


def _no_words(function: Callable[[], None]) -> None:
    if sys.argv[1:]:
        from stepladder.errors import ConfigError

        raise ConfigError(f"{' '.join(sys.argv[1:])}: this stage takes no words; edit params.yaml or conf/")
    function()


def _careful(run: Callable[[dict], float | None], config: dict) -> float | None:
    """Run between two looks at the disk: can it be written, is what DVC gives the stage and keeps of it undamaged?"""
    from stepladder import disk, integrity

    disk.require_writable(Path.cwd(), *map(Path, (*WRITTEN, ".dvc/cache")))
    stage = os.environ.get("DVC_STAGE")
    if not stage:
        return run(config)
    integrity.require_inputs(stage)
    result = run(config)
    for line in integrity.drop_damaged(stage):
        print(line, file=sys.stderr, flush=True)
    return result


def _hydra(function: Callable, name: str, wanted: bool) -> None:
    """Check the command line, then let Hydra compose and run, in this process or in those of its launcher."""
    from hydra._internal.utils import get_args_parser

    words = get_args_parser().parse_args()
    composed = _checked(words, name)
    settings = {"hydra.job.name": name}
    if composed:
        settings |= {"hydra.output_subdir": "null", "hydra.run.dir": f"logs/{name}/{words.config_name}"}
    given = {word.split("=")[0] for word in words.overrides}
    options = [word for word in sys.argv if word not in words.overrides]  # argparse wants all overrides in one place
    added = [f"{key}={value}" for key, value in settings.items() if key not in given]
    sys.argv[:] = [*options, *words.overrides, *added]
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # faults come here as they are, and _told says them
    task = functools.partial(_job, function=function, many=words.multirun, wanted=wanted, folder=Path.cwd())
    task = functools.update_wrapper(task, function)
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()


def _job(config, *, function: Callable, many: bool, wanted: bool, folder: Path) -> float | None:
    """Run one job; a fault ends a single run at once, while a grid goes on and fails in the end."""
    from stepladder import compose

    _settle(folder)
    if logging.getLogger().level == logging.INFO:  # as Hydra sets it without hydra.verbose
        logging.getLogger().setLevel(logging.WARNING)  # of others' libraries
        logging.getLogger("stepladder").setLevel(logging.INFO)
    try:
        return _careful(function, compose.plain(config))
    except Exception as error:
        if many and hasattr(error, "status"):  # a pruned trial, which is no fault
            raise
        code = _told(error, wanted)
        if not many:
            raise SystemExit(code) from None
        error.told = code
        raise


def _checked(words, name: str) -> bool:
    """Return whether the config is a composed file; raise ConfigError with all faults of what was typed."""
    from stepladder import typed
    from stepladder.errors import ConfigError

    folder, file = words.config_dir, words.config_name
    if words.config_path or words.experimental_rerun or bool(folder) != bool(file) or (file and words.multirun):
        raise ConfigError("config comes from conf/, or with -cd build -cn <candidate> from one composed file")
    if file:
        typed.check_composed(words.overrides, Path(folder, f"{file}.yaml"), stage=name)
    elif not (words.help or words.hydra_help or words.info or words.shell_completion):
        typed.check(words.overrides, stage=name, many=words.multirun)
    return bool(file)


def _told(error: Exception, wanted: bool) -> int:
    """Print a fault, one line for each of its lines, and return its exit code."""
    if hasattr(error, "told"):
        return error.told
    if wanted:
        traceback.print_exception(error)
    from stepladder import disk

    error = disk.fault(error) or error
    code, text = _code(error), str(error) or type(error).__name__
    if code == 1:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        text = f"{type(error).__name__} at {where}: {text}. This is a bug; HYDRA_FULL_ERROR=1 shows where it comes from"
    lines = text.splitlines() if code in (2, 4) else [" ".join(text.split())]
    for line in lines:
        print(f"error[{code}] {line}", file=sys.stderr)
    return code


def _code(error: Exception) -> int:
    """Return the exit code of a fault, also of those that Hydra and the machine raise."""
    if isinstance(getattr(error, "code", None), int) and type(error).__module__ == "stepladder.errors":
        return error.code
    library = type(error).__module__.partition(".")[0]
    if library in ("hydra", "omegaconf"):
        return 2
    if library in ("mlflow", "optuna", "requests", "sqlalchemy"):
        return 6
    return 5 if isinstance(error, MemoryError) else 1

"""Fingerprints: sha256 of the code behind a name in the config, so that DVC re-runs what a changed plug-in touches.

A fingerprint covers a module and all of stepladder it imports, also inside functions; nothing is imported to know it.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from stepladder import schema
from stepladder.errors import ConfigError, unknown

# They decide where things are written and how config is checked, and change no output byte.
OUTSIDE = {
    "by_hand", "compose", "dialects", "disk", "errors", "exporter", "fingerprints", "latency", "progress", "registry",
    "runs", "schema", "speech", "strict", "sync", "tracking",
}  # fmt: skip


def plugin(folder: str, name: str | None, package: Path = schema.PACKAGE) -> str | None:
    """Return the fingerprint of `<folder>/<name>.py`, None without a name.

    Raises ConfigError with the nearest name where there is no such file.
    """
    if name is None:
        return None
    if name not in (known := schema.names(folder, package)):
        raise ConfigError(f"src/stepladder/{folder}/: {unknown('file', name, known)}")
    digest = hashlib.sha256()
    for module in sorted(closure(package / folder / f"{name}.py", package)):
        digest.update(module.relative_to(package).as_posix().encode() + b"\0" + module.read_bytes() + b"\0")
    return digest.hexdigest()


def metrics(task: str, package: Path = schema.PACKAGE) -> dict[str, str]:
    """Return {metric: fingerprint} of the metrics whose constant TASK is the task or names it among others."""
    fitting = [
        name for name in schema.names("metrics", package) if task in schema.constant("metrics", name, "TASK", package)
    ]
    return {name: plugin("metrics", name, package) for name in fitting}


def closure(path: Path, package: Path = schema.PACKAGE) -> set[Path]:
    """Return the module and every module of stepladder that it imports, directly or not."""
    found, waiting = set(), [path]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imports(module, package)
    return found


def _imports(path: Path, package: Path) -> list[Path]:
    """Return the files of stepladder that a module's imports run, packages on the way included."""
    modules = {Path(*parts[:end]) for parts in _imported(path.read_bytes()) for end in range(1, len(parts) + 1)}
    files = [package / file for module in modules for file in (module.with_suffix(".py"), module / "__init__.py")]
    return [file for file in files if file.is_file()]


@cache
def _imported(code: bytes) -> set[tuple[str, ...]]:
    """Return ("levels", "prompt") for `from stepladder.levels import prompt`, wherever in the code it stands."""
    names = []
    for node in ast.walk(schema.parsed(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("stepladder.")]
    return {tuple(inner) for _, *inner in parts if inner[0] not in OUTSIDE}

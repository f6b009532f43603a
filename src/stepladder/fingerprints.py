"""Fingerprints: sha256 of the code behind a name in the config, so that DVC re-runs what a changed plug-in touches.

A fingerprint covers a module and all of stepladder it imports, also inside functions; nothing is imported to know it.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from stepladder import schema
from stepladder.errors import ConfigError, unknown

# They decide where things are written and how config is checked, and change no output byte.
OUTSIDE = {
    "by_hand",
    "compose",
    "dialects",
    "errors",
    "fingerprints",
    "progress",
    "registry",
    "runs",
    "schema",
    "strict",
    "sync",
    "tracking",
}


def plugin(folder: str, name: str | None, package: Path = schema.PACKAGE) -> str | None:
    """Return the fingerprint of `<folder>/<name>.py`, None without a name.

    Raises ConfigError with the nearest name where there is no such file.
    """
    if name is None:
        return None
    if name not in (known := schema.files(folder, package)):
        raise ConfigError(f"src/stepladder/{folder}/: {unknown('file', name, known)}")
    return of(package / folder / f"{name}.py", package)


def metrics(task: str, package: Path = schema.PACKAGE) -> dict[str, str]:
    """Return {metric: fingerprint} of the metrics of a task."""
    names = [name for name in schema.files("metrics", package) if task in tasks(package / "metrics" / f"{name}.py")]
    return {name: plugin("metrics", name, package) for name in names}


def tasks(path: Path) -> tuple[str, ...]:
    """Return the tasks that a metric's module names in its constant TASK (one text, or several)."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and any(getattr(name, "id", "") == "TASK" for name in node.targets):
            value = ast.literal_eval(node.value)
            return (value,) if isinstance(value, str) else tuple(value)
    return ()


def of(path: Path, package: Path = schema.PACKAGE) -> str:
    """Return the fingerprint of a module: its name and bytes and those of its import closure, in order of name."""
    digest = hashlib.sha256()
    for module in sorted(closure(path, package)):
        digest.update(module.relative_to(package).as_posix().encode() + b"\0" + module.read_bytes() + b"\0")
    return digest.hexdigest()


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
    names = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [module for name in names for module in _modules(name, package)]


def _modules(name: str, package: Path) -> Iterator[Path]:
    """Yield the files that `import name` runs, packages on the way included."""
    first, *parts = name.split(".")
    if first != "stepladder" or (parts and parts[0] in OUTSIDE):
        return
    for end in range(len(parts)):
        folder = package.joinpath(*parts[: end + 1])
        for path in (folder.with_suffix(".py"), folder / "__init__.py"):
            if path.is_file():
                yield path


def _tree(path: Path) -> ast.Module:
    return _parse(path, path.stat().st_mtime_ns)


@cache
def _parse(path: Path, _stamp: int) -> ast.Module:
    return ast.parse(path.read_bytes())

"""faults: one module a family, one function a group: x8(stack) injects X8 into a stack and returns an Outcome.

The first line of a function's docstring is the fault as people read it. Numbers are those of the first measurement of
the plain libraries (2026-11-22); X11 was its recipe, no fault.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable


def groups() -> dict[str, Callable]:
    """Return {"X1": function, ...} of every module here, in the order of their numbers."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    named = {name: value for module in modules for name, value in vars(module).items() if re.fullmatch(r"x\d+", name)}
    return {name.upper(): named[name] for name in sorted(named, key=lambda name: int(name[1:]))}

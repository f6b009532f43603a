"""Templates: what the words of a prompt may hold, and where a label's share without content can be taken off."""

import string

from stepladder.errors import unknown
from stepladder.schema import Problem

CONTENT_FREE = "inputs without content tell how a prompted classification leans; {} is none, leave it out"


def problems(found: dict) -> list[Problem]:
    """Return what is wrong with a prompt: braces hold known fields alone, and the record is shown."""
    prompt, task, level = found["prompt"], found["task"], found["level"]["name"]
    if not prompt:
        return []
    labelled = task["name"] == "classification"
    template = _fields("prompt.template", prompt.get("template", "{input}"), {"answer_name", "input", "input_name"})
    instruction = _fields("task.instruction", task.get("instruction") or "", {"labels"} if labelled else set())
    other = prompt.get("content_free") and not (labelled and level == "prompt")
    told = CONTENT_FREE.format(f"level {level} with task {task['name']}")
    return [*template, *instruction, *([("prompt.content_free", told)] if other else [])]


def _fields(key: str, text: str, known: set[str]) -> list[Problem]:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field is not None]
    except ValueError as error:
        return [(key, f"{text!r} is no template ({error}); double braces mean a brace")]
    hidden = "input" in known and "input" not in fields
    blind = [(key, "the template never shows the record; it needs {input}")] if hidden else []
    return [(key, unknown("field", field, known)) for field in fields if field not in known] or blind

"""A JSONL file of conversations: a line holds the messages of user and assistant in turn, the assistant's last.

{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}], "id": "c7"}
The last answer is the target, all before it the input; id, source, group and timestamp may stand beside.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from stepladder import conversations
from stepladder.errors import DataError
from stepladder.sources import _strict

BESIDE = ("id", "source", "group", "timestamp")


def read(path: Path, *, messages: str) -> Iterator[dict]:
    """Yield a record for each line; `messages` is the key of the list. Raises DataError naming file:row."""
    for number, line in enumerate(_strict.load(path).rstrip("\r\n").split("\n"), start=1):
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}:{error.colno}: not JSON ({error.msg})") from None
        said = row.get(messages) if isinstance(row, dict) else None
        if not isinstance(said, list) or len(said) < 2:
            raise DataError(
                f"{place}: no list {messages!r} of two messages or more; data.options.messages names its key"
            )
        yield _record(said, place) | {key: str(row[key]) for key in BESIDE if row.get(key) is not None}


def _record(said: list, place: str) -> dict[str, str]:
    *before, last = said
    try:
        conversation = conversations.of(before)
        conversations.of([*before, last, {"role": "user", "content": "."}])  # the answer is one
    except ValueError as error:
        raise DataError(f"{place}: {error}") from None
    answer = _strict.field(last["content"], f"{place}:message {len(said)}")
    return {"input": _strict.field(str(conversation), place), "target": answer}

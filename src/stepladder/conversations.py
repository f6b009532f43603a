"""Conversations: several turns of user and assistant as one text of a record, the JSON of the usual messages.

'[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]'
A message of the system may stand first; the last one is the user's, and the record's target its answer. Any other text
is a user's first message. This file travels with a served model and runs without Stepladder.
"""

import json
from dataclasses import dataclass

ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Conversation:
    """What was said: the system's message, None without one, the answered turns, and what awaits an answer."""

    system: str | None
    turns: tuple[tuple[str, str], ...]  # (user, assistant)
    last: str

    def __str__(self) -> str:
        said = [("system", self.system)] if self.system is not None else []
        said += [pair for turn in self.turns for pair in zip(ROLES, turn, strict=True)] + [("user", self.last)]
        return json.dumps([{"role": role, "content": content} for role, content in said], ensure_ascii=False)

    def before(self, number: int) -> "Conversation":
        """Return the conversation as it stood when the answer of a turn, counted from 0, was awaited."""
        return Conversation(self.system, self.turns[:number], self.turns[number][0])

    def asking(self, last: str) -> "Conversation":
        """Return the conversation with another last question and no answered turn."""
        return Conversation(self.system, (), last)

    def recent(self, number: int) -> "Conversation":
        """Return the conversation with its last so many answered turns alone."""
        return Conversation(self.system, self.turns[len(self.turns) - number :], self.last)


def read(text: str) -> Conversation:
    """Return the conversation that a text says; one that is no list of messages is a user's first message."""
    try:
        messages = json.loads(text) if text.startswith("[{") else None
        return of(messages) if messages else Conversation(None, (), text)
    except ValueError:
        return Conversation(None, (), text)


def of(messages: list[dict]) -> Conversation:
    """Return the conversation of messages of which the last one is the user's.

    Raises ValueError for what is none: other keys, other roles or another order.
    """
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise ValueError(f'message {number}: expected {{"role": ..., "content": ...}}')
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise ValueError(f"message {number}: its content is no text, or an empty one")
    said = [(message["role"], message["content"]) for message in messages]
    system = said.pop(0)[1] if said and said[0][0] == "system" else None
    for number, (role, _) in enumerate(said):
        if role != ROLES[number % 2]:
            place = number + 1 + (system is not None)
            raise ValueError(f"message {place}: role {role!r}, expected {ROLES[number % 2]!r}: the two take turns")
    if len(said) % 2 == 0:
        raise ValueError("the last message is to be the user's, and its answer the target")
    words = [content for _, content in said]
    return Conversation(system, tuple(zip(words[:-1:2], words[1::2], strict=True)), words[-1])

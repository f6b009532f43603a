"""Remote: ask a model behind an API, and keep each reply as it comes, so that none is ever paid for twice.

{"asked": "5f0c...", "text": "positive", "fault": null, "top": null, "read": 61, "written": 2, "seconds": 0.41}
A line a reply in state/replies/<server>.jsonl, keyed by the hash of what was asked. The tongue is that of OpenAI's Chat
Completions (https://platform.openai.com/docs/api-reference/chat), which vLLM, llama.cpp, Ollama, `transformers serve`
speak as well. What is too much for the server is asked again after a while; redirects are not followed.
"""

import contextlib
import hashlib
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TextIO

import requests

from stepladder import addresses, store
from stepladder.errors import BudgetError, RemoteError

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses that say: later
LONGEST_S, MOST_S = 8.0, 120.0  # between two attempts where the server names no time, and where it does
SPENT = "insufficient_quota"  # a 429 that no waiting mends
KINDS = ("prompt", "completion")  # of tokens, read and written
FILTERED = "content_filter"  # a 400 that concerns one text alone
SILENT_S = 20  # at most between two words of how far it is
MAX_CHARACTERS = 100_000  # of a reply that are kept
_USED: dict[str, dict[str, dict]] = {}  # what this process has used, {model id: {asked: reply}}


@dataclass(frozen=True)
class Server:
    """Where a model is asked, and how; `limits`: concurrency, requests_per_minute, timeout_s, retries, max_tokens."""

    url: str
    id: str
    key: str | None  # the variable of the environment that holds the key
    private: bool
    options: dict
    limits: dict

    @property
    def address(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"

    def body(self, chat: list[dict]) -> dict:
        """Return what is sent for a chat, a list of {"role", "content"}."""
        return {"model": self.id, "messages": chat, **self.options}


@dataclass
class _Line:
    """What the threads that ask share: the session, what came, its end, and when the next request may go."""

    server: Server
    session: requests.Session
    file: TextIO
    rows: Iterator[tuple[str, list[dict]]]
    news: SimpleQueue = field(default_factory=SimpleQueue)  # something for each reply, and for what ended the work
    found: dict[str, dict] = field(default_factory=dict)
    spent: int = 0  # tokens
    fault: Exception | None = None  # the first that ended it
    ended: threading.Event = field(default_factory=threading.Event)
    free: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, key: str, reply: dict) -> None:
        """Bring a reply to the disk before its thread asks again; the write is one, so that no two mix their lines."""
        with self.lock:
            self.file.write(json.dumps({"asked": key, **reply}) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.found[key], self.spent = reply, self.spent + reply["read"] + reply["written"]

    @property
    def width(self) -> int:
        return self.server.limits["concurrency"]

    def next(self) -> tuple[str, list[dict]] | None:
        """Return what is to be asked next, None where nothing is left."""
        with self.lock:
            return next(self.rows, None)

    def wait_turn(self) -> None:
        """Wait until requests_per_minute lets another request go."""
        if rate := self.server.limits["requests_per_minute"]:
            with self.lock:
                turn = max(time.monotonic(), self.free)
                self.free = turn + 60 / rate
            self.pause(turn - time.monotonic())

    def pause(self, seconds: float) -> None:
        """Sleep, unless the work ends; then CancelledError."""
        if self.ended.wait(max(0.0, seconds)):
            raise CancelledError


def ask(server: Server, chats: list[list[dict]], *, say: Callable = print) -> list[dict]:
    """Return the reply to each chat, in their order; only those are asked that no earlier process was answered.

    A reply: text (None where there is none, and `fault` says why), top (the likeliest first tokens {token:
    log-probability}, None where they were not asked for), read and written (tokens), seconds.
    Raises ConfigError for an address or a key, RemoteError where the server does not answer, BudgetError where
    limits.max_tokens are used and rows are left; what was answered until then is kept.
    """
    asked = [_digest(server.body(chat)) for chat in chats]
    kept = dict(_kept(server))
    missing = {key: chat for key, chat in zip(asked, chats, strict=True) if key not in kept}
    if missing:
        say(f"{server.id}: {len(missing):,} of {len(chats):,} rows to ask, the others are answered", flush=True)
        kept |= _fetched(server, missing, say)
    _USED.setdefault(server.id, {}).update({key: kept[key] for key in asked})
    return [kept[key] for key in asked]


def used() -> dict[str, dict[str, int]]:
    """Return {model id: {requests, input_tokens, output_tokens}} of the replies that this process used, each once."""
    return {
        model: {
            "requests": len(replies),
            "input_tokens": sum(reply["read"] for reply in replies.values()),
            "output_tokens": sum(reply["written"] for reply in replies.values()),
        }
        for model, replies in _USED.items()
    }


def _fetched(server: Server, missing: dict[str, list[dict]], say: Callable) -> dict[str, dict]:
    """Ask what is missing, some at a time; after a fault what is on its way is waited for and kept.

    The threads are daemons: a process that is told to end does not wait for a silent server.
    """
    most, spoken = server.limits["max_tokens"] or math.inf, time.monotonic()
    with _opened(server) as session, _file(server).open("a") as file:
        file.write("\n")  # ends the half line that a killed process may have left
        line = _Line(server, session, file, iter(missing.items()))
        threads = [threading.Thread(target=_work, args=(line,), daemon=True) for _ in range(line.width)]
        for thread in threads:
            thread.start()
        try:
            while len(line.found) < len(missing):
                line.news.get()
                if line.fault:
                    raise line.fault
                if time.monotonic() - spoken > SILENT_S:
                    spoken = time.monotonic()
                    say(f"{server.id}: {len(line.found):,} of {len(missing):,} rows, {line.spent:,} tokens", flush=True)
                if line.spent >= most and len(line.found) < len(missing):
                    raise BudgetError(f"model.limits.max_tokens={most}: {line.spent:,} tokens used")
        except (RemoteError, BudgetError) as error:
            line.ended.set()
            for thread in threads:
                thread.join()
            told = f"{len(line.found):,} of {len(missing):,} rows were answered and are kept"
            raise type(error)(f"{error}; {told}; the same command asks on") from None
        finally:
            line.ended.set()
    return line.found


def _work(line: _Line) -> None:
    """Ask one chat after the other until none is left, or the work ends."""
    try:
        while not line.ended.is_set() and (item := line.next()):
            _one(line, *item)
            line.news.put(None)
    except CancelledError:
        pass
    except Exception as error:
        line.fault = line.fault or error
        line.ended.set()
        line.news.put(None)


def _one(line: _Line, key: str, chat: list[dict]) -> None:
    """Ask one chat, again as often as limits.retries says, and keep the reply."""
    server, retries = line.server, line.server.limits["retries"]
    for attempt in range(retries + 1):
        line.wait_turn()
        line.pause(0)
        started = time.monotonic()
        fault, wait = None, min(LONGEST_S, 0.5 * 2**attempt) * random.uniform(0.75, 1.0)
        try:
            options = {"timeout": server.limits["timeout_s"], "allow_redirects": False}
            answer = line.session.post(server.address, json=server.body(chat), **options)
        except requests.RequestException as error:
            fault = f"does not answer ({type(error).__name__})"
        else:
            said = _said(answer)
            if answer.status_code == 200 or said.get("code") == FILTERED:
                reply = _reply(answer.content) if answer.status_code == 200 else _no_reply("the server's filter has it")
                return line.keep(key, reply | {"seconds": round(time.monotonic() - started, 3)})
            fault = _fault(server, answer.status_code, said)
            wait = _asked_for(answer.headers.get("Retry-After"), wait)
            if answer.status_code not in AGAIN or said.get("code") == SPENT or wait > MOST_S:
                break
        if attempt < retries:
            line.pause(wait)
    raise RemoteError(f"{server.url}: {fault}")


def _reply(content: bytes) -> dict:
    """Return what a body says, read as strictly as the tongue has it; anything else is no answer, with its reason."""
    try:
        body = json.loads(content.decode("utf-8"))
        choice, usage = body["choices"][0], body.get("usage") or {}
        text, tokens = choice["message"]["content"], [int(usage.get(f"{each}_tokens", 0)) for each in KINDS]
    except (ValueError, LookupError, TypeError, AttributeError):
        return _no_reply(f"no reply of this form: {content[:60]!r}")
    found = dict(zip(("read", "written"), tokens, strict=True))
    if not isinstance(text, str) or not text.strip():
        return _no_reply("an empty reply") | found
    return {"text": text[:MAX_CHARACTERS], "fault": None, "top": _top(choice), **found}


def _top(choice: dict) -> dict[str, float] | None:
    try:
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        return {each["token"]: float(each["logprob"]) for each in first}
    except (LookupError, TypeError, ValueError):
        return None


def _no_reply(reason: str) -> dict:
    return {"text": None, "fault": reason, "top": None, "read": 0, "written": 0}


def _kept(server: Server) -> Iterator[tuple[str, dict]]:
    """Yield the replies that are kept, but those without an answer: they are asked for again."""
    if _file(server).is_file():
        for line in filter(None, _file(server).read_text().split("\n")):
            with contextlib.suppress(ValueError):  # half a line, which a killed process has left
                reply = json.loads(line)
                if reply["text"] is not None:
                    yield reply.pop("asked"), reply


def _file(server: Server):
    folder = store.root() / "state" / "replies"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{_digest([server.address, server.id])[:16]}.jsonl"


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _opened(server: Server) -> requests.Session:
    addresses.require(server.url, private=server.private)
    return addresses.session(server.key, width=server.limits["concurrency"])


def _said(answer: requests.Response) -> dict:
    """Return what a refusal says of itself: code and message, as far as it does."""
    try:
        said = answer.json()["error"]
        return said if isinstance(said, dict) else {"message": str(said)}
    except (ValueError, LookupError, TypeError):
        return {}


def _fault(server: Server, status: int, said: dict) -> str:
    """Return why a server refuses; its words are shown only where they do not repeat a key."""
    if status in (401, 403):
        return f"refuses the key in {server.key or 'no variable (model.key is null)'} ({status})"
    if 300 <= status < 400:
        return f"points elsewhere ({status}), where neither key nor texts are sent; set model.url to the place itself"
    if said.get("code") == SPENT:
        return f"says that what is paid for is used up ({status})"
    words = "".join(letter for letter in str(said.get("message") or "")[:200] if letter.isprintable())
    return f"answers {status}{f' ({words})' if words else ''}"


def _asked_for(header: str | None, otherwise: float) -> float:
    """Return the seconds that Retry-After asks for; dates, which some servers send, count as nothing said."""
    try:
        return max(0.0, float(header))
    except (TypeError, ValueError):
        return otherwise

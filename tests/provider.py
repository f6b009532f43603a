"""A provider of chat completions on loopback, for tests: it counts what it is asked, and fails as it is told.

with Provider(lambda chat: "good") as provider: ...; provider.faults = ["429", "reset"]
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSALS = {  # fault -> status, headers, error
    "429": (429, {"Retry-After": "0.2"}, {"code": "rate_limit_exceeded", "message": "slow down"}),
    "429 without a time": (429, {}, {"code": "rate_limit_exceeded", "message": "slow down"}),
    "429 for an hour": (429, {"Retry-After": "3600"}, {"message": "slow down"}),
    "429 spent": (429, {}, {"code": "insufficient_quota", "message": "no money"}),
    "500": (500, {}, {"message": "oh"}),
    "503": (503, {}, {"message": "busy"}),
    "400": (400, {}, {"message": "max_tokens is not supported"}),
    "401": (401, {}, {"message": "Incorrect API key provided: sk-secret-123"}),
    "302": (302, {"Location": "http://169.254.169.254/latest/meta-data"}, {}),
    "filtered": (400, {}, {"code": "content_filter", "message": "no"}),
}


class Provider:
    """Answers with `say(chat)`, a text or a whole body (bytes); `faults` are what the next requests meet, in order."""

    def __init__(self, say: Callable[[list[dict]], str | bytes], *, top: Callable | None = None, delay_s: float = 0.0):
        self.say, self.top, self.delay_s = say, top, delay_s
        self.asked, self.headers, self.faults, self.times = [], [], [], []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"provider": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that was killed

    def __enter__(self) -> "Provider":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: Provider

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.provider.lock:
            fault = self.provider.faults.pop(0) if self.provider.faults else None
            self.provider.times.append(time.monotonic())
            if fault is None:
                self.provider.asked.append(body)
                self.provider.headers.append(dict(self.headers))
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self.connection.close()
        if fault == "late":
            time.sleep(1.5)
        if fault in REFUSALS:
            status, headers, error = REFUSALS[fault]
            return self._send(status, json.dumps({"error": error}).encode(), headers)
        time.sleep(self.provider.delay_s)
        said = self.provider.say(body["messages"])
        return self._send(200, said if isinstance(said, bytes) else self._completion(said, body), {})

    def _completion(self, text: str, body: dict) -> bytes:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if body.get("logprobs") and self.provider.top:
            first = [{"token": token, "logprob": value} for token, value in self.provider.top(body["messages"])]
            choice["logprobs"] = {"content": [{"token": first[0]["token"], "top_logprobs": first}]}
        read = sum(len(message["content"].split()) for message in body["messages"])
        usage = {"prompt_tokens": read, "completion_tokens": len(text.split()), "total_tokens": read}
        return json.dumps({"choices": [choice], "usage": usage}).encode()

    def _send(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

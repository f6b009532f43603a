"""A proxy on loopback that forwards to a server until it is told to fail: a server that is down, ill, slow or silent.

with Proxy(port) as proxy: ...; proxy.fail("429")
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections import Counter

FAULTS = ("down", "500", "503", "429", "latency", "reset", "half_open")
LATENCY_S = 30.0
SIZE = 65536  # bytes read at once
REFUSAL = "HTTP/1.1 {} Fault\r\nContent-Type: text/plain\r\nRetry-After: 3600\r\nContent-Length: 5\r\n\r\nfault"


class Proxy:
    """Forwards byte for byte while `fault` is None; `seen` counts the connections under each fault.

    down: refused. 500, 503, 429: that answer, with Retry-After of an hour. latency: the request arrives 30 s late.
    reset: the request is forwarded and the connection reset within the reply's body. half_open: never an answer.
    `cut`, a number of bytes: the connection is reset when so much of a request has come.
    """

    def __init__(self, port: int):
        self.upstream, self.fault, self.cut, self.seen = port, None, None, Counter()
        self.held: list[socket.socket] = []
        self.lock = threading.Lock()
        self.listener = self._listen(0)
        self.port = self.listener.getsockname()[1]

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_) -> None:
        self.fail("down")

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail(self, fault: str | None) -> None:
        """Begin a fault, also on the connections that are open, or end it."""
        assert fault in (None, *FAULTS)
        if self.fault == "down" != fault:
            self.listener = self._listen(self.port)
        with self.lock:  # a connection is either held, and ended here, or begins under the fault
            self.fault = fault
        for held in [*self.held, *([self.listener] if fault == "down" else [])] if fault else []:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        if fault == "down":
            self.listener.close()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        return listener

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                with self.lock:
                    fault = self.fault
                    self.seen[fault] += 1
                    self.held.append(client)
                threading.Thread(target=self._answer, args=(client, fault), daemon=True).start()

    def _answer(self, client: socket.socket, fault: str | None) -> None:
        with contextlib.suppress(OSError), client:
            if fault == "down":
                return
            if fault in ("500", "503", "429"):
                client.recv(SIZE)
                client.sendall(REFUSAL.format(fault).encode())
            elif fault == "half_open":
                while client.recv(SIZE):
                    pass
            else:
                time.sleep(LATENCY_S if fault == "latency" else 0)
                with socket.create_connection(("127.0.0.1", self.upstream)) as server:
                    self.held.append(server)
                    self._forward(client, server, fault)

    def _forward(self, client: socket.socket, server: socket.socket, fault: str | None) -> None:
        sent = 0
        while True:
            ready, _, _ = select.select([client, server], [], [])
            source, target = (client, server) if client in ready else (server, client)
            data = source.recv(SIZE)
            if not data:
                return
            sent += len(data) if source is client else 0
            if self.cut and sent > self.cut:
                target.sendall(data[: self.cut - sent])
                return _reset(client)
            if fault == "reset" and source is server:
                target.sendall(data[: len(data) * 3 // 4])
                return _reset(client)
            target.sendall(data)


def _reset(held: socket.socket) -> None:
    """Close with RST instead of FIN: SO_LINGER of no seconds (socket(7))."""
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    held.close()

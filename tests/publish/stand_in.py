"""A small threaded web server for tests, with failures on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that match: a status, or a cut connection (None)."""

    method: str
    part: str
    status: int | None
    times: int = 1


@dataclass
class StandIn:
    """Answers every request with ``answer(request) -> (status, value)``, unless a fault is due."""

    answer: Callable[[Request], tuple[int, Any]]
    token: str
    seen: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    address: str = ""

    def count(self, method: str, part: str = "") -> int:
        return sum(1 for seen, path in self.seen if seen == method and part in path)

    def due(self, request: Request) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == request.method and fault.part in request.path:
                fault.times -= 1
                return fault
        return None


@contextmanager
def serve(stand_in: StandIn) -> Iterator[StandIn]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            with lock:
                stand_in.seen.append((self.command, self.path))
                head = Request(self.command, self.path, b"", dict(self.headers.items()))
                fault = stand_in.due(head)
            length = int(self.headers.get("Content-Length") or 0)
            if fault is not None and fault.status is None:
                self.rfile.read(min(length, 1000))
                self.close_connection = True
                self.connection.close()
                return
            body = self.rfile.read(length)
            if fault is not None:
                status, value = fault.status or 500, {"message": f"broken, with {self.headers.get('Authorization')}"}
            else:
                with lock:
                    status, value = stand_in.answer(Request(self.command, self.path, body, head.headers))
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 302:
                self.send_header("Location", value["location"])
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = respond

        def log_message(self, format: str, *arguments: object) -> None:
            return

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, ValueError):  # the connection was cut on purpose
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)

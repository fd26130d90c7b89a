"""Stand-ins on loopback for what tracker.notify tells: a webhook and a mail server."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """Keeps the path and the body of each request, and answers as it is told."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.answer: dict[str, Any] = {"ok": True, "errcode": 0, "code": 0}
        self.released = threading.Event()
        self.released.set()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.received.append((self.path, json.loads(body)))
                webhook.released.wait()
                content = json.dumps(webhook.answer).encode()
                self.send_response(webhook.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()


class MailServer:
    """Takes mail without encryption; keeps the login, the receivers and the text of each."""

    def __init__(self) -> None:
        self.logins: list[list[str]] = []
        self.receivers: list[str] = []
        self.mails: list[bytes] = []
        self.refuses = False
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 ready\r\n")
                for line in self.rfile:
                    self.wfile.write(server.reply(line.strip()) + b"\r\n")
                    if line.upper().startswith(b"DATA"):
                        server.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")))
                        self.wfile.write(b"250 ok\r\n")

        self._tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._tcp.daemon_threads = True
        self.port = self._tcp.server_address[1]
        threading.Thread(target=self._tcp.serve_forever, args=(0.01,), daemon=True).start()

    def reply(self, line: bytes) -> bytes:
        """The answer to a line of the client; RFC 5321 and 4954."""
        verb = line.split(b" ")[0].upper()
        if verb == b"EHLO":
            return b"250-loopback\r\n250-8BITMIME\r\n250 AUTH PLAIN"
        if verb == b"AUTH":
            self.logins.append(base64.b64decode(line.split()[-1]).decode().split("\0")[1:])
            return b"535 refused" if self.refuses else b"235 welcome"
        if verb == b"RCPT":
            self.receivers.append(line.decode().partition(":")[2].strip("<>"))
        if verb == b"DATA":
            return b"354 go on"
        if verb == b"QUIT":
            return b"221 bye"
        return b"250 ok"

    def stop(self) -> None:
        self._tcp.shutdown()
        self._tcp.server_close()


@contextmanager
def stopped(server: Any) -> Iterator[Any]:
    """`server`, which is stopped at the end."""
    try:
        yield server
    finally:
        server.stop()

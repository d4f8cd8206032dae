"""Not vLLM: a stand-in for its server in tests, started with the same command line.

It has the paths that the adapter uses, says one token after the other, and does what its prompts say. It proves nothing about
vLLM itself.
"""

import argparse
import itertools
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

UNHEALTHY = "FAKE_VLLM_UNHEALTHY"
"""Variable with a file: while it exists, the server is not healthy."""
DIES_AT_START = "FAKE_VLLM_DIES"
FOR_EVER = 10_000_000


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("model")
    serve.add_argument("--served-model-name", required=True)
    serve.add_argument("--uds", required=True)
    serve.add_argument("--load-format", required=True, choices=["safetensors"])
    serve.add_argument("--allowed-media-domains", required=True, nargs="+")
    serve.add_argument("--max-num-seqs", type=int)
    serve.add_argument("--max-model-len", type=int)
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    running = 0
    given: argparse.Namespace

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(503 if Path(os.environ.get(UNHEALTHY, "/none")).exists() else 200, b"")
        elif self.path == "/metrics":
            own = f'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{engine="0"}} {Handler.running}.0\n'
            self.answer(200, f"# TYPE process_cpu_seconds counter\nprocess_cpu_seconds 1.0\n{own}".encode())
        elif self.path == "/v1/models":
            self.answer(200, json.dumps({"data": [{"id": self.given.served_model_name}]}).encode())
        else:
            self.answer(404, b"{}")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = asked.get("prompt", "")
        if prompt == "die":
            print("\x1b[31m(Engine) ERROR ValueError: no room for the cache\x1b[0m\nsee the root cause above", flush=True)
            os._exit(3)
        if prompt == "told":
            told = {
                "argv": sys.argv[1:],
                "pid": os.getpid(),
                "environment": dict(os.environ),
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "files": sorted(path.name for path in Path(self.given.model).iterdir()),
            }
            self.answer(200, json.dumps(told).encode())
        elif asked.get("stream"):
            self.stream(prompt, asked["max_tokens"])
        else:
            text = "".join(self.tokens(prompt, asked["max_tokens"]))
            self.answer(200, json.dumps({"choices": [{"text": text}]}).encode())

    def stream(self, prompt: str, count: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in itertools.chain(self.tokens(prompt, count), ("[DONE]",)):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def tokens(self, prompt: str, count: int) -> Iterator[str]:
        """One after the other, until nobody waits for them; where the prompt is a path, only the first before it exists."""
        with self.lock:
            Handler.running += 1
        try:
            for number in range(count):
                yield f"{prompt}{number} "
                time.sleep(0.005)
                while Path(prompt).is_absolute() and not Path(prompt).exists():
                    time.sleep(0.005)
                if select.select([self.connection], [], [], 0)[0]:
                    raise ConnectionAbortedError
        finally:
            with self.lock:
                Handler.running -= 1

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.socket.accept()[0], ("", 0)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away."""


if __name__ == "__main__":
    if os.environ.get(DIES_AT_START):
        sys.exit(f"RuntimeError: {os.environ[DIES_AT_START]}")
    Handler.given = options()
    UnixServer(Handler.given.uds, Handler).serve_forever()

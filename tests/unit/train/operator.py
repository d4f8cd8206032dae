"""The operator as launchers see it: collects reports, opens the barrier, raises attempts, goes away."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from modelmill.contract import codec, report
from modelmill.contract.report import Reply, Report


class FakeOperator:
    def __init__(self, *, workers: int) -> None:
        self.workers, self.attempt, self.stop, self.up = workers, 0, False, True
        self.latest: dict[int, Report] = {}
        self.tokens: set[str | None] = set()
        operator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not operator.up or self.path != "/v1/report":
                    self.send_error(503)
                    return
                operator.tokens.add(self.headers["Authorization"])
                answer = codec.dumps(operator.reply(codec.loads(Report, body))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def reply(self, one: Report) -> Reply:
        self.latest[one.index] = one
        reports = [self.latest.get(index) for index in range(self.workers)]
        ready = all(r is not None and r.attempt == self.attempt and r.state != report.FAILED for r in reports)
        master = self.latest.get(0)
        if not ready or master is None:
            return Reply(attempt=self.attempt, stop=self.stop)
        return Reply(attempt=self.attempt, go=True, stop=self.stop, master_address=master.address, master_port=master.port)

    def wait(self, what: str, holds: Callable[[dict[int, Report]], bool], *, seconds: float = 20.0) -> dict[int, Report]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = dict(self.latest)
            if len(seen) > 0 and holds(seen):
                return seen
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {what}; latest reports: {self.latest}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

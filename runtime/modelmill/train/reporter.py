"""The launcher's line to the operator: one request a second that carries the report and brings the reply.

It runs in a thread of its own, so that a slow or absent operator never delays the supervision of the ranks: training
goes on without the operator, and the newest report is sent as soon as it can be reached again.
"""

import http.client
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from modelmill.contract import codec
from modelmill.contract.jobfile import ReportTo
from modelmill.contract.report import Reply, Report

TIMEOUT_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 2.0
MAX_REPLY_BYTES = 64 << 10
_COMPLAIN_SECONDS = 30.0


class Unreachable(Exception):
    """No reply this time: connection refused, a standby's 503, a wrong token."""


class Reporter:
    """Sends what `latest()` returns, again and again; replies wait in `replies` with the report they answer."""

    def __init__(self, to: ReportTo, *, token_file: Path, latest: Callable[[], Report], log: Callable[[str], None]) -> None:
        self._to, self._token_file, self._latest, self._log = to, token_file, latest, log
        self.replies: queue.SimpleQueue[tuple[Report, Reply]] = queue.SimpleQueue()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._complained = -_COMPLAIN_SECONDS
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something changed: report now instead of at the next beat."""
        self._wake.set()

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        backoff = 0.1
        while not self._stop.is_set():
            self._wake.clear()
            report = self._latest()
            try:
                self.replies.put((report, self._exchange(report)))
            except (OSError, http.client.HTTPException, codec.ContractError, Unreachable) as error:
                self._disconnect()
                self._complain(error)
                self._stop.wait(backoff)
                backoff = min(MAX_BACKOFF_SECONDS, backoff * 2)
            else:
                backoff = 0.1
                self._wake.wait(self._to.interval_seconds)
        self._disconnect()

    def _exchange(self, report: Report) -> Reply:
        connection = self._connect()
        headers = {"Content-Type": "application/json"}
        # Read each time: the kubelet replaces the token well before it expires.
        if self._token_file.exists():
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        connection.request("POST", f"{urlsplit(self._to.url).path.rstrip('/')}/v1/report", codec.dumps(report), headers)
        response = connection.getresponse()
        body = response.read(MAX_REPLY_BYTES)
        if response.status != http.client.OK:
            raise Unreachable(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
        return codec.from_dict(Reply, json.loads(body))

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            url = urlsplit(self._to.url)
            if url.scheme == "https":
                context = ssl.create_default_context(cadata=self._to.ca)
                self._connection = http.client.HTTPSConnection(
                    url.hostname or "", url.port, timeout=TIMEOUT_SECONDS, context=context
                )
            else:
                self._connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_SECONDS)
        return self._connection

    def _disconnect(self) -> None:
        # Also after a 503: the next connection may reach the operator that leads.
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_SECONDS:
            self._complained = now
            self._log(f"no reply from the operator at {self._to.url} ({error}); training is not affected, trying on")

"""A listening port for HTTP/1.1.

Draining is a property of the port: from then on every answer carries `Connection: close`, while new connections are
still accepted until `stop_accepting`, because endpoints take seconds to leave every proxy's list.
"""

from collections.abc import Callable

from modelmill.serve.connection import Connection
from modelmill.serve.fastpath import FastPath
from modelmill.serve.heads import Heads
from modelmill.serve.http import Handler, Limits
from modelmill.serve.port import ListeningPort


class Listener(ListeningPort[Connection]):
    def __init__(self, handler: Handler, *, limits: Limits, unanswered: Callable[[int], None]) -> None:
        super().__init__(lambda: Connection(self), limits=limits)
        self.handler = handler
        self.heads = Heads()
        self.unanswered = unanswered
        """Told the status of every request that ended before the handler saw it, or because its client went away."""
        self.fast: FastPath | None = None
        self.draining = False

"""Answers that are not an answer: every refusal a client can meet, with its HTTP status and a sentence.

Handlers raise them; the application turns them into `{"error": "..."}`. The sentence names the tensor or field, the
value and what was expected, because the client's developer has nothing else to go by.
"""


class Refusal(Exception):
    """A request that gets no result; `retry_after` is in seconds."""

    status = 500
    retry_after: int | None = None

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status or self.status


class BadRequest(Refusal):
    status = 400


class Unauthorized(Refusal):
    status = 401


class NotFound(Refusal):
    status = 404


class MethodNotAllowed(Refusal):
    status = 405

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class UnsupportedEncoding(Refusal):
    status = 415


class ModelFailed(Refusal):
    """The module itself raised on these rows, also when they were run alone."""

    status = 500


class NotReady(Refusal):
    status = 503
    retry_after = 1


class Overloaded(Refusal):
    status = 503
    retry_after = 1


class Expired(Refusal):
    status = 504

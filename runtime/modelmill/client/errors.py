"""What can go wrong between a client and a server; each class calls for a different reaction."""


class ClientError(Exception):
    """The base of all of them."""


class InferenceError(ClientError):
    """The server answered, and the answer is a refusal: `status` is HTTP's, `message` the server's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Unavailable(ClientError):
    """Nobody was there, or the server had no room (503, 429), each time it was tried; nothing was computed."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        """None: no connection."""
        self.retry_after = retry_after
        """Seconds after which the server asked to come back."""


class TimedOut(ClientError, TimeoutError):
    """No answer within the timeout; whether it was computed is not known."""


class ConnectionLost(ClientError, ConnectionError):
    """The connection broke after the request was sent; whether it was computed is not known, so it was not sent again."""


class BadAnswer(ClientError):
    """The answer is not the Open Inference Protocol's."""

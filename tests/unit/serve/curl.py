"""curl as a client: one that was not written here, and speaks both versions of HTTP to a port without TLS."""

import subprocess

VERSIONS = ["HTTP/1.1", "HTTP/2"]
_OPTIONS = {"HTTP/1.1": "--http1.1", "HTTP/2": "--http2-prior-knowledge"}
_NOTHING_MORE = ["-HContent-Type:", "-HExpect:"]
"""Than what is asked for: curl adds these to a body on its own."""
Answer = tuple[int, bytes, dict[str, str]]
"""Status, content, and header fields by their names in lower case."""


def curl(version: str, method: str, url: str, body: bytes | None = None, *, headers: dict[str, str] | None = None) -> Answer:
    """Raises AssertionError when there is no answer, or one of another version."""
    named = [f"-H{name}: {value}" if value else f"-H{name};" for name, value in (headers or {}).items()]
    sent = ["--data-binary", "@-"] if body is not None else []
    asked = ["--head"] if method == "HEAD" else ["-X", method]
    command = ["curl", "-sS", "-i", "--max-time", "30", _OPTIONS[version], *_NOTHING_MORE, *asked, *named, *sent, url]
    done = subprocess.run(command, input=body or b"", capture_output=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return _answer(version, done.stdout)


def _answer(version: str, content: bytes) -> Answer:
    head, _, rest = content.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    spoken, status = line.split()[:2]
    assert spoken == version
    if status.startswith("1"):
        return _answer(version, rest)
    named = (field.partition(":") for field in fields)
    return int(status), rest, {name.lower(): value.strip() for name, _, value in named}

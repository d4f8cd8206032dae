"""Runs in a pod: sends the HTTP requests of standard input at once, and prints the answers.

A request is {"url", "body" or null, "headers", "ca" or null, "seconds"}; an answer has status 0 when there was none.
"""

import json
import ssl
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ask(wanted: dict[str, Any]) -> dict[str, Any]:
    body = wanted["body"].encode() if wanted["body"] is not None else None
    request = urllib.request.Request(wanted["url"], body, wanted["headers"])
    context = ssl.create_default_context(cadata=wanted["ca"]) if wanted["ca"] else None
    try:
        with urllib.request.urlopen(request, timeout=wanted["seconds"], context=context) as answer:
            return _answer(answer.status, answer)
    except urllib.error.HTTPError as answer:
        return _answer(answer.code, answer)
    except OSError as error:
        return {"status": 0, "headers": {}, "body": f"{type(error).__name__}: {error}"}


def _answer(status: int, answer: Any) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return {"status": status, "headers": headers, "body": answer.read().decode()}


def main() -> None:
    requests = json.load(sys.stdin)
    with ThreadPoolExecutor(len(requests)) as clients:
        json.dump(list(clients.map(ask, requests)), sys.stdout)


if __name__ == "__main__":
    main()

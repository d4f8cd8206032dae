"""How both clients use httpx: the options of a connection pool, and what its replies and exceptions mean."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from modelmill.client.exchange import Loss, NoReply, Reply
from modelmill.client.spares import IDLE_SECONDS


def checked(url: str) -> str:
    """The server's root, without a slash at its end."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url {url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
    root = url.rstrip("/")
    if root.endswith(("/v1", "/v2")):
        raise ValueError(f"url {url!r}: give the server's root, {root[:-3]!r}; the client adds the protocol's paths")
    return root


def options(url: str, *, api_key: str | None, ca: str | Path | None) -> dict[str, Any]:
    """Keyword arguments of httpx.Client and httpx.AsyncClient, for one connection."""
    # Tensors hardly shrink: a server that would compress them for us only loses time.
    headers = {"Accept-Encoding": "identity", "User-Agent": "modelmill"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key has characters that no HTTP header can carry: is there a line break at its end?")
        headers["Authorization"] = f"Bearer {api_key}"
    # Reading the system's authorities takes 20 ms, which a plain connection has no use for; an empty context trusts nobody.
    tls = trust(ca) if ca or url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS)
    return {"base_url": url, "headers": headers, "verify": tls, "limits": limits}


def trust(ca: str | Path | None) -> ssl.SSLContext:
    """Certificates of the system's authorities, or of those in the PEM file `ca`."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca {str(ca)!r} is no file of certificates in PEM: {error}") from error


def reply(answer: httpx.Response) -> Reply:
    return Reply(status=answer.status_code, headers=answer.headers, body=answer.content)


def no_reply(error: httpx.TransportError, *, timeout: float) -> NoReply:
    if isinstance(error, httpx.TimeoutException):
        return NoReply(loss=Loss.TIMED_OUT, text=f"no answer within {timeout:.3g} s")
    if _is_about_trust(error):
        text = f"its certificate is not trusted ({error}); give the authority's file with ca="
        return NoReply(loss=Loss.UNTRUSTED, text=text)
    if isinstance(error, httpx.ConnectError):
        return NoReply(loss=Loss.NEVER_SENT, text=f"no connection: {error}")
    if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return NoReply(loss=Loss.BROKEN, text=f"the connection broke: {error or type(error).__name__}")
    return NoReply(loss=Loss.NEVER_SENT, text=f"nothing could be sent: {error}")  # a proxy that refuses


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False

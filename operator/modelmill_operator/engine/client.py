"""The Kubernetes API with plain dicts: authentication and HTTP session of the official client, none of its models.

Answers are told apart by what they mean to a caller (NotFound, Conflict, Refused, Unavailable), not by number. There are no
retries here: the work queue has them, with back-off for each resource.
"""

import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from modelmill_operator.actions import FIELD_MANAGER, Object
from modelmill_operator.engine.kinds import KINDS, Kind

PAGE = 500
JSON, APPLY, MERGE = "application/json", "application/apply-patch+yaml", "application/merge-patch+json"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class ApiError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class NotFound(ApiError):
    """There is no such object (or kind)."""


class Conflict(ApiError):
    """Someone else was first: the object changed, exists already, or is another incarnation."""


class Refused(ApiError):
    """Asking again will not help until someone changes something: invalid, forbidden, over quota."""


class Unavailable(ApiError):
    """No answer, or none that counts: connection lost, time-out, throttled, server error. Asking again later may help."""


class Client:
    """One HTTP session to one API server."""

    def __init__(self, configuration: Configuration, *, timeout: float) -> None:
        self._configuration = configuration
        self._rest = RESTClientObject(configuration)
        self._timeout = timeout

    @classmethod
    async def connect(cls, *, timeout: float) -> Self:
        return cls(await load_configuration(), timeout=timeout)

    async def close(self) -> None:
        await self._rest.close()

    async def get(self, kind: str, *, namespace: str, name: str, timeout: float | None = None) -> Object:
        return await self._request("GET", KINDS[kind].path(namespace=namespace, name=name), timeout=timeout)

    async def list(self, kind: str, *, namespace: str | None = None, metadata_only: bool = False) -> tuple[list[Object], str]:
        """All objects of a kind that concern us, and the resource version that the list is true for."""
        items: list[Object] = []
        version = ""
        async for page in self._pages(KINDS[kind], namespace=namespace, accept=METADATA if metadata_only else JSON):
            # Items of a list do not say what they are, and an empty list of metadata alone is null.
            items += ({**item, "kind": kind, "apiVersion": KINDS[kind].api_version} for item in page["items"] or ())
            version = page["metadata"]["resourceVersion"]
        return items, version

    async def can_list(self, kind: str, *, namespace: str | None = None) -> None:
        """Raises unless this kind can be listed."""
        await self._request("GET", KINDS[kind].path(namespace=namespace), query={"limit": "1"})

    async def create(self, wanted: Object, *, timeout: float | None = None) -> Object:
        path = KINDS[wanted["kind"]].path(namespace=wanted["metadata"].get("namespace"))
        return await self._request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=wanted, timeout=timeout)

    async def replace(self, wanted: Object, *, timeout: float | None = None) -> Object:
        """PUT: the resourceVersion in the object is the precondition."""
        metadata = wanted["metadata"]
        path = KINDS[wanted["kind"]].path(namespace=metadata["namespace"], name=metadata["name"])
        return await self._request("PUT", path, query={"fieldManager": FIELD_MANAGER}, body=wanted, timeout=timeout)

    async def apply(self, wanted: Object, *, timeout: float | None = None) -> Object:
        metadata = wanted["metadata"]
        path = KINDS[wanted["kind"]].path(namespace=metadata["namespace"], name=metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, query=query, body=wanted, content_type=APPLY, timeout=timeout)

    async def merge(
        self,
        kind: str,
        *,
        namespace: str,
        name: str,
        patch: Object,
        subresource: str | None = None,
        timeout: float | None = None,
    ) -> Object:
        path = KINDS[kind].path(namespace=namespace, name=name, subresource=subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._request("PATCH", path, query=query, body=patch, content_type=MERGE, timeout=timeout)

    async def delete(self, kind: str, *, namespace: str, name: str, uid: str, timeout: float | None = None) -> Object:
        path = KINDS[kind].path(namespace=namespace, name=name)
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid},
            # Jobs keep their pods by default when deleted through the API.
            "propagationPolicy": "Background",
        }
        return await self._request("DELETE", path, body=body, timeout=timeout)

    async def _pages(self, kind: Kind, *, namespace: str | None, accept: str) -> AsyncIterator[Object]:
        query = {"limit": str(PAGE)} | ({"labelSelector": kind.selector} if kind.selector else {})
        while True:
            page = await self._request("GET", kind.path(namespace=namespace), query=query, accept=accept)
            yield page
            if not page["metadata"].get("continue"):
                return
            query["continue"] = page["metadata"]["continue"]

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float | None = None,
    ) -> Object:
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "modelmill-operator"}
        total = self._timeout if timeout is None else timeout
        limits = aiohttp.ClientTimeout(total=total, sock_connect=min(total, 10))
        what = f"{method} {path}"
        try:
            headers |= await authorization(self._configuration)
            response = await self._rest.request(method, url, headers=headers, body=body, _request_timeout=limits)
            data = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{what}: {type(error).__name__} {error}".rstrip()) from error
        if response.status >= 300:
            raise _error(what, response.status, data, response.headers.get("Retry-After"))
        try:
            answer: Object = json.loads(data)
        except ValueError as error:
            raise Unavailable(f"{what}: the answer is not JSON", status=response.status) from error
        return answer


async def load_configuration() -> Configuration:
    """In a pod its service account, else the kubeconfig (KUBECONFIG, ~/.kube/config). Reads the files anew each time."""
    # Not trust_env: for each request aiohttp would look for proxies and passwords in files, in a thread.
    configuration = Configuration(client_session_kwargs={"trust_env": False})
    if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        kube_config.load_incluster_config(client_configuration=configuration)
    else:
        path = os.environ.get("KUBECONFIG") or None
        await kube_config.load_kube_config(config_file=path, client_configuration=configuration)
    return configuration


async def authorization(configuration: Configuration) -> dict[str, str]:
    """The header that says who we are; none where a certificate says it. The token is read anew every minute."""
    token = await configuration.get_api_key_with_prefix("BearerToken")
    return {"Authorization": token} if token else {}


def tls(configuration: Configuration) -> ssl.SSLContext:
    """How the official client verifies the server and shows our certificate."""
    context: ssl.SSLContext = RESTClientObject(configuration).ssl_context
    return context


def _error(what: str, status: int, data: bytes, retry_after: str | None) -> ApiError:
    try:
        answer: Any = json.loads(data)
        message, reason = answer.get("message") or "", answer.get("reason") or ""
    except (ValueError, AttributeError):
        message, reason = data[:200].decode(errors="replace"), ""
    kind = _meaning(status)
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return kind(f"{what}: {status} {message or reason}".rstrip(), status=status, reason=reason, retry_after=seconds)


def _meaning(status: int) -> type[ApiError]:
    if status == 404:
        return NotFound
    if status == 409:
        return Conflict
    # 401 is temporary for us: the token is read again for each request. 410 ends a chunked list that took too long.
    if status in (401, 408, 410, 429) or status >= 500:
        return Unavailable
    return Refused

"""Who sends a report: the API server says which pod a projected token was made for. Answers are kept while the token is young."""

import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from modelmill_operator.engine.client import Client

_POD_NAME = "authentication.kubernetes.io/pod-name"
_ACCOUNT = "system:serviceaccount:"
# A pod deleted in between is told apart by the store; this bounds how long a revoked token is believed.
_TRUST_SECONDS = 300.0
_REFUSAL_SECONDS = 10.0
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """The pod that a token belongs to."""

    namespace: str
    pod: str


class Tokens:
    """Reviews tokens."""

    def __init__(self, client: Client, *, audience: str, clock: Callable[[], float] = time.time) -> None:
        self._client, self._audience, self._clock = client, audience, clock
        self._known: OrderedDict[bytes, tuple[Sender | None, float]] = OrderedDict()

    async def sender(self, token: str) -> Sender | None:
        """The pod behind a token; None when the token is not good for us."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self._clock() < known[1]:
            return known[0]
        sender = await self._review(token)
        now = self._clock()
        until = now + _REFUSAL_SECONDS if sender is None else min(now + _TRUST_SECONDS, _expiry(token))
        self._known[digest] = (sender, until)
        self._known.move_to_end(digest)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return sender

    async def _review(self, token: str) -> Sender | None:
        answer = await self._client.create(
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "metadata": {},
                "spec": {"token": token, "audiences": [self._audience]},
            }
        )
        status = answer.get("status") or {}
        if not status.get("authenticated") or self._audience not in (status.get("audiences") or []):
            return None
        user = status.get("user") or {}
        account, pods = user.get("username", ""), (user.get("extra") or {}).get(_POD_NAME) or []
        if not account.startswith(_ACCOUNT) or len(pods) != 1:
            return None
        return Sender(namespace=account.removeprefix(_ACCOUNT).partition(":")[0], pod=pods[0])


def _expiry(token: str) -> float:
    """When the token ends by its own words; it was verified already. 0 when it does not say."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, IndexError, TypeError):
        return 0.0

"""Watches which version the channel points to now, so that `/load` can tell the operator that it moved.

Nothing is ever loaded because of it: a pod serves the version and digest it was started with.
"""

import asyncio
import logging
from collections.abc import Callable

from modelmill.contract.servicefile import ServiceFile

log = logging.getLogger(__name__)
LOOK_SECONDS = 5.0


def current_version(service: ServiceFile) -> int | None:
    """Reads the registry: blocking, so call it in a thread."""
    from modelmill.artifact.registry import Registry

    channel = Registry(url=service.registry, namespace=service.namespace).channel(service.model, service.channel or "")
    return channel.version if channel else None


async def watch(look: Callable[[], int | None], *, tell: Callable[[int | None], None]) -> None:
    """Tells what it saw, for ever; while the registry cannot be read, the last value stays."""
    trouble = ""
    while True:
        try:
            tell(await asyncio.to_thread(look))
            trouble = ""
        except Exception as error:  # whatever the store's client raises: serving must not depend on it
            if str(error) != trouble:
                trouble = str(error)
                log.warning("the channel cannot be read: %s", error)
        await asyncio.sleep(LOOK_SECONDS)

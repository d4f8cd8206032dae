"""When each channel last got a version from a TrainingJob here, so that services of that channel need not wait to notice.

Publications from elsewhere (`modelmill promote`, another cluster) are seen by the server pods themselves a little later.
"""

from modelmill_operator.actions import Object
from modelmill_operator.engine.kinds import MODEL_SERVICE, TRAINING_JOB, Key, id_of
from modelmill_operator.engine.store import Store

Channel = tuple[str, str, str]
"""Namespace, model, channel."""


class Publications:
    """The newest publication of each channel, as the status of TrainingJobs tells it."""

    def __init__(self) -> None:
        self._newest: dict[Channel, str] = {}

    def note(self, item: Object) -> Channel | None:
        """Takes in a TrainingJob; the channel that it has published to since, if it has."""
        published = (item.get("status") or {}).get("published") or {}
        if item["kind"] != TRAINING_JOB or "time" not in published:
            return None
        channel = (item["metadata"]["namespace"], item["spec"]["model"]["name"], published["channel"])
        if self._newest.get(channel, "") >= published["time"]:
            return None
        self._newest[channel] = published["time"]
        return channel

    def of(self, service: Object) -> str | None:
        """When the channel of a ModelService last got a version; None when that is not known, or it follows none."""
        channel = _channel(service)
        return self._newest.get(channel) if channel else None


def followers(store: Store, channel: Channel) -> list[Key]:
    """The ModelServices that follow the channel."""
    found = store.objects(MODEL_SERVICE, namespace=channel[0])
    return [Key(*id_of(service)) for service in found if _channel(service) == channel]


def _channel(service: Object) -> Channel | None:
    model = service["spec"]["model"]
    return (service["metadata"]["namespace"], model["name"], model["channel"]) if model.get("channel") else None

"""What a search has found, for people and machines: `search.json` beside the variant, and a sentence for the log."""

import json
import math
from dataclasses import asdict
from typing import Any

from modelmill.compress.search.found import Candidate, Found, Measured, kinds_told, ratios
from modelmill.compress.search.table import Table

FORMAT = 1
METRICS = {True: "accuracy", False: "relativeError"}
"""What `drop` is a difference of, by whether the model gives classes."""


def account(found: Found, chosen: int, *, table: Table, device: str) -> dict[str, Any]:
    """JSON: times in milliseconds, `lossIncrease` against the start; `measured` is null for what was only predicted, and a
    figure that is not finite is null too."""
    return {
        "format": FORMAT,
        "objective": found.step.objective,
        "maxDrop": found.step.max_drop,
        "dropOf": METRICS[found.dense.quality.accuracy is not None],
        "device": device,
        "rows": found.rows,
        "dense": _measured(found.dense, found),
        "start": _measured(found.start, found),
        "front": [_candidate(one, found) for one in found.candidates],
        "chosen": chosen,
        "choice": dict(found.candidates[chosen].point.choice),
        "layers": {
            name: {
                kind: {"bytes": one.cost.bytes, "millis": 1000 * one.cost.seconds, "lossIncrease": one.increase}
                for kind, one in own.items()
            }
            for name, own in table.items()
        },
    }


def to_json(account: dict[str, Any]) -> bytes:
    return (json.dumps(account, indent=1, allow_nan=False) + "\n").encode()


def sentence(found: Found, chosen: int) -> str:
    """Before and after, predicted and measured."""
    one = found.candidates[chosen]
    assert one.measured is not None, "only what was measured is chosen"
    quality = one.measured.quality
    before = found.dense.quality.accuracy
    accuracy = "" if before is None or quality.accuracy is None else f"accuracy {before:.4f}, then {quality.accuracy:.4f}: "
    loss = quality.loss - found.start.quality.loss
    return (
        f"search: {kinds_told(one.point.choice)}; {accuracy}drop {quality.drop:.4f} of at most {found.step.max_drop:g} on "
        f"{found.rows} rows; {ratios(one.measured, found.dense)}; loss {loss:+.4f}, predicted {one.point.increase:+.4f}; "
        f"{1000 * one.measured.seconds:.3f} ms, predicted {1000 * one.seconds:.3f}"
    )


def _candidate(one: Candidate, found: Found) -> dict[str, Any]:
    return {
        "kinds": kinds_told(one.point.choice),
        "predicted": {"bytes": one.bytes, "latencyMillis": 1000 * one.seconds, "lossIncrease": one.point.increase},
        "measured": None if one.measured is None else _measured(one.measured, found),
    }


def _measured(one: Measured, found: Found) -> dict[str, Any]:
    quality = {key: value for key, value in asdict(one.quality).items() if value is not None}
    figures = {**quality, "lossIncrease": one.quality.loss - found.start.quality.loss}
    # Few bits may make a loss overflow, and JSON has no number for that.
    finite = {key: value if math.isfinite(value) else None for key, value in figures.items()}
    return {"bytes": one.bytes, "latencyMillis": 1000 * one.seconds, **finite}

"""The front as a picture: what was predicted beside what was measured, and the candidate that was taken."""

import io
from typing import Any

AXES = {"Latency": ("latencyMillis", 1.0, "one row, one thread: milliseconds"), "Size": ("bytes", 1e-6, "file: megabytes")}
"""By objective: which figure, its unit in that of the axis, what the axis says."""
DROPS = {"accuracy": "drop of accuracy", "relativeError": "relative error of outputs"}


def draw(account: dict[str, Any]) -> bytes:
    """PNG of what `front.account` tells: the loss above, predicted and measured, and below the drop, with its bound."""
    # Half a second to import, and only a search draws; no pyplot, which would keep every figure.
    from matplotlib.figure import Figure

    key, unit, words = AXES[account["objective"]]
    front, start, chosen = account["front"], account["start"], account["front"][account["chosen"]]["measured"]
    measured = [one["measured"] for one in front if one["measured"]]
    figure = Figure(figsize=(7, 7), layout="constrained")
    loss, drop = figure.subplots(2, 1, sharex=True)
    predicted = [(unit * one["predicted"][key], one["predicted"]["lossIncrease"]) for one in front]
    loss.plot(*zip(*predicted, strict=True), ".-", color="tab:gray", label="predicted")
    for axes, value in ((loss, "lossIncrease"), (drop, "drop")):
        points = [(unit * one[key], one[value]) for one in measured if one[value] is not None]
        axes.plot(*zip(*points, strict=True), "o", color="tab:blue", label="measured")
        for one, marker, label in ((chosen, "r*", "chosen"), (start, "ks", "without search")):
            if one[value] is not None:
                axes.plot(unit * one[key], one[value], marker, markersize=10, label=label)
        axes.grid(alpha=0.3)
    drop.axhline(account["maxDrop"], linestyle="--", color="tab:red", label="maxDrop")
    # The far end of the front would flatten all the rest; and no logarithm, because a measured loss may fall.
    low, high = (bound([0.0, *(one["lossIncrease"] or 0.0 for one in measured)]) for bound in (min, max))
    loss.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.3 * (high - low) + 1e-6)
    loss.set_ylabel("increase of the loss")
    drop.set_ylabel(DROPS[account["dropOf"]])
    drop.set_xlabel(words)
    for axes in (loss, drop):
        axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()

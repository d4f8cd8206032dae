"""Weight sharing: the weights of a layer become few values (Han et al. 2016), trained where that is wanted."""

from modelmill.compress.draft import Context, Draft
from modelmill.compress.grids.grid import Granularity
from modelmill.compress.grids.kmeans import KMeans
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.steps.quantize import train_on_grids
from modelmill.compress.steps.training import names_of, needed
from modelmill.contract.steps import Share


def run(step: Share, draft: Draft, context: Context | None) -> None:
    for name in names_of(draft.module):
        earlier = draft.grids.get(name)
        granularity: Granularity = earlier.granularity if isinstance(earlier, Uniform) else "Tensor"
        size = earlier.group_size if isinstance(earlier, Uniform) else 64
        draft.grids[name] = KMeans(
            clusters=step.clusters, granularity=granularity, group_size=size, zero_kept=name in draft.masks
        )
    if step.training is not None:
        train_on_grids(step.training, draft, needed(context, "share.training"), label="share")

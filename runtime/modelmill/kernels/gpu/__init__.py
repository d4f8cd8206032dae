"""Linear layers with compressed weights on a GPU: torch's own products, each proven on the device before it is used.

`choose` picks the first way that takes a weight and was right in its trial (`proof`); a weight that none takes runs dense.
"""

from modelmill.kernels.gpu.choice import WAYS, Choice, choose
from modelmill.kernels.gpu.proof import objection
from modelmill.kernels.gpu.way import Way
from modelmill.kernels.gpu.whole import Whole

__all__ = ["WAYS", "Choice", "Way", "Whole", "choose", "objection"]

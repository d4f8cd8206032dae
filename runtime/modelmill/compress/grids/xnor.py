"""Binary weights that meet binary activations: w ~ mean|w| * sign(w), x ~ mean|x| * sign(x) for each row of activations.

The weights are those of `binary`, with a magnitude for each channel; a product is a count of equal signs. Linear layers only.
Rastegari et al. 2016, "XNOR-Net".
"""

from dataclasses import dataclass

from modelmill.compress.grids.binary import Binary


@dataclass(frozen=True, slots=True, kw_only=True)
class Xnor(Binary):
    """`Binary` by channel; that activations are signs too is what the layer does with it (`codecs.signs`)."""

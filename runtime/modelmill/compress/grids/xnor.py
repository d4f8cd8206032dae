"""Binary weights that meet binary activations: w ~ mean|w| * sign(w), x ~ mean|x| * sign(x) for each row of activations.

The weights are those of `binary`, with a magnitude for each channel; a linear layer's product is a count of equal signs. Of a
convolution each sample has one mean, instead of one for each patch. Rastegari et al. 2016, "XNOR-Net".
"""

from dataclasses import dataclass

from modelmill.compress.grids.binary import Binary


@dataclass(frozen=True, slots=True, kw_only=True)
class Xnor(Binary):
    """`Binary` by channel; that activations are signs too is what the layer does with it (`codecs.signs`)."""

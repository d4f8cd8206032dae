"""What the loader does to a module in fp32 on CPU before it serves: the same forward on better prepared convolutions.

`apply` is the face: it rewrites a copy, compares it with the untouched module, and serves it if it is right and not
slower. `pairs` finds the batch norms that follow a convolution, by torch.fx (`trace`); `convolutions` puts them into it
and turns it to channels-last, where the activations follow; `small` is for images smaller than their kernel.
`saturation` finds the batch size beyond which more rows bring no more throughput.

Measured and left out: weights in oneDNN's packed layout, because that layout depends on the batch and on the number of
threads, and a wrong one costs up to 25 times the convolution; sums and activations in a convolution's pass, 1 %; packed
linear layers, and query, key and value as one layer, nothing at 8 rows. So the module's own code runs, and no graph.
"""

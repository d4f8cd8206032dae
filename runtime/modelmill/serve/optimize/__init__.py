"""What the loader does to a module in fp32 on CPU before it serves.

`apply` is the face: it rewrites a copy, compares it with the untouched module, and serves it if it is right and not
slower. `pairs` finds the batch norms that follow a convolution, by torch.fx (`trace`); `convolutions` puts them into it
and turns it to channels-last, where the activations follow; `small` is for images smaller than their kernel. `rewrite` writes
the forward anew: `calls` finds convolutions and what is added to them, `runs` those that follow each other, which become
one `conv_program`, and `fused` takes compressed ones that no program takes. `saturation` finds the batch size beyond which more
rows bring no more throughput.

Measured and left out: weights in oneDNN's packed layout, because that layout depends on the batch and on the number of
threads, and a wrong one costs up to 25 times the convolution; packed linear layers, and query, key and value as one layer,
nothing at 8 rows.
"""

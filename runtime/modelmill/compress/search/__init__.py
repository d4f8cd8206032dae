"""Which kind of compression for which layer, under a budget of accuracy.

`kinds` are what a layer may become, `sensitivity` predicts what each costs in loss and `cost` measures what it brings on this
machine; `knapsack` (pure) makes the front of the best combinations from the two, `trial` measures some of them as whole
models, `choose` (pure) halves the front between them, `front` tells it all as JSON and as a figure. `run` does it in order.
"""

"""Which kind of compression for which layer, under a budget of accuracy.

`kinds` are what a layer may become, `sensitivity` predicts what each costs in loss and `cost` measures what it brings on this
machine; `knapsack` (pure) makes the front of the best combinations from the two, `halving` (pure) picks some of them, `trial`
measures these as whole models, `found` (pure) is all that is known then, and the verdict; `front` and `figure` tell it. `run`
does all that in order.
"""

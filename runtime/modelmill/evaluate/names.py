"""The metrics by name, for parts that do without torch."""

ACCURACY, RECALL, F1, AUC, LOSS = "accuracy", "recall", "f1", "auc", "loss"
METRICS = (ACCURACY, RECALL, F1, AUC, LOSS)
LOWER_IS_BETTER = frozenset({LOSS})

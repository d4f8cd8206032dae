"""Versions of models: the one thing that training, evaluation and serving share."""

"""Pruning of whole channels: the module itself becomes smaller."""

"""Grids: which values a weight may take, and which of them each weight becomes. One file each; all give `Codes`."""

"""Distillation: a student learns from the answers of a trained teacher. One file a method; all train with `tune`."""

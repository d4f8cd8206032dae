"""Judges what was trained and compressed on data that training never saw.

`measure` computes the figures of one variant (`metrics`, `latency`), `apart` does so in a process of its own, `baseline`
finds the figures of the version that a channel points to, `gates` compares (without any I/O). `stage` is the pod.
"""

"""The native module `_fastpath`, or None where the package was built without a compiler."""

try:
    from modelmill.serve import _fastpath as fastpath
except ImportError:
    fastpath = None  # type: ignore[assignment]

__all__ = ["fastpath"]

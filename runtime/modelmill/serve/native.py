"""The native module `_fastpath`, or None where the package was built without a compiler."""

try:
    from modelmill.serve import _fastpath as fastpath
except ImportError:
    fastpath = None  # type: ignore[assignment]  # built without a compiler: the name stands for a module elsewhere

__all__ = ["fastpath"]

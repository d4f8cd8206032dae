"""As for the unit tests: made-up cases have no time limit, and threads of workers that share processors do not spin."""

import os

from hypothesis import settings

# Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("compression", deadline=None)
settings.load_profile("compression")

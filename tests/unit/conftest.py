"""Properties may take long on a busy machine: only the suite as a whole has a time limit."""

from hypothesis import settings

settings.register_profile("modelmill", deadline=None)
settings.load_profile("modelmill")

"""Channels that are really removed: groups that go together, their importance, a plan, and the removal (`structured`)."""

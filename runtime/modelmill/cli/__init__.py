"""`modelmill`: the registry from the shell."""

"""How one weight is stored and computed on: a file each, with what it writes, what it checks, and how to undo it."""

"""Other people's formats of compressed weights: a file each, with what it reads, what it writes, and what it cannot say."""

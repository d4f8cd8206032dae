"""Compressed models beside those of other libraries: size, speed and accuracy, in interleaved rounds."""

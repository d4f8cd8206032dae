"""Products with compressed weights: torch operators over native code, each with a plain torch reference."""

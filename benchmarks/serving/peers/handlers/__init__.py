"""What runs inside the peers, in their environments: they have torch and numpy, and nothing of Modelmill's runtime."""

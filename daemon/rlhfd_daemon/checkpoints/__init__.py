"""Checkpoints judged from their bytes: read without torch and without executing anything that is in them."""

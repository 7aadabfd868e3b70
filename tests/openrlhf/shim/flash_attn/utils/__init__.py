"""Empty, as in flash-attn."""

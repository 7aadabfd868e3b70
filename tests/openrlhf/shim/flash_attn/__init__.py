"""Stands in for flash-attn, which needs a GPU: only the names that OpenRLHF imports at module level.

``flash_attn.ops`` is missing on purpose. OpenRLHF catches that ImportError and computes log-probs with torch.
"""

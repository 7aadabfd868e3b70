"""How much JSON of a file of a checkpoint is read: what its values take in memory is bounded by their number."""

from __future__ import annotations

__all__ = ["MAX_BYTES", "MAX_VALUES", "too_many_values"]

MAX_BYTES = 16 << 20
"""DeepSeek-V3's index, of 91,991 tensors, has 8.9 MB."""
MAX_VALUES = 600_000
"""A tensor is 8 or 9 of a header and 1 of an index."""


def too_many_values(raw: bytes) -> bool:
    """Whether there may be more than :data:`MAX_VALUES` in ``raw``; commas and brackets in texts count, too."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES

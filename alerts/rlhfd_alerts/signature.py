"""Standard Webhooks signing (github.com/standard-webhooks/standard-webhooks, spec "Signature scheme", v1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from rlhfd_alerts.errors import SecretError

__all__ = ["parse_secret", "sign"]

_PREFIX = "whsec_"
_SHORTEST_BYTES = 24
_LONGEST_BYTES = 64


def parse_secret(text: str) -> bytes:
    """Return the key in ``whsec_<base64 of 24 to 64 bytes>``. Raises :class:`SecretError`, without the secret."""
    if not text.startswith(_PREFIX):
        raise SecretError(f"a webhook secret starts with {_PREFIX!r}, followed by base64 of 24 to 64 random bytes")
    try:
        key = base64.b64decode(text[len(_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        # Neither chained nor quoted: the cause could show a part of the secret.
        raise SecretError(f"the webhook secret is not base64 after {_PREFIX!r}") from None
    if not _SHORTEST_BYTES <= len(key) <= _LONGEST_BYTES:
        raise SecretError(f"the webhook secret has {len(key)} bytes, {_SHORTEST_BYTES} to {_LONGEST_BYTES} are needed")
    return key


def sign(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` header: one ``v1,<base64>`` per key, so that receivers can rotate theirs."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)

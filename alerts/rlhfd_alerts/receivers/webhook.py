"""Posts notifications as Standard Webhooks: signed, one stable id per notification, no redirects."""

from __future__ import annotations

from rlhfd_alerts.channel import HttpChannel
from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import SecretError
from rlhfd_alerts.signature import parse_secret, sign
from rlhfd_alerts.target import HttpSettings, Target

__all__ = ["WebhookReceiver", "WebhookSettings"]


class WebhookSettings(HttpSettings, frozen=True, kw_only=True, tag="webhook"):
    """The secrets (``whsec_…``) sign; several while keys rotate."""


class WebhookReceiver:
    """One URL, at least one secret."""

    def __init__(self, target: Target[WebhookSettings], context: Context) -> None:
        if not target.secrets:
            raise SecretError(f"target {target.name!r}: a webhook needs a secret (whsec_<base64 of 24 to 64 bytes>)")
        self._keys = tuple(map(parse_secret, target.secrets))
        self._channel = HttpChannel(target, context.sessions, context.version)

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Post ``body``."""
        headers = {
            "content-type": "application/json",
            "webhook-id": notification_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": sign(self._keys, notification_id, int(now), body),
        }
        return await self._channel.post(body, headers, now)

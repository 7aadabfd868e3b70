"""Posts notifications as Standard Webhooks: signed, one stable id per notification, no redirects."""

from __future__ import annotations

from collections.abc import Iterator

from rlhfd_alerts.channel import HttpChannel
from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import SecretError
from rlhfd_alerts.message import read
from rlhfd_alerts.signature import parse_secret, sign
from rlhfd_alerts.target import Fault, HttpSettings, Target
from rlhfd_alerts.template import fill, template_fault

__all__ = ["WebhookReceiver", "WebhookSettings"]


class WebhookSettings(HttpSettings, frozen=True, kw_only=True, tag="webhook"):
    """The secrets (``whsec_…``) sign; several while keys rotate. Without ``body_template`` the body is rlhfd's own;
    with it, values are escaped for JSON if ``content_type`` is JSON."""

    body_template: str = ""
    content_type: str = "application/json"

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if fault := template_fault(self.body_template):
            yield "body_template", fault
        if not self.content_type.isascii() or not self.content_type.isprintable() or "/" not in self.content_type:
            yield "content_type", 'must be like "text/plain"'


class WebhookReceiver:
    """One URL, at least one secret."""

    def __init__(self, target: Target[WebhookSettings], context: Context) -> None:
        if not target.secrets:
            raise SecretError(f"target {target.name!r}: a webhook needs a secret (whsec_<base64 of 24 to 64 bytes>)")
        self._keys = tuple(map(parse_secret, target.secrets))
        self._channel = HttpChannel(target, context.sessions, context.version)
        self._settings = target.settings
        self._context = context

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Post ``body``, or what the template makes of it; what is signed is what is sent."""
        content = self._rendered(notification_id, body)
        headers = {
            "content-type": self._settings.content_type,
            "webhook-id": notification_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": sign(self._keys, notification_id, int(now), content),
        }
        return await self._channel.post(content, headers, now)

    def _rendered(self, notification_id: str, body: bytes) -> bytes:
        template = self._settings.body_template
        if not template:
            return body
        is_json = "json" in self._settings.content_type
        return fill(template, read(notification_id, body, self._context), is_json)

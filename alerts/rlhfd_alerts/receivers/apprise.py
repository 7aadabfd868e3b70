"""Everything else, through Apprise (``pip install 'rlhfd[apprise]'``): a hundred services by URL, behind our outbox."""

from __future__ import annotations

import asyncio
import importlib.util
from collections import OrderedDict
from collections.abc import Sequence

from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import DeliveryError, SecretError, TargetError
from rlhfd_alerts.mail_text import digest_text, text_of
from rlhfd_alerts.message import Message, order, read
from rlhfd_alerts.target import Target, TargetSettings
from rlhfd_alerts.text import clip
from rlhfd_alerts.threads import in_thread

__all__ = ["AppriseReceiver", "AppriseSettings"]

_TITLE = 250
_REMEMBERED = 1000
_TYPES = {"CRITICAL": "failure", "WARNING": "warning", "INFO": "info", "RESOLVED": "success"}


class AppriseSettings(TargetSettings, frozen=True, kw_only=True, tag="apprise"):
    """The secrets are Apprise's URLs, one a line."""


class AppriseReceiver:
    """One or several services. Apprise does not say why something failed: it is tried again."""

    def __init__(self, target: Target[AppriseSettings], context: Context) -> None:
        if importlib.util.find_spec("apprise") is None:
            raise TargetError(f"target {target.name!r}: Apprise is not installed: pip install 'rlhfd[apprise]'")
        if not target.secrets:
            raise SecretError(f"target {target.name!r}: Apprise needs its URLs in secret_file or secret_env")
        self._urls = target.secrets
        self._timeout = target.settings.timeout_seconds
        self._context = context
        self._reached: OrderedDict[str, set[int]] = OrderedDict()

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Tell every service that has not been told yet."""
        message = read(notification_id, body, self._context)
        return await self._notify(notification_id, message, text_of(message))

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> str:
        """Tell of many in one message."""
        ranked = sorted((read(identity, body, self._context) for identity, body in notifications), key=order)
        return await self._notify(" ".join(sorted(one.id for one in ranked)), ranked[0], digest_text(ranked))

    async def _notify(self, identity: str, message: Message, text: str) -> str:
        reached = self._reached.setdefault(identity, set())
        while len(self._reached) > _REMEMBERED:
            self._reached.popitem(last=False)
        failed = []
        for number, url in enumerate(self._urls):
            if number not in reached and not await self._tell(url, message, text):
                failed.append(str(number + 1))
            elif number not in reached:
                reached.add(number)
        if failed:
            raise DeliveryError(f"Apprise could not reach its URL number {', '.join(failed)}", permanent=False)
        self._reached.pop(identity, None)
        return f"told {len(self._urls)} services"

    async def _tell(self, url: str, message: Message, text: str) -> bool:
        title, kind = clip(message.title, _TITLE), _TYPES[message.status]
        try:
            return await asyncio.wait_for(in_thread(lambda: _send(url, title, text, kind), "apprise"), self._timeout)
        except asyncio.TimeoutError:
            return False
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and its text may quote the URL
            raise DeliveryError(f"Apprise failed: {type(error).__name__}", permanent=False) from None


def _send(url: str, title: str, text: str, kind: str) -> bool:
    import logging

    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines may quote URLs
    service = apprise.Apprise()
    if not service.add(url):
        return False
    return bool(service.notify(title=title, body=text, notify_type=kind, body_format="text"))

"""The ways to tell somebody: one protocol, one file per receiver, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import aiohttp

from rlhfd_alerts.errors import TargetError
from rlhfd_alerts.receivers.webhook import WebhookReceiver
from rlhfd_alerts.target import Target

__all__ = ["RECEIVERS", "Receiver", "make_receiver"]


class Receiver(Protocol):
    """Renders and sends. Retrying, ordering and durability are the delivery worker's business."""

    async def send(self, notification_id: str, body: bytes, now: float) -> None:
        """Return once the other side has accepted ``body`` (canonical JSON). ``now`` is unix seconds.

        Raises :class:`~rlhfd_alerts.errors.DeliveryError`, which says whether trying again can help.
        """


RECEIVERS: dict[str, Callable[[Target, aiohttp.ClientSession, str], Receiver]] = {
    "webhook": WebhookReceiver,
}


def make_receiver(target: Target, session: aiohttp.ClientSession, version: str = "unknown") -> Receiver:
    """Return the receiver for ``target``; ``version`` is rlhfd's own, told to the other side.

    Raises :class:`TargetError` for an unknown type or unusable URL, :class:`SecretError` for a bad secret.
    """
    if target.type not in RECEIVERS:
        known = ", ".join(sorted(RECEIVERS))
        raise TargetError(f"target {target.name!r}: unknown type {target.type!r} (known: {known})")
    return RECEIVERS[target.type](target, session, version)

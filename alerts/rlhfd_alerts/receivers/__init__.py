"""The ways to tell somebody: one protocol, one file per receiver, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rlhfd_alerts.context import Context
from rlhfd_alerts.receivers.webhook import WebhookReceiver, WebhookSettings
from rlhfd_alerts.target import Target, TargetSettings

__all__ = ["RECEIVERS", "Kind", "Receiver", "make_receiver"]


class Receiver(Protocol):
    """Renders and sends. Retrying, ordering and durability are the delivery worker's business."""

    async def send(self, notification_id: str, body: bytes, now: float) -> str | None:
        """Return once the other side has accepted ``body`` (canonical JSON), with what it said, if anything.

        ``now`` is unix seconds. Raises :class:`~rlhfd_alerts.errors.DeliveryError`, which says whether trying again
        can help.
        """


_Settings = TypeVar("_Settings", bound=TargetSettings)


@dataclass(frozen=True, slots=True)
class Kind(Generic[_Settings]):
    """What a target of one type may set (its tag is the type's name), and how its receiver is made."""

    settings: type[_Settings]
    make: Callable[[Target[_Settings], Context], Receiver]


RECEIVERS: dict[str, Kind[Any]] = {
    "webhook": Kind(WebhookSettings, WebhookReceiver),
}


def make_receiver(target: Target[TargetSettings], context: Context | None = None) -> Receiver:
    """Return the receiver for ``target``; nothing is connected yet.

    Raises :class:`TargetError` for an unusable URL, :class:`SecretError` for a bad secret.
    """
    kind = next(kind for kind in RECEIVERS.values() if kind.settings is type(target.settings))
    return kind.make(target, context or Context())

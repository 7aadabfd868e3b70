"""The ways to tell somebody: one protocol, one file per receiver, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from rlhfd_alerts.context import Context
from rlhfd_alerts.receivers.alertmanager import AlertmanagerReceiver, AlertmanagerSettings
from rlhfd_alerts.receivers.apprise import AppriseReceiver, AppriseSettings
from rlhfd_alerts.receivers.command import CommandReceiver, CommandSettings
from rlhfd_alerts.receivers.discord import DiscordReceiver, DiscordSettings
from rlhfd_alerts.receivers.email import EmailReceiver, EmailSettings
from rlhfd_alerts.receivers.pagerduty import PagerDutyReceiver, PagerDutySettings
from rlhfd_alerts.receivers.slack import SlackReceiver, SlackSettings
from rlhfd_alerts.receivers.webhook import WebhookReceiver, WebhookSettings
from rlhfd_alerts.target import Target, TargetSettings

__all__ = ["RECEIVERS", "Digesting", "Kind", "Receiver", "Resending", "make_receiver"]


class Receiver(Protocol):
    """Renders and sends. Retrying, ordering and durability are the delivery worker's business."""

    async def send(self, notification_id: str, body: bytes, now: float) -> str | None:
        """Return once the other side has accepted ``body`` (canonical JSON), with what it said, if anything.

        ``now`` is unix seconds. Raises :class:`~rlhfd_alerts.errors.DeliveryError`, which says whether trying again
        can help.
        """


@runtime_checkable
class Digesting(Receiver, Protocol):
    """Can tell of many notifications at once."""

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> str | None:
        """As :meth:`send`, for several (id, body): all are accepted, or none."""


@runtime_checkable
class Resending(Receiver, Protocol):
    """Has to repeat what it has told, since the other side forgets."""

    resend_seconds: float

    def recall(self, notifications: Iterable[tuple[str, bytes]], now: float) -> None:
        """Take up after a restart: what was delivered before, oldest first."""

    async def resend(self, now: float) -> None:
        """Repeat; called every ``resend_seconds``. Raises :class:`~rlhfd_alerts.errors.DeliveryError`."""


_Settings = TypeVar("_Settings", bound=TargetSettings)


@dataclass(frozen=True, slots=True)
class Kind(Generic[_Settings]):
    """What a target of one type may set (its tag is the type's name), and how its receiver is made."""

    settings: type[_Settings]
    make: Callable[[Target[_Settings], Context], Receiver]


RECEIVERS: dict[str, Kind[Any]] = {
    "alertmanager": Kind(AlertmanagerSettings, AlertmanagerReceiver),
    "apprise": Kind(AppriseSettings, AppriseReceiver),
    "command": Kind(CommandSettings, CommandReceiver),
    "discord": Kind(DiscordSettings, DiscordReceiver),
    "email": Kind(EmailSettings, EmailReceiver),
    "pagerduty": Kind(PagerDutySettings, PagerDutyReceiver),
    "slack": Kind(SlackSettings, SlackReceiver),
    "webhook": Kind(WebhookSettings, WebhookReceiver),
}


def make_receiver(target: Target[TargetSettings], context: Context | None = None) -> Receiver:
    """Return the receiver for ``target``; nothing is connected yet.

    Raises :class:`TargetError` for an unusable URL, :class:`SecretError` for a bad secret.
    """
    kind = next(kind for kind in RECEIVERS.values() if kind.settings is type(target.settings))
    return kind.make(target, context or Context())

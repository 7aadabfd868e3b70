"""Sends mail over SMTP: text and HTML, one thread of messages per episode in any mail client."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Literal

from msgspec import Meta

from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import DeliveryError, TargetError
from rlhfd_alerts.mail_text import digest_html, digest_text, html_of, text_of
from rlhfd_alerts.message import Message, order, read
from rlhfd_alerts.target import Fault, Target, TargetSettings
from rlhfd_alerts.text import clip, one_line
from rlhfd_alerts.threads import in_thread

__all__ = ["EmailReceiver", "EmailSettings", "render"]

_SUBJECT = 200
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class EmailSettings(TargetSettings, frozen=True, kw_only=True, tag="email"):
    """``security`` ``none`` is for a relay on this machine. A secret is the password of ``username``."""

    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=0, le=65535)] = 0  # 0: the usual one
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    sender: Annotated[str, Meta(pattern=r"^[^\s<>@,]+@[^\s<>@,]+$")]
    to: Annotated[tuple[Annotated[str, Meta(pattern=r"^[^\s<>@,]+@[^\s<>@,]+$")], ...], Meta(min_length=1)]
    ca_file: str = ""
    insecure: bool = False

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.username and not (self.secret_file or self.secret_env):
            yield "username", "needs a password: secret_file or secret_env"
        if self.username and self.security == "none":
            yield "security", "a password is sent over TLS only: starttls or tls"


class EmailReceiver:
    """One mailbox or list, over one SMTP server."""

    def __init__(self, target: Target[EmailSettings], context: Context) -> None:
        if target.settings.username and not target.secrets:
            raise TargetError(f"target {target.name!r}: username needs a password as the secret")
        self._settings = target.settings
        self._password = target.secrets[0] if target.secrets else ""
        self._context = context

    async def send(self, notification_id: str, body: bytes, now: float) -> str:
        """Send one mail."""
        return await self._deliver(render(read(notification_id, body, self._context), self._settings, now))

    async def send_digest(self, notifications: Sequence[tuple[str, bytes]], now: float) -> str:
        """Send many messages as one mail."""
        messages = [read(identity, body, self._context) for identity, body in notifications]
        return await self._deliver(render_digest(messages, self._settings, now))

    async def _deliver(self, mail: EmailMessage) -> str:
        session = _Session(self._settings, self._password)
        try:
            return await asyncio.wait_for(
                in_thread(lambda: session.deliver(mail), "rlhfd-email"), self._settings.timeout_seconds
            )
        except asyncio.TimeoutError:
            raise DeliveryError(f"no answer from {session.place} in time", permanent=False) from None
        finally:
            session.abandon()


class _Session:
    """One connection, used in a thread of its own; :meth:`abandon` from another ends it."""

    def __init__(self, settings: EmailSettings, password: str) -> None:
        port = settings.port or _PORTS[settings.security]
        self.place = f"smtp://{settings.host}:{port}"
        self._settings = settings
        self._password = password
        self._port = port
        self._client: smtplib.SMTP | None = None

    def deliver(self, mail: EmailMessage) -> str:
        """Send; return what the server said. Errors of the server and the network become :class:`DeliveryError`."""
        # None is chained: the texts of smtplib may quote what was sent, a password too.
        try:
            return self._deliver(mail)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            permanent = all(500 <= code < 600 for code in codes)
            text = f"{self.place} refused every recipient: SMTP {', '.join(map(str, codes))}"
            raise DeliveryError(text, permanent=permanent) from None
        except smtplib.SMTPAuthenticationError as error:
            raise DeliveryError(f"{self.place} refused the login: SMTP {error.smtp_code}", permanent=False) from None
        except smtplib.SMTPResponseException as error:
            permanent = 500 <= error.smtp_code < 600
            text = f"SMTP {error.smtp_code} from {self.place}: {self._said(error.smtp_error)}"
            raise DeliveryError(text, permanent=permanent) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            cause = f"{type(error).__name__}" + (f" ({reason})" if reason else "")
            raise DeliveryError(f"cannot reach {self.place}: {cause}", permanent=False) from None

    def abandon(self) -> None:
        """Cut the connection, so that a thread that still waits for it ends."""
        client = self._client
        if client is not None and client.sock is not None:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)

    def _deliver(self, mail: EmailMessage) -> str:
        settings, timeout = self._settings, self._settings.timeout_seconds
        context = _tls(settings)
        client: smtplib.SMTP
        if settings.security == "tls":
            client = smtplib.SMTP_SSL(settings.host, self._port, timeout=timeout, context=context)
        else:
            client = smtplib.SMTP(settings.host, self._port, timeout=timeout)
        self._client = client
        with client:
            if settings.security == "starttls":
                client.starttls(context=context)
            if settings.username:
                client.login(settings.username, self._password)
            refused = client.send_message(mail)
        accepted = len(settings.to) - len(refused)
        return f"accepted for {accepted} of {len(settings.to)} recipients"

    def _said(self, answer: bytes | str) -> str:
        text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        return "" if self._password and self._password in text else clip(one_line(text), _SUBJECT)


def render(message: Message, settings: EmailSettings, now: float) -> EmailMessage:
    """Return the mail. Its Message-ID is the notification's, so a second copy is known as one; all mails of an episode
    refer to the same id."""
    mail = _mail(f"[rlhfd] {message.title}", settings, now)
    domain = settings.sender.rpartition("@")[2]
    mail["Message-ID"] = f"<{message.id}@{domain}>"
    thread = f"<{message.subject}@{domain}>"
    mail["In-Reply-To"], mail["References"] = thread, thread
    mail.set_content(text_of(message))
    mail.add_alternative(html_of(message), subtype="html")
    return mail


def render_digest(messages: Sequence[Message], settings: EmailSettings, now: float) -> EmailMessage:
    """Return the mail that tells of all ``messages``, critical ones first."""
    ranked = sorted(messages, key=order)
    mail = _mail(f"[rlhfd] {len(ranked)} messages, first {ranked[0].title}", settings, now)
    mail["Message-ID"] = f"<digest.{min(one.id for one in ranked)}@{settings.sender.rpartition('@')[2]}>"
    mail.set_content(digest_text(ranked))
    mail.add_alternative(digest_html(ranked), subtype="html")
    return mail


def _mail(subject: str, settings: EmailSettings, now: float) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = clip(one_line(subject), _SUBJECT)
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    mail["Date"] = format_datetime(datetime.fromtimestamp(now, timezone.utc))
    mail["Auto-Submitted"] = "auto-generated"
    return mail


def _tls(settings: EmailSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

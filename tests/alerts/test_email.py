"""Mail, through real SMTP servers."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from goldens import CASES, CONTEXT, content
from rlhfd_alerts.errors import DeliveryError, TargetError
from rlhfd_alerts.receivers.email import EmailReceiver, EmailSettings
from rlhfd_alerts.sample import sample
from rlhfd_alerts.target import Target

PASSWORD = "canary-4711"
ADDRESSES: dict[str, Any] = {"sender": "rlhfd@example.org", "to": ("ops@example.org", "ml@example.org")}


class Mailbox:
    """Keeps what arrives; says ``answer`` to it."""

    def __init__(self, answer: str = "250 kept") -> None:
        self.mails: list[EmailMessage] = []
        self._answer = answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        return self._answer


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Starts an SMTP server on loopback; returns its port."""
    running: list[Controller] = []

    def start(mailbox: Mailbox, **options: Any) -> int:
        with socket.socket() as free:  # the controller wants to know it beforehand
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
        controller.start()
        running.append(controller)
        return port

    yield start
    for controller in running:
        controller.stop()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's certificate; its authority is in ``ca.pem``."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context


def send(port: int, *identities: tuple[str, bytes], password: str = "", **settings: Any) -> str:
    chosen = EmailSettings(host="127.0.0.1", port=port, **{**ADDRESSES, "security": "none", **settings})
    receiver = EmailReceiver(Target("mail", chosen, secrets=(password,) if password else ()), CONTEXT)
    some = identities or (sample("node-7", False, 1.7e9),)
    if len(some) > 1:
        return asyncio.run(receiver.send_digest(some, 1.7e9))
    return asyncio.run(receiver.send(*some[0], 1.7e9))


def test_a_mail_has_text_html_and_a_thread(serve: Callable[..., int]) -> None:
    mailbox = Mailbox()
    port = serve(mailbox)
    begun, over = sample("node-7", False, 1.7e9), sample("node-7", True, 1.7e9)
    assert send(port, begun) == "accepted for 2 of 2 recipients"
    send(port, begun)
    send(port, over)
    first, again, last = mailbox.mails
    assert first["Subject"] == "[rlhfd] CRITICAL rlhfd-test: TEST: train/kl is 0.75 at step 120, 34 times its " \
        "baseline, and still rising (and 1 more)"  # fmt: skip
    assert first["To"] == "ops@example.org, ml@example.org"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["Message-ID"] == again["Message-ID"] == f"<{begun[0]}@example.org>"
    assert last["Message-ID"] != first["Message-ID"]
    assert first["References"] == first["In-Reply-To"] == last["References"]
    text, page = (first.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert page is not None
    assert "▁▁▁▁▁▁▂▃▅█" in text.get_content()
    assert "<h3>CRITICAL rlhfd-test" in page.get_content()
    assert "RESOLVED" in last["Subject"]


def test_promise_E10_no_text_becomes_a_header(serve: Callable[..., int]) -> None:
    mailbox = Mailbox()
    notification = CASES["hostile"]()
    send(serve(mailbox), (notification.id, content(notification)))
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert "<!channel>" in mail["Subject"]


def test_a_burst_is_one_mail(serve: Callable[..., int]) -> None:
    mailbox = Mailbox()
    send(serve(mailbox), *((one.id, content(one)) for one in (make() for make in CASES.values())))
    (mail,) = mailbox.mails
    assert mail["Subject"].startswith("[rlhfd] 5 messages, first CRITICAL example: ")
    assert mail["Message-ID"].startswith("<digest.msg_")


def test_a_login_goes_over_tls_to_a_server_that_is_known(
    serve: Callable[..., int], tls: ssl.SSLContext, tmp_path: Path
) -> None:
    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        is_known = data.login == b"rlhfd" and data.password == PASSWORD.encode()
        return AuthResult(success=is_known, handled=False)  # the server answers

    mailbox = Mailbox()
    port = serve(mailbox, tls_context=tls, require_starttls=True, authenticator=authenticate, auth_required=True)
    known: dict[str, Any] = {"security": "starttls", "username": "rlhfd", "ca_file": str(tmp_path / "ca.pem")}
    send(port, password=PASSWORD, **known)
    assert len(mailbox.mails) == 1
    with pytest.raises(DeliveryError, match="refused the login: SMTP 535") as caught:
        send(port, password="wrong-canary", **known)
    assert not caught.value.permanent
    assert "canary" not in str(caught.value)
    with pytest.raises(DeliveryError, match="SSLCertVerificationError") as unknown:
        send(port, password=PASSWORD, **{**known, "ca_file": ""})
    assert PASSWORD not in f"{unknown.value}{unknown.value.__cause__}"
    send(port, password=PASSWORD, **{**known, "ca_file": "", "insecure": True})
    assert len(mailbox.mails) == 2


def test_tls_from_the_start(serve: Callable[..., int], tls: ssl.SSLContext, tmp_path: Path) -> None:
    mailbox = Mailbox()
    send(serve(mailbox, ssl_context=tls), security="tls", ca_file=str(tmp_path / "ca.pem"))
    assert len(mailbox.mails) == 1


@pytest.mark.parametrize(("answer", "permanent"), [("451 busy", False), ("554 no", True)])
def test_what_the_server_says_counts(serve: Callable[..., int], answer: str, permanent: bool) -> None:
    with pytest.raises(DeliveryError, match=answer.replace(" ", " from .*: ")) as caught:
        send(serve(Mailbox(answer)))
    assert caught.value.permanent is permanent


def test_nobody_there_is_worth_another_try_and_a_server_that_drips_is_given_up_in_time() -> None:
    async def scenario() -> None:
        ended = asyncio.Event()

        async def loris(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220-")
            await reader.read()  # until the client hangs up
            ended.set()
            writer.close()

        server = await asyncio.start_server(loris, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            chosen = EmailSettings(host="127.0.0.1", port=port, security="none", timeout_seconds=0.5, **ADDRESSES)
            began = time.monotonic()
            with pytest.raises(DeliveryError, match=r"cannot reach|in time") as caught:
                await EmailReceiver(Target("mail", chosen), CONTEXT).send(*sample("h", False, 1.7e9), 1.7e9)
            assert time.monotonic() - began < 12  # and not after 15 s, the default
            assert not caught.value.permanent
            await asyncio.wait_for(ended.wait(), 10)
        with pytest.raises(DeliveryError, match="ConnectionRefusedError") as refused:
            await EmailReceiver(Target("mail", chosen), CONTEXT).send(*sample("h", False, 1.7e9), 1.7e9)
        assert not refused.value.permanent

    asyncio.run(scenario())


def test_a_password_needs_tls_and_a_user_name_a_password() -> None:
    settings = EmailSettings(host="h", username="u", security="none", **ADDRESSES)
    assert [field for field, _ in settings.faults()] == ["username", "security"]
    with pytest.raises(TargetError, match="needs a password"):
        EmailReceiver(Target("mail", settings), CONTEXT)

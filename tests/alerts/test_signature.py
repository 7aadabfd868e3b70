"""Signatures that the reference implementation accepts, and secrets refused without repeating them."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from rlhfd_alerts.errors import SecretError
from rlhfd_alerts.signature import parse_secret, sign

OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 64).decode()
BODY = '{"summary":"é▁█"}'.encode()


def headers(*secrets: str) -> dict[str, str]:
    now = int(time.time())
    signature = sign([parse_secret(secret) for secret in secrets], "msg_1", now, BODY)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(now), "webhook-signature": signature}


@pytest.mark.parametrize("receivers_secret", [OLD, NEW])
def test_while_keys_rotate_receivers_with_either_key_accept(receivers_secret: str) -> None:
    Webhook(receivers_secret).verify(BODY, headers(NEW, OLD))


def test_another_key_or_another_body_is_refused_by_the_reference() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(BODY, headers(NEW))
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(BODY + b" ", headers(NEW))


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("", "starts with"),
        (OLD.removeprefix("whsec_"), "starts with"),
        ("whsec_canary!canary", "not base64"),
        ("whsec_é", "not base64"),
        ("whsec_" + base64.b64encode(b"c" * 23).decode(), "23 bytes"),
        ("whsec_" + base64.b64encode(b"c" * 65).decode(), "65 bytes"),
    ],
)
def test_a_bad_secret_is_refused_with_the_reason_and_not_repeated(secret: str, reason: str) -> None:
    with pytest.raises(SecretError, match=reason) as caught:
        parse_secret(secret)
    payload = secret.removeprefix("whsec_")
    assert not payload or payload not in str(caught.value)
    assert caught.value.__cause__ is None

"""The chat and paging services, played by servers on loopback: what they get, what their answers mean."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from rlhfd_alerts.context import Context
from rlhfd_alerts.errors import AlertsError, DeliveryError, SecretError, TargetError
from rlhfd_alerts.receivers import RECEIVERS, Digesting, make_receiver
from rlhfd_alerts.receivers.apprise import AppriseSettings
from rlhfd_alerts.receivers.discord import DiscordSettings
from rlhfd_alerts.receivers.pagerduty import PagerDutySettings
from rlhfd_alerts.receivers.slack import SlackSettings
from rlhfd_alerts.receivers.webhook import WebhookSettings
from rlhfd_alerts.sample import sample
from rlhfd_alerts.target import Target, TargetSettings
from rlhfd_alerts.testing import SECRET, ReceivedRequest, Reply, WebhookServer

OTHER_SECRET = "whsec_" + "A" * 32
SAMPLE = sample("node-7", False, 1.7e9)


async def tell(
    settings: TargetSettings, *secrets: str, count: int = 1, now: float = 1.7e9
) -> tuple[str | None, DeliveryError | None]:
    """What was said, or what went wrong."""
    context = Context(version="1.2.3", host="node-7")
    one = make_receiver(Target("t", settings, secrets=secrets), context)
    try:
        if count == 1:
            return await one.send(*SAMPLE, now), None
        assert isinstance(one, Digesting)
        return await one.send_digest([SAMPLE] * count, now), None
    except DeliveryError as error:
        return None, error
    finally:
        await context.sessions.close()


def exchange(kind: Any, *replies: Reply, secrets: tuple[str, ...] = (), count: int = 1, **settings: Any) -> Any:
    """One message to a server that answers by script: the request, what was said, what went wrong."""

    async def scenario() -> tuple[ReceivedRequest, str | None, DeliveryError | None]:
        async with WebhookServer(*replies) as server:
            chosen = kind(url=server.url, allow_private=True, **settings)
            now = time.time() if kind is WebhookSettings else 1.7e9
            said, error = await tell(chosen, *secrets, count=count, now=now)
            return server.requests[0], said, error

    return asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_registry_and_the_tags_of_the_settings_agree() -> None:
    assert {name: kind.settings.__struct_config__.tag for name, kind in RECEIVERS.items()} == {n: n for n in RECEIVERS}


def test_slack_takes_blocks_and_says_ok() -> None:
    request, said, error = exchange(SlackSettings, Reply(body=b"ok"), mention="channel")
    payload = json.loads(request.body)
    assert (said, error) == ("ok", None)
    assert payload["text"].startswith("<!channel> CRITICAL rlhfd-test: ")
    assert payload["blocks"][0]["type"] == "header"


def test_an_answer_of_slack_s_that_is_not_ok_is_a_refusal() -> None:
    _, _, error = exchange(SlackSettings, Reply(200, body=b"invalid_blocks"))
    assert error.permanent
    assert str(error).endswith("not accepted from http://127.0.0.1:" + str(error).split(":")[-2].split("/")[0]
                               + "/…: invalid_blocks")  # fmt: skip
    _, _, gone = exchange(SlackSettings, Reply(410, body=b"channel_is_archived"))
    assert gone.gone
    assert "channel_is_archived" in str(gone)


def test_a_digest_is_one_request() -> None:
    for kind in (SlackSettings, DiscordSettings):
        request, _, error = exchange(kind, count=37)
        assert error is None
        assert "37 messages: 37 critical" in request.body.decode()


def test_discord_says_in_json_how_long_to_wait() -> None:
    body = json.dumps({"message": "You are being rate limited.", "retry_after": 0.65, "global": False}).encode()
    _, _, error = exchange(DiscordSettings, Reply(429, {"Retry-After": "1"}, body))
    assert (error.permanent, error.retry_after) == (False, 0.65)
    for said in (b"", b"[]", b'{"retry_after": "x"}', b'{"retry_after": 1e999}'):
        _, _, error = exchange(DiscordSettings, Reply(429, {"Retry-After": "7"}, said))
        assert (error.permanent, error.retry_after) == (False, 7.0)
    request, _, error = exchange(DiscordSettings, Reply(204))
    assert error is None
    assert json.loads(request.body)["embeds"][0]["title"].startswith("CRITICAL")


def test_pagerduty_gets_the_key_in_the_event_and_nowhere_else() -> None:
    key = "canary-routing-key"
    request, said, error = exchange(PagerDutySettings, Reply(202, body=b'{"status":"success"}'), secrets=(key,))
    assert (said, error) == ('{"status":"success"}', None)
    assert json.loads(request.body)["routing_key"] == key
    assert key not in request.path + str(request.headers)
    _, _, refused = exchange(PagerDutySettings, Reply(400, body=f"invalid key {key}".encode()), secrets=(key,))
    assert refused.permanent
    assert key not in str(refused)
    assert PagerDutySettings().default_url() == "https://events.pagerduty.com/v2/enqueue"
    assert list(PagerDutySettings().faults()) == []


def test_promise_E12_the_reference_library_verifies_every_key_while_they_rotate() -> None:
    request, _, error = exchange(WebhookSettings, secrets=(SECRET, OTHER_SECRET))
    assert error is None
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(request.body, dict(request.headers))["data"]["run"] == "rlhfd-test"
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "B" * 32).verify(request.body, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", dict(request.headers))


def test_a_template_is_filled_escaped_and_signed() -> None:
    template = '{{"text": "{title}", "where": "{where}", "evidence": "{evidence}"}}'
    request, _, error = exchange(WebhookSettings, secrets=(SECRET,), body_template=template)
    assert error is None
    body = Webhook(SECRET).verify(request.body, dict(request.headers))
    assert body["text"].startswith("CRITICAL rlhfd-test: TEST")
    assert body["evidence"].count("\n") == 1
    request, _, _ = exchange(WebhookSettings, secrets=(SECRET,), body_template="{evidence}", content_type="text/plain")
    assert request.headers["content-type"] == "text/plain"
    assert request.body.decode().startswith("train/kl  ▁")


@pytest.mark.parametrize(
    "template",
    ["{", "}", "{nothing}", "{run.__class__}", "{run[0]}", "{run!r}", "{run:>9}", "{0}", "{}", "{run:{run}}"],
)
def test_a_template_can_name_values_and_nothing_else(template: str) -> None:
    (fault,) = WebhookSettings(url="https://h", body_template=template).faults()
    assert fault[0] == "body_template"


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        (PagerDutySettings(), SecretError, "integration key"),
        (AppriseSettings(), SecretError, "Apprise needs its URLs"),
        (SlackSettings(url="http://10.0.0.1/"), TargetError, "private"),
    ],
)
def test_what_lacks_something_is_refused_when_made(
    settings: TargetSettings, error: type[AlertsError], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        make_receiver(Target("t", settings))


def test_apprise_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"pip install 'rlhfd\[apprise\]'"):
        make_receiver(Target("t", AppriseSettings(), secrets=("json://h",)))


@pytest.fixture
def _apprise_s_log() -> Iterator[None]:
    level = logging.getLogger("apprise").level
    yield
    logging.getLogger("apprise").setLevel(level)


@pytest.mark.usefixtures("_apprise_s_log")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise's own
def test_apprise_tells_every_service_and_those_that_failed_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with WebhookServer() as good, WebhookServer(Reply(500), Reply(200)) as bad:
            urls = tuple(f"json://user:canary-4711@127.0.0.1:{server.port}/" for server in (good, bad))
            one = make_receiver(Target("t", AppriseSettings(), secrets=urls))
            with pytest.raises(DeliveryError, match="could not reach its URL number 2") as caught:
                await one.send(*SAMPLE, 1.7e9)
            assert not caught.value.permanent
            assert await one.send(*SAMPLE, 1.7e9) == "told 2 services"
            assert (len(good.requests), len(bad.requests)) == (1, 2)
            assert json.loads(good.requests[0].body)["title"].startswith("CRITICAL rlhfd-test")
            unknown = make_receiver(Target("t", AppriseSettings(), secrets=("nonsense://canary-4711",)))
            with pytest.raises(DeliveryError) as refused:
                await unknown.send(*SAMPLE, 1.7e9)
            assert "canary" not in str(refused.value)

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert "canary" not in caplog.text

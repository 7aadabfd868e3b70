"""A real daemon whose targets break: other targets hear of it, nothing is lost, no secret is shown."""

from __future__ import annotations

import json
import math
import re
import signal
import sqlite3
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from rlhfd_alerts.testing import SECRET, Reply
from rlhfd_daemon.control import ask
from rlhfd_emitter import Emitter
from services import Server
from support import DaemonProcess, invoked, running_daemon, wait_for

CANARY = "c4n4ry"
HTTP = '[http]\nlisten = "127.0.0.1:0"\n'


def fire(daemon: DaemonProcess, run: str = "ppo", metric: str = "train/loss") -> None:
    """Emit a value that is an alert."""
    fire_all(daemon, run, metric=metric)


def fire_all(daemon: DaemonProcess, *runs: str, metric: str = "train/loss") -> None:
    """Emit a value that is an alert in each of the runs."""
    emitters = [Emitter(run, role="trainer", boot="boot-1", endpoint=daemon.endpoint) for run in runs]
    for emitter in emitters:
        emitter.emit(1, {metric: 1.0})
        emitter.emit(2, {metric: math.nan})
    for emitter in emitters:
        wait_for(lambda emitter=emitter: not len(emitter._ring))  # type: ignore[misc]
        emitter.close()


def cli(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return invoked(*arguments, "--config", daemon.config, environ=daemon.environ)


def test_promise_D15_a_target_that_is_gone_is_told_through_another_and_tried_again_after_a_reload(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    slack, pager = serve(Reply(410, body=b"channel_is_archived")), serve()
    config = slack.target("chat", "slack") + pager.target("pager", "pagerduty", 'secret_env = "KEY"')
    daemon = DaemonProcess(short_dir, config, {"KEY": "key"}).start()
    fire(daemon)
    told = wait_for(lambda: [one for one in pager.bodies() if one["payload"]["class"] == "notifier_degraded"])[0]
    assert told["event_action"] == "trigger"
    assert "Alerts do not reach the target chat: it is disabled (HTTP 410" in told["payload"]["summary"]
    assert "channel_is_archived" in told["payload"]["summary"]
    chat = daemon.status()["targets"]["chat"]
    assert chat["disabled_at"] > 0
    assert chat["pending"] >= 1
    daemon.kill()
    daemon.start()
    assert daemon.status()["targets"]["chat"]["disabled_at"] == chat["disabled_at"]
    fire(daemon, run="second")
    wait_for(lambda: any(one["payload"]["component"] == "second" for one in pager.bodies()))
    assert len(slack.requests) == 1, "a target that is gone was asked again"
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: daemon.status()["targets"]["chat"].get("pending", 0) == 0)
    said = "".join(request.body.decode() for request in slack.requests)
    assert "second" in said, "what it was owed has arrived"
    wait_for(
        lambda: any(
            (one["event_action"], one["payload"]["class"]) == ("resolve", "notifier_degraded") for one in pager.bodies()
        )
    )
    assert "notifier_degraded" not in "".join(request.body.decode() for request in slack.requests[1:])
    assert daemon.stop() == 0


def test_a_notification_that_is_refused_is_kept_and_told_through_another(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    hook, pager = serve(*[Reply(404)] * 9), serve()
    config = hook.target("hook", "webhook", 'secret_env = "S"') + pager.target("pager", "pagerduty", 'secret_env = "K"')
    with running_daemon(short_dir, config, {"S": SECRET, "K": "key"}) as daemon:
        fire(daemon)
        told = wait_for(lambda: [one for one in pager.bodies() if one["payload"]["class"] == "notification_given_up"])
        assert "The target hook refused an alert for good: HTTP 404" in told[0]["payload"]["summary"]
        assert daemon.status()["targets"]["hook"]["dead"] == 1
        assert len(hook.requests) == 1


def test_promise_D16_sigterm_with_100_pending_and_a_hanging_target_ends_in_time_and_all_is_sent_later(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    hook = serve(Reply(hang=True))
    config = hook.target("hook", "webhook", 'secret_env = "S"', "timeout_seconds = 200")
    daemon = DaemonProcess(short_dir, config, {"S": SECRET}).start()
    fire_all(daemon, *(f"run-{number}" for number in range(100)))
    wait_for(lambda: daemon.status()["targets"]["hook"].get("pending", 0) >= 100)
    assert daemon.stop() == 0  # 6 s are promised to a machine that has nothing else to do
    daemon.start()
    wait_for(lambda: len({body["data"]["run"] for body in hook.bodies()[1:]}) >= 100, 60)
    wait_for(lambda: daemon.status()["targets"]["hook"].get("pending", 0) == 0)
    assert daemon.stop() == 0


def test_promise_D14_a_heartbeat_goes_out_while_the_daemon_lives_and_stops_with_it(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    watcher = serve(Reply(500))
    config = f'[heartbeat]\nurl = "{watcher.url}"\ninterval_seconds = 1\nallow_private = true\nmethod = "HEAD"\n'
    daemon = DaemonProcess(short_dir, config).start()
    wait_for(lambda: len(watcher.requests) >= 3)
    assert {request.method for request in watcher.requests} == {"HEAD"}
    beats = daemon.status()["heartbeat"]
    assert (beats["failed_total"], beats["sent_total"] >= 2) == (1, True)
    daemon.signal(signal.SIGSTOP)  # a loop that does not turn
    seen = len(watcher.requests)
    with pytest.raises(TimeoutError):
        wait_for(lambda: len(watcher.requests) > seen + 1, 3.5)
    daemon.signal(signal.SIGCONT)
    wait_for(lambda: len(watcher.requests) > seen + 1)
    daemon.kill()
    seen = len(watcher.requests)
    with pytest.raises(TimeoutError):
        wait_for(lambda: len(watcher.requests) > seen + 1, 3.0)


def test_promise_E9_no_secret_is_in_any_log_page_status_or_database(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    echo = Reply(400, body=f"{CANARY} key {CANARY}".encode())
    breaking = {
        "refusing": serve(*[echo] * 99),
        "failing": serve(*[Reply(500, body=CANARY.encode())] * 99),
        "redirecting": serve(*[Reply(302, {"Location": f"http://{CANARY}/"})] * 9),
        "hanging": serve(*[Reply(hang=True)] * 9),
        "gone": serve(*[Reply(410, body=CANARY.encode())] * 9),
        "limited": serve(*[Reply(429, {"Retry-After": CANARY})] * 99),
    }  # fmt: skip
    environ, config = (
        {"SIGN": SECRET, "KEY": CANARY * 4, "MAIL": CANARY * 4, "APPRISE": f"json://u:{CANARY}@127.0.0.1:1/"},
        HTTP,
    )
    urls = {name: f"{server.url}/{CANARY}?token={CANARY}" for name, server in breaking.items()}
    urls |= {"nowhere": f"http://no-such-host.invalid/{CANARY}", "closed": f"http://127.0.0.1:1/{CANARY}"}
    for name, url in urls.items():
        environ[f"URL_{name.upper()}"] = url
        for kind, secret in (
            ("slack", ""),
            ("discord", ""),
            ("webhook", "SIGN"),
            ("pagerduty", "KEY"),
            ("alertmanager", "KEY"),
        ):
            rows = [
                f"[targets.{name}-{kind}]",
                f'type = "{kind}"',
                f'url_env = "URL_{name.upper()}"',
                "allow_private = true",
            ]
            rows += [f'secret_env = "{secret}"'] * bool(secret) + ["timeout_seconds = 1.0"]
            config += "\n".join(rows) + "\n"
    config += (
        '[targets.mail]\ntype = "email"\nhost = "127.0.0.1"\nport = 1\nusername = "u"\nsecret_env = "MAIL"\n'
        'sender = "a@b"\nto = ["c@d"]\n[targets.apprise]\ntype = "apprise"\nsecret_env = "APPRISE"\n'
        '[heartbeat]\nurl_env = "URL_REFUSING"\nallow_private = true\n'
    )  # fmt: skip
    with running_daemon(short_dir, config, environ) as daemon:
        fire(daemon)
        counters = wait_for(lambda: _all_tried(daemon.status()["targets"]), 60)
        address = daemon.status()["http"]["address"]
        shown = json.dumps(daemon.status()) + _page(address)
        tests = [cli(daemon, "notify", "test", name) for name in ("refusing-slack", "closed-pagerduty", "mail")]
        shown += "".join(
            one.stdout + one.stderr for one in (*tests, cli(daemon, "config", "check"), cli(daemon, "status"))
        )
    assert [one.returncode for one in tests] == [1, 1, 1]
    assert len(counters) == 5 * 8 + 2
    assert CANARY not in shown
    for path in [daemon.log, *(one for one in daemon.state.rglob("*") if one.is_file())]:
        assert CANARY.encode() not in path.read_bytes(), f"a secret is in {path.name}"
    with sqlite3.connect(daemon.state / "alerts.sqlite3") as database:
        assert CANARY not in "\n".join(database.iterdump())
    assert CANARY in "".join(request.path for request in breaking["refusing"].requests), "the secrets were in use"


def _all_tried(targets: dict[str, Any]) -> dict[str, Any]:
    tried = all(one["attempts_failed_total"] or one["disabled_at"] for one in targets.values())
    return targets if tried else {}


def _page(address: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        body: bytes = response.read()
    return body.decode()


def test_promise_E10_no_name_commands_a_terminal_a_chat_a_log_or_a_scrape(
    short_dir: Path, serve: Callable[..., Server]
) -> None:
    chat = serve()
    hostile = 'r\x1b[2J\r\n<!channel> [red]"\\} 1\x07'
    with running_daemon(short_dir, HTTP + chat.target("chat", "slack"), {}) as daemon:
        fire(daemon, run=hostile, metric=f"train/{hostile}")
        wait_for(lambda: chat.requests)
        page = _page(daemon.status()["http"]["address"])
        known: Any = ask(daemon.control, "GET", "/api/v1/alerts")["episodes"]
        id_ = known[0]["id"]
        said = [
            cli(daemon, *arguments)
            for arguments in (
                ("status",), ("alerts", "show", id_), ("outbox", "list", "--all"),
                ("alerts", "ack", id_, "-a", hostile, "-m", hostile), ("alerts", "list"),
                ("silence", "add", "run=r", "-a", hostile, "-m", hostile), ("silence", "list"),
            )
        ]  # fmt: skip
    assert [one.returncode for one in said] == [0] * len(said), [one.stderr for one in said]
    shown = "".join(one.stdout + one.stderr for one in said)
    log = daemon.log.read_text()
    (blocks,) = (body["blocks"] for body in chat.bodies()[:1])
    for text in (shown, log):
        assert "channel" in text
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text), text
    assert not re.search(r"\\u00[01]|\\r", json.dumps(blocks)), blocks
    families = {one.name: one for one in text_string_to_metric_families(page)}
    assert {s.labels["run"] for one in families.values() for s in one.samples if "run" in s.labels} == {hostile}
    for line in log.splitlines():
        json.loads(line)
    formatted = [text for block in blocks for text in block.get("fields", [block.get("text")])]
    assert not [text for text in formatted if text["type"] == "mrkdwn" and "<!channel>" in text["text"]]


def test_a_sample_shows_what_the_other_side_said(short_dir: Path, serve: Callable[..., Server]) -> None:
    chat = serve(Reply(body=b"ok"), Reply(body=b"ok"), Reply(403, body=b"invalid_token"))
    daemon = DaemonProcess(short_dir, chat.target("chat", "slack"))
    for arguments, code, said in (
        (("chat",), 0, "chat (slack): accepted; it said: ok\n"),
        (("chat", "--resolved"), 0, "chat (slack): accepted; it said: ok\n"),
        (("chat",), 1, "chat (slack): not accepted, not to be tried again: HTTP 403"),
        (("chatt",), 2, "no target 'chatt'; did you mean \"chat\"?"),
    ):
        result = cli(daemon, "notify", "test", *arguments)
        assert result.returncode == code, result.stderr
        assert said in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
    first, second = (body["blocks"][0]["text"]["text"] for body in chat.bodies()[:2])
    assert (first[:10], second[:10]) == ("🔴 CRITICAL", "✅ RESOLVED")

"""What receivers render: golden files, documented limits, nothing that becomes markup; for any text and any numbers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldens import CASES, CONTEXT, FOLDER, HOSTILE, MAIL, content, message, rendered
from rlhfd_alerts.context import Context, Links
from rlhfd_alerts.errors import DeliveryError
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.message import Fact, Link, Message, read
from rlhfd_alerts.receivers import discord, email, pagerduty, slack
from rlhfd_alerts.sample import sample
from rlhfd_alerts.text import clip, clip_lines, number, one_line, units

SPECIAL = (
    "<!channel>",
    "<@U1>",
    "@everyone",
    "`",
    "```",
    "*_~",
    "&amp;",
    "</pre>",
    "\x1b[31m",
    "👩\u200d🚀",
    "e\u0301",
)
PIECES = st.lists(st.text(max_size=20) | st.sampled_from(SPECIAL), max_size=5).map("".join)
TEXT = st.builds(lambda text, times: one_line(text * times), PIECES, st.sampled_from((1, 1, 3, 200)))
FACT = st.builds(
    Fact, fingerprint=st.just("f"), rule=TEXT, metric=TEXT, severity=st.sampled_from(Severity), is_firing=st.booleans(),
    onset_step=st.none() | st.integers(), onset_time=st.just("2023-11-14T22:13:20.000Z"),
    ended_step=st.none() | st.integers(), course=TEXT, sparkline=st.just("▁█"), where=TEXT, labels=st.just(()),
)  # fmt: skip
TIME = st.none() | st.just("2023-11-14T22:13:20.000Z")
NAMES = st.lists(TEXT, max_size=3).map(tuple)
MESSAGE = st.builds(
    Message, id=st.just("msg_1"), subject=st.just("ep_1"), run=TEXT, boot=TEXT, severity=st.sampled_from(Severity),
    is_firing=st.booleans(), time=st.just("2023-11-14T22:13:20.000Z"), rule=TEXT, rule_url=TEXT, family=TEXT,
    summary=TEXT, remedy=TEXT, step=st.none() | st.integers(), since_step=st.none() | st.integers(), since_time=TIME,
    ended_step=st.none() | st.integers(), ended_time=TIME, facts=st.lists(FACT, max_size=14).map(tuple),
    more=st.integers(0, 10_000), cause=st.none() | TEXT, confidence=st.none() | st.floats(0, 1), roles=NAMES,
    ranks=NAMES, hosts=NAMES,
    links=st.lists(st.builds(Link, title=TEXT, url=TEXT.map(lambda text: f"https://h/{text}")), max_size=3).map(tuple),
)  # fmt: skip


def texts(value: object) -> Iterator[str]:
    """Every string in a payload."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def check_slack(payload: dict[str, Any]) -> None:
    """Slack's documented limits, and that mrkdwn holds no mention but our own and no link but a configured one."""
    blocks = payload["blocks"]
    assert 1 <= len(blocks) <= 50
    assert sum(units(text) for text in texts(blocks)) <= 13_000
    assert units(payload["text"]) <= 4000
    for block in blocks:
        assert block["type"] in ("header", "section")
        inner = block.get("fields") or [block["text"]]
        assert len(inner) <= 10
        limit = 150 if block["type"] == "header" else 2000 if "fields" in block else 3000
        for text in inner:
            assert 1 <= units(text["text"]) <= limit
            if text["type"] == "mrkdwn":
                check_mrkdwn(text["text"])
    check_mrkdwn(payload["text"])


def check_mrkdwn(text: str) -> None:
    for inside in re.findall(r"<(.*?)>", text):
        assert inside in ("!channel", "!here") or inside.startswith("https://"), text
    assert "<" not in re.sub(r"<[^<>]*>", "", text)
    assert not re.search(r"&(?!amp;|lt;|gt;)", text), text


def check_discord(payload: dict[str, Any]) -> None:
    """Discord's documented limits."""
    assert payload["allowed_mentions"] == {"parse": []}
    (embed,) = payload["embeds"]
    assert units(embed["title"]) <= 256
    assert units(embed.get("description", "")) <= 4096
    fields = embed.get("fields", [])
    assert len(fields) <= 25
    for field in fields:
        assert 1 <= units(field["name"]) <= 256
        assert 1 <= units(field["value"]) <= 1024
    counted = [embed["title"], embed.get("description", ""), embed.get("footer", {}).get("text", "")]
    counted += [text for field in fields for text in (field["name"], field["value"])]
    assert sum(map(units, counted)) <= 6000


def check_pagerduty(event: dict[str, Any]) -> None:
    """PagerDuty's documented limits."""
    assert len(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")) <= pagerduty.MAX_BYTES
    assert 1 <= len(event["dedup_key"]) <= 255
    assert event["event_action"] in ("trigger", "resolve")
    assert units(event["payload"]["summary"]) <= 1024
    assert event["payload"]["severity"] in ("critical", "error", "warning", "info")


@pytest.mark.parametrize("name", CASES)
def test_every_receiver_renders_its_golden_file(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    assert json.loads(json.dumps(rendered(message(CASES[name]())))) == expected


@given(MESSAGE, st.sampled_from(["", "channel", "here"]))
@settings(max_examples=60, deadline=None)
def test_any_message_is_within_every_limit(one: Message, mention: str) -> None:
    check_slack(slack.render(one, mention))
    check_discord(discord.render(one))
    check_pagerduty(pagerduty.render(one, "key"))
    mail = email.render(one, MAIL, 0.0)
    assert "\n" not in mail["Subject"]
    assert mail.as_bytes()


@given(st.lists(MESSAGE, min_size=1, max_size=4), st.integers(1, 300), st.sampled_from(["", "channel"]))
@settings(max_examples=25, deadline=None)
def test_any_digest_is_within_every_limit_and_names_critical_ones_first(
    some: list[Message], times: int, mention: str
) -> None:
    critical = replace(some[0], severity=Severity.CRITICAL, is_firing=True, run="the-critical-run")
    many = [*some * times, critical]
    shown, told = slack.render_digest(many, mention), discord.render_digest(many)
    check_slack(shown)
    check_discord(told)
    firing = sum(one.is_firing and one.severity is Severity.CRITICAL for one in many)
    assert f"{firing} critical" in shown["blocks"][0]["text"]["text"]
    assert f"{firing} critical" in told["embeds"][0]["title"]
    first = next(b for b in shown["blocks"][1:] if not b["text"]["text"].startswith("<!"))["text"]["text"]
    assert first.startswith("🔴")
    assert told["embeds"][0]["description"].startswith("🔴")
    lines = "\n".join(b["text"]["text"] for b in shown["blocks"][1:]).split("\n")
    named = sum(line[0] in "🔴🟠🔵✅" for line in lines)
    left = re.findall(r"… and (\d+) more", lines[-1])
    assert named + (int(left[0]) if left else 0) == len(many)


def test_promise_E10_hostile_text_is_nowhere_markup() -> None:
    payload = rendered(message(CASES["hostile"]()))
    formatted = [text for block in payload["slack"]["blocks"] for text in block.get("fields", [block.get("text")])]
    assert sum("<!channel>" in text["text"] for text in formatted if text["type"] == "mrkdwn") == 0  # it only warns
    assert sum("<!channel>" in text["text"] for text in formatted if text["type"] == "plain_text") == 3
    assert "<script" not in payload["email_html"]
    assert html.unescape(payload["email_html"]).count("<script") > 0
    assert all(text.isprintable() for text in texts(payload["pagerduty"]))
    assert "Bcc" not in payload["email"]
    for field in payload["discord"]["embeds"][0]["fields"]:
        if field["name"] != "Evidence":
            assert not re.search(r"(?<!\\)[*`~@<]", re.sub(r"\]\(https://[^)]*\)", "", field["value"])), field


def test_a_mention_is_for_what_is_critical_and_fires() -> None:
    critical, over = message(CASES["episode"]()), message(CASES["episode_over"]())
    assert slack.render(critical, "here")["text"].startswith("<!here> CRITICAL")
    assert "<!here>" not in "".join(texts(slack.render(over, "here")))
    assert "<!here>" not in "".join(texts(slack.render(message(CASES["firing"]()), "here")))
    assert "<!" not in "".join(texts(slack.render(critical)))


@pytest.mark.parametrize("resolved", [False, True])
def test_a_message_says_what_where_since_when_and_what_to_do(resolved: bool) -> None:
    links = Links("https://g/{run}?host={host}", "https://d/rules.md")
    one = read(*sample("node-7", resolved, 1.7e9), Context(host="other", links=links))
    assert one.status == ("RESOLVED" if resolved else "CRITICAL")
    assert one.where == "node-7, PPOTrainer, rank 0"
    assert one.since.startswith("step 116 (2023-11-14 22:09:20 UTC)")
    assert one.since.endswith("over step 120 (2023-11-14 22:13:20 UTC)") == resolved
    assert one.facts[0].line == "train/kl  ▁▁▁▁▁▁▂▃▅█  0.031 → 0.058 → 0.75  since step 116" + (
        "  until step 120  (PPOTrainer rank 0 node-7)" if resolved else "  (PPOTrainer rank 0 node-7)"
    )
    assert [link.url for link in one.links] == ["https://g/rlhfd-test?host=node-7", "https://d/rules.md#kl_runaway"]
    assert one.confidence == 0.97
    shown = "".join(texts(rendered(one)["slack"]))
    for part in ("rlhfd-test", "TEST: train/kl is 0.75", "▁▁▁▁▁▁▂▃▅█", "train/reward", "node-7", "97%"):
        assert part in shown
    assert ("--algo.kl.init_coef" in shown) != resolved


def test_the_end_of_an_episode_has_the_subject_of_its_beginning() -> None:
    begun, over = (read(*sample("h", resolved, 1.7e9), CONTEXT) for resolved in (False, True))
    assert begun.id != over.id
    triggered, resolved = pagerduty.render(begun, "k"), pagerduty.render(over, "k")
    assert (triggered["event_action"], resolved["event_action"]) == ("trigger", "resolve")
    assert triggered["dedup_key"] == resolved["dedup_key"] == begun.subject
    assert email.render(begun, MAIL, 0.0)["References"] == email.render(over, MAIL, 0.0)["References"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": {}}', b'{"data": 3}', content(CASES["firing"]())[:-9]])
def test_a_body_that_is_none_is_given_up(body: bytes) -> None:
    with pytest.raises(DeliveryError) as caught:
        read("msg_1", body, CONTEXT)
    assert caught.value.permanent


@given(st.text(), st.integers(0, 60))
def test_clipped_text_fits_and_counts_what_is_missing(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    assert units(clipped) <= limit
    if units(text) <= limit:
        assert clipped == text
    elif "… +" in clipped and limit > 12:
        kept, _, missing = clipped.rpartition("… +")
        assert text.startswith(kept)
        assert len(kept) + int(missing) == len(text)


def test_a_character_of_several_parts_is_not_split() -> None:
    assert clip("ab" + "e\u0301" * 20, 9) == "abe\u0301… +38"
    assert clip("ab" + "e\u0301" * 20, 8) == "ab… +40"
    assert clip("😀" * 20, 10).startswith("😀😀")
    assert clip_lines(["one", "two", "three"], 17, more=5) == "one\n… and 7 more"
    assert clip_lines([], 5) == ""


def test_numbers_and_lines_for_people() -> None:
    assert [number(one) for one in (0.123456, 3, "NaN", None, 1e9)] == ["0.1235", "3", "NaN", "?", "1e+09"]
    assert one_line(f"a\x1b[31m\r\nb\u202e{chr(0)}") == "a [31m b"
    assert one_line(HOSTILE).isprintable()

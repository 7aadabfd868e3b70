"""What was done about an episode is news of it: told at once to those who know of it, once, also after a restart."""

from __future__ import annotations

from dataclasses import replace

from rlhfd_alerts.alert import Transition
from rlhfd_alerts.content import body
from rlhfd_alerts.finding import Severity
from rlhfd_alerts.groups import Dispatcher
from rlhfd_alerts.lifecycle import Lifecycle
from rlhfd_alerts.matchers import parse_matchers
from rlhfd_alerts.places import Place, place_from_json, place_to_json
from rlhfd_alerts.silences import Silence
from rlhfd_alerts.testing import example_finding
from rlhfd_daemon.episodes import Episodes

NOW = 1.7e9


class Alerts:
    """Findings, through lifecycle and episodes, to one target."""

    def __init__(self) -> None:
        self.lifecycle, self.episodes, self.record = Lifecycle(), Episodes(), 0
        self.dispatcher = Dispatcher(None, ("chat",))
        self.transitions: list[Transition] = []

    def find(self, rule: str = "non_finite", **changes: object) -> list[str]:
        """The summaries of what is told."""
        self.record += 1
        values = {"metric": "train/loss", "family": "nonfinite", "severity": Severity.CRITICAL, "step": 1, **changes}
        finding = replace(example_finding(rule=rule, **values), time=NOW + self.record)
        found = self.lifecycle.observe(finding, self.record)
        followed = self.episodes.follow([found] if found is not None else [])
        self.transitions += followed
        told = self.dispatcher.observe(followed, NOW + self.record)
        return [str(body(one.notification)["data"]["summary"]) for one in told]  # type: ignore[index]

    def act(self, name: str, **changes: object) -> list[str]:
        episode = self.episodes.open[0].id if self.episodes.open else ""
        values = {"metric": f"action/{name}", "family": "action", "severity": Severity.WARNING, "summary": name}
        return self.find("action_taken", **{**values, "episode": episode, **changes})


def test_an_action_is_told_at_once_as_part_of_its_episode() -> None:
    alerts = Alerts()
    assert len(alerts.find()) == 1
    assert alerts.act("stop") == ["stop (and 1 more)"]
    assert alerts.act("stop") == [], "nothing has changed"
    assert alerts.act("signal") == ["signal (and 2 more)"]
    assert len(alerts.episodes.open) == 1
    assert alerts.find("level_change", metric="train/kl", family="kl") == [], "other alerts come with the next message"


def test_it_is_not_told_again_after_a_restart_and_what_came_later_is() -> None:
    alerts = Alerts()
    alerts.find()
    alerts.act("stop")
    rows = {key: text for key, text in alerts.dispatcher.take_changes().items() if text is not None}
    alerts.dispatcher = Dispatcher(None, ("chat",))
    alerts.dispatcher.restore([one.alert for one in alerts.transitions], rows, NOW + 10)
    assert alerts.dispatcher.tick(NOW + 60) == []
    assert alerts.act("signal") == ["signal (and 2 more)"]


def test_it_joins_the_episode_that_it_names_although_another_is_closer() -> None:
    alerts = Alerts()
    alerts.find(step=1, onset_step=1)
    first = alerts.episodes.open[0].id
    alerts.find("oom", metric="host/oom", family="system", step=900, onset_step=900)
    assert len(alerts.episodes.open) == 2
    alerts.act("stop", step=900, onset_step=900, episode=first)
    assert [alerts.episodes.of(one.alert.fingerprint) for one in alerts.transitions][-1] == first


def test_what_is_silenced_is_not_told_of_actions_either() -> None:
    alerts = Alerts()
    alerts.find()
    silence = Silence("s", parse_matchers(['run=~".+"']), "ada", "known", NOW, NOW + 3600)
    alerts.dispatcher.silence(silence, NOW + 1)
    assert alerts.act("stop") == []


def test_places_of_before_there_were_actions_are_read() -> None:
    assert place_from_json('["gr_1","critical",2,2]') == Place("gr_1", Severity.CRITICAL, 2, 2, 0)
    place = Place("gr_1", None, 1, 2, 3)
    assert place_from_json(place_to_json(place)) == place

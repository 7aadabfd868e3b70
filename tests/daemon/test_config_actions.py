"""The actions section: off unless given, and every mistake is named with its place and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhfd_daemon.config import Config, load
from rlhfd_daemon.config_actions import SentinelAction, SignalAction, StopAction
from rlhfd_daemon.errors import ConfigError


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "rlhfd.toml"
    path.write_text(text)
    return load(path, {"HOME": str(tmp_path)})


def test_without_a_section_there_are_no_actions() -> None:
    assert load(None, {"HOME": "/root"}).actions == ()


def test_each_type_has_its_own_fields_and_is_for_critical_alerts_unless_it_says_otherwise(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
[[actions]]
type = "sentinel"
path = "/run/train/{run}.stop"
[[actions]]
type = "signal"
signal = "SIGUSR1"
role = "PPOTrainer"
rank = 0
dry_run = true
[[actions]]
type = "stop"
name = "stop-on-nan"
matchers = ['family="nonfinite"']
""",
    )
    assert config.actions == (
        SentinelAction(path="/run/train/{run}.stop"),
        SignalAction(signal="SIGUSR1", role="PPOTrainer", rank=0, dry_run=True),
        StopAction(name="stop-on-nan", matchers=('family="nonfinite"',)),
    )
    assert config.actions[0].matchers == ('severity="critical"',)


MISTAKES = {
    'type = "stopp"': 'actions[0].type: did you mean "stop"? must be one of: sentinel, signal, checkpoint, stop',
    "dry_run = true": "actions[0].type: must be one of: sentinel, signal, checkpoint, stop",
    'type = "stop"\ndryrun = true': 'actions[0].dryrun: unknown key; did you mean "dry_run"?',
    'type = "stop"\nmatchers = ["severity"]': "actions[0].matchers: 'severity' is no matcher",
    'type = "stop"\nmatchers = "x"': "actions[0].matchers: expected `array`",
    'type = "stop"\n[[actions]]\ntype = "stop"': "actions[1].name: there is more than one action called 'stop'",
    'type = "sentinel"': "actions[0].path: is missing",
    'type = "sentinel"\npath = "stop"': "actions[0].path: must be the absolute path of a file, without '..'",
    'type = "sentinel"\npath = "/run/../x"': "actions[0].path: must be the absolute path of a file, without '..'",
    'type = "sentinel"\npath = "/run/{step}"': "actions[0].path: may name {run}, {boot}, {rule}, {episode} only",
    'type = "signal"\nrole = "r"\nsignal = "SIGUSR"': "actions[0].signal: there is no signal 'SIGUSR'; did you mean",
    'type = "signal"\nrole = "r"\nsignal = "10"': "actions[0].signal: there is no signal '10'; write it like 'SIGUSR1'",
    'type = "signal"\nsignal = "SIGTERM"': "actions[0].role: is missing",
    'type = "signal"\nsignal = "SIGTERM"\nrole = "r"\nrank = -1': "actions[0].rank: expected `int` >= 0",
    'type = "stop"\nname = "a\\nb"': "actions[0].name: must be one line of printable text",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_named_with_their_place_and_the_way_out(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, f"[[actions]]\n{text}\n")
    assert MISTAKES[text] in str(raised.value)


def test_one_table_in_place_of_a_list_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="actions"):
        loaded(tmp_path, '[actions]\ntype = "stop"\n')

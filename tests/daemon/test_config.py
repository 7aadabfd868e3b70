"""The configuration: good defaults, every mistake named with its place, no secret in the file or in an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rlhfd_alerts.receivers.webhook import WebhookSettings
from rlhfd_daemon.config import Config, load
from rlhfd_daemon.config_targets import read_target
from rlhfd_daemon.errors import ConfigError


def loaded(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = tmp_path / "rlhfd.toml"
    path.write_text(text)
    return load(path, environ or {})


def complaint(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_no_file_and_an_empty_file_give_the_defaults(tmp_path: Path) -> None:
    config = load(None, {"STATE_DIRECTORY": "/var/lib/rlhfd"})
    assert config == loaded(tmp_path, "", {"STATE_DIRECTORY": "/var/lib/rlhfd"})
    assert config.daemon.state_dir == "/var/lib/rlhfd"
    assert (config.ingest.endpoint, config.ingest.max_frame_bytes, config.ingest.allowed_uids) == ("", 262144, ())
    assert (config.framelog.segment_bytes, config.framelog.max_bytes) == (16 * 2**20, 2**30)
    assert (config.analyzers.adaptive.enabled, config.analyzers.non_finite.clear_after) == (True, 5)
    assert config.analyzers.adaptive.ignore == ()
    assert config.targets == {}


def test_every_setting_is_taken_from_the_file(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        [daemon]
        state_dir = "/srv/rlhfd"
        [ingest]
        endpoint = "ipc:///run/other/rlhfd.sock"
        allowed_uids = [1000, 1001]
        [analyzers.forecast]
        warning_minutes = 45
        [analyzers.adaptive]
        ignore = ["a/*"]
        [targets.ops]
        url = "https://example.org/hook"
        secret_env = "HOOK_SECRET"
        """,
    )
    assert config.daemon.state_dir == "/srv/rlhfd"
    assert config.ingest.allowed_uids == (1000, 1001)
    assert config.analyzers.forecast.warning_minutes == 45.0
    assert config.analyzers.forecast.critical_minutes == 10.0
    assert config.analyzers.adaptive.ignore == ("a/*",)
    assert isinstance(config.targets["ops"], WebhookSettings)
    assert config.targets["ops"].timeout_seconds == 15


def test_a_prediction_may_be_critical_as_soon_as_it_is_a_warning(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[analyzers.forecast]\ncritical_minutes = 30")
    assert config.analyzers.forecast.critical_minutes == config.analyzers.forecast.warning_minutes


def test_an_unknown_key_is_named_with_the_nearest_valid_one(tmp_path: Path) -> None:
    assert complaint(tmp_path, '[ingest]\nendpont = "ipc:///x"') == [
        'rlhfd.toml: ingest.endpont: unknown key; did you mean "endpoint"?'
    ]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = """
    analyzer = 1
    [framelog]
    segmentbytes = 1
    max_bytes = "1 GiB"
    [analyzers.absence]
    min_history = 4
    [analyzers.adaptive]
    zzz = 1
    [log]
    level = "loud"
    [targets.ops]
    timeout_seconds = -1
    [targets.ops.header]
    """
    assert sorted(complaint(tmp_path, text)) == [
        'rlhfd.toml: analyzer: unknown key; did you mean "analyzers"?',
        "rlhfd.toml: analyzers.absence.min_history: expected `int` >= 5",
        "rlhfd.toml: analyzers.adaptive.zzz: unknown key; valid here: enabled, ignore",
        "rlhfd.toml: framelog.max_bytes: expected `int`, got `str`",
        'rlhfd.toml: framelog.segmentbytes: unknown key; did you mean "segment_bytes"?',
        "rlhfd.toml: log.level: must be one of: debug, info, warning, error",
        "rlhfd.toml: targets.ops.header: unknown key; valid here: type, timeout_seconds, interval_seconds, "
        "send_resolved, secret_file, secret_env, url, url_file, url_env, allow_private, proxy, ca_file, insecure, "
        "body_template, content_type",
        "rlhfd.toml: targets.ops.timeout_seconds: expected `float` > 0.0",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[analyzers.forecast]\nlength_ratio = 0", "analyzers.forecast.length_ratio: expected `float` > 0.0"),
        ("[analyzers.forecast]\nlength_ratio = nan", "analyzers.forecast.length_ratio: "),
        ("[analyzers.forecast]\nlength_ratio = inf", "analyzers.forecast.length_ratio: "),
        (
            "[analyzers.forecast]\ncritical_minutes = 31",
            "analyzers.forecast.critical_minutes: must be at most warning_minutes (30); lower it, or set "
            "warning_minutes to 31 or more",
        ),
        ("[analyzers.forecast]\nwarning_minutes = 5", "analyzers.forecast.critical_minutes: must be at most "),
        ("[analyzers.adaptive]\nignore = ['a', 1]", "analyzers.adaptive.ignore[1]: expected `str`, got `int`"),
        ("[framelog]\nsegment_bytes = 0", "framelog.segment_bytes: expected `int` >= 4096"),
        ("[framelog]\nmax_bytes = 20_000_000", "framelog.max_bytes: must be at least twice segment_bytes"),
        ("[ingest]\nmax_frame_bytes = 2_000_000", "ingest.max_frame_bytes: expected `int` <= 1048576"),
        ("[ingest]\nendpoint = 'tcp://0.0.0.0:5555'", "ingest.endpoint: must be ipc://"),
        (f"[ingest]\nendpoint = 'ipc:///{'x' * 120}'", "ingest.endpoint: the path is longer than 107 bytes"),
        ("[daemon]\nstate_dir = 'relative'", "daemon.state_dir: must be an absolute path"),
        ("[control]\nsocket = 'relative'", "control.socket: must be an absolute path"),
        ("ingest = 3", "ingest: must be a section, [ingest]"),
        ("targets = 3", "targets: expected `object`, got `int`"),
        ("[targets]\nops = 3", "targets.ops: must be a section, [targets.ops]"),
        ("[targets.'a b']\nurl = 'https://h'", "targets.a b: a target's name is"),
        ("[targets.a]\nurl = 'https://h'\ntype = 'qqq'", "targets.a.type: must be one of: alertmanager, "),
        ("[targets.a]\ntype = 'web_hook'", 'targets.a.type: did you mean "webhook"? must be one of: '),
        ("[targets.a]\ntype = ['webhook']", "targets.a.type: must be one of: "),
        ("[targets.a]\n", "targets.a.url: is missing (or url_file, url_env)"),
        ("[targets.a]\nurl = 'https://h'\nurl_env = 'A'", "targets.a.url_env: give one of url, url_file and url_env"),
        ("[targets.a]\nurl = 'http://10.0.0.1/'", "targets.a.url: a loopback or private address; allow_private = true"),
        (
            "[targets.a]\nurl = 'http://localhost/'",
            "targets.a.url: a loopback or private address; allow_private = true",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = complaint(tmp_path, text)
    assert line.startswith(f"rlhfd.toml: {expected}")


@pytest.mark.parametrize(
    "url",
    [
        "example.org/x",
        "ftp://example.org",
        "https://",
        "https:///x",
        "http://h:port",
        "http://[::1",
        "https://h/a b",
    ],
)
def test_a_url_needs_http_and_a_host(tmp_path: Path, url: str) -> None:
    assert complaint(tmp_path, f"[targets.a]\nurl = '{url}'") == [
        "rlhfd.toml: targets.a.url: must be http:// or https:// with a host"
    ]


CANARY = "c4n4ry"


@pytest.mark.parametrize(
    "text",
    [
        f"secret = '{CANARY}'\nurl = 'https://h'",
        f"url = 'https://user:{CANARY}@h/'",
        f"url = 'gopher://h/{CANARY}'",
        f"url = ['{CANARY}']",
        f"url = 'https://h/{CANARY}'\nsecret_env = 'A'\nsecret_file = '/b'",
    ],
)
def test_promise_E9_no_error_shows_a_secret(tmp_path: Path, text: str) -> None:
    lines = complaint(tmp_path, f"[targets.a]\n{text}")
    assert len(lines) == 1
    assert CANARY not in lines[0]


def test_an_inline_secret_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (line,) = complaint(tmp_path, "[targets.a]\nurl = 'https://h'\nsecret = 'x'")
    assert line.endswith("targets.a.secret: a secret must not be in this file; name it with secret_file or secret_env")


def test_a_target_does_not_show_its_url_in_its_repr() -> None:
    assert CANARY not in repr(Config(targets={"a": WebhookSettings(url=f"https://h/{CANARY}")}))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[ingest\n", "rlhfd.toml: not valid TOML: .*line 1, column 8"),
        (b"a = 1\na = 2\n", "not valid TOML"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"\xff\xfe", r"rlhfd.toml: not UTF-8 text \(byte 0\)"),
    ],
)
def test_text_that_is_not_toml_is_refused_with_line_and_column(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "rlhfd.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load(tmp_path / "rlhfd.toml", {})
    assert caught.value.exit_code == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.toml: cannot be read: No such file"):
        load(tmp_path / "missing.toml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("configured", "environ", "as_root", "as_user"),
    [
        ("/srv/x", {"STATE_DIRECTORY": "/var/lib/rlhfd"}, "/srv/x", "/srv/x"),
        ("~/x", {"HOME": "/home/ada"}, "/home/ada/x", "/home/ada/x"),
        ("", {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a", "/var/lib/a"),
        ("", {"XDG_STATE_HOME": "/state", "HOME": "/h"}, "/var/lib/rlhfd", "/state/rlhfd"),
        ("", {"XDG_STATE_HOME": "bad", "HOME": "/h"}, "/var/lib/rlhfd", "/h/.local/state/rlhfd"),
    ],
)
def test_where_state_lives(
    tmp_path: Path, configured: str, environ: dict[str, str], as_root: str, as_user: str
) -> None:
    text = f"[daemon]\nstate_dir = '{configured}'" if configured else ""
    expected = as_root if os.geteuid() == 0 else as_user
    assert loaded(tmp_path, text, environ).daemon.state_dir == expected


def secrets(environ: dict[str, str], **settings: Any) -> tuple[str, ...]:
    return read_target("a", WebhookSettings(url="https://h", **settings), environ).secrets


def test_secrets_come_from_a_file_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "hook").write_text("whsec_new\n\n  whsec_old  \n")
    expected = ("whsec_new", "whsec_old")
    assert secrets({}, secret_file=str(tmp_path / "hook")) == expected
    assert secrets({"CREDENTIALS_DIRECTORY": str(tmp_path)}, secret_file="hook") == expected


def test_secrets_come_from_a_variable_or_there_are_none() -> None:
    assert secrets({"S": "one two"}, secret_env="S") == ("one", "two")
    assert secrets({"S": "one"}) == ()


def test_a_secret_that_is_not_there_is_named_but_not_shown(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(CANARY.encode() + b"\xff")
    cases: list[tuple[dict[str, str], str]] = [
        ({"secret_env": "S"}, "targets.a.secret_env: the environment variable S holds no secret"),
        ({"secret_file": str(tmp_path / "gone")}, "targets.a.secret_file: .*gone cannot be read: No such file"),
        ({"secret_file": str(tmp_path / "empty")}, "targets.a.secret_file: .*empty holds no secret"),
        ({"secret_file": str(tmp_path / "binary")}, "holds something other than ASCII text"),
        ({"secret_file": "relative"}, "no .CREDENTIALS_DIRECTORY"),
    ]
    for one, expected in cases:
        with pytest.raises(ConfigError, match=expected) as caught:
            secrets({}, **one)
        assert CANARY not in str(caught.value)
        assert caught.value.__cause__ is None or CANARY not in repr(caught.value.__cause__)


def test_a_url_may_come_from_a_file_or_a_variable_and_is_checked_without_being_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://h/token\n")
    assert read_target("a", WebhookSettings(url_file=str(tmp_path / "url")), {}).url == "https://h/token"
    assert read_target("a", WebhookSettings(url_env="U"), {"U": "https://h/x"}).url == "https://h/x"
    for bad in (f"gopher://{CANARY}", f"https://a:{CANARY}@h/"):
        with pytest.raises(ConfigError, match=r"targets.a.url_env: must") as caught:
            read_target("a", WebhookSettings(url_env="U"), {"U": bad})
        assert CANARY not in str(caught.value)

"""The command line: what it prints, what it exits with, and that nobody ever sees a traceback."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rlhfd_daemon
import support
from rlhfd_alerts.testing import SECRET
from rlhfd_daemon.framelog import FrameLog
from support import DaemonProcess, wait_for
from wire import packed

NS = 1_700_000_000_000_000_000


def rlhfd(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as users do."""
    return subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )


def invoked(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; without the price of a process."""
    result = support.invoked(*arguments)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Forty frames 0.1 s apart, the thirtieth with a NaN and an infinity."""
    log = FrameLog(tmp_path / "frames")
    log.open()
    for seq in range(1, 41):
        loss, top = (math.nan, math.inf) if seq == 30 else (1.0, 1.0)
        log.append([(NS + seq * 10**8, 1000, 42, packed(seq, metrics={"train/loss": loss, "top": top}))])
    log.close()
    return tmp_path / "frames"


def segment(recording: Path) -> Path:
    (path,) = recording.glob("*.log")
    return path


def config(folder: Path, text: str) -> Path:
    path = folder / "rlhfd.toml"
    path.write_text(text)
    return path


def test_version_names_it() -> None:
    result = rlhfd("--version")
    assert (result.returncode, result.stdout) == (0, f"rlhfd {rlhfd_daemon.__version__}\n")


def test_a_good_configuration_is_called_good(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    path = config(tmp_path, f'[targets.ops]\nurl = "https://example.org/hook"\nsecret_file = "{tmp_path}/secret"\n')
    code, out, err = invoked("config", "check", path)
    assert code == 0, err
    assert "good; targets: ops" in out


def test_a_rule_s_metric_that_may_be_misspelt_is_a_warning_and_the_configuration_good(tmp_path: Path) -> None:
    rule = '[[rule]]\nid = "mine"\nmetric = "train/{}"\ncondition = "> 2"\nseverity = "warning"\n'
    path = config(tmp_path, '[analyzers.rules]\nfiles = ["rules.toml"]\n')
    (tmp_path / "rules.toml").write_text(rule.format("kl"))
    assert invoked("config", "check", path)[::2] == (0, "")
    (tmp_path / "rules.toml").write_text(rule.format("kll"))
    code, out, err = invoked("config", "check", path)
    assert (code, err.splitlines()) == (
        0,
        [
            f"warning: {tmp_path}/rules.toml:3: rule mine: metric: train/kll is not in the metric table; did you mean "
            '"train/kl"?'
        ],
    )
    assert "good; targets: none" in out


def test_everything_wrong_with_a_configuration_is_said_with_the_nearest_key(tmp_path: Path) -> None:
    path = config(tmp_path, "[framelog]\nmax_byte = 5\nsegment_bytes = 1\n[ingestt]\n")
    code, out, err = invoked("config", "check", path)
    assert (code, out) == (2, "")
    assert 'framelog.max_byte: unknown key; did you mean "max_bytes"?' in err
    assert 'did you mean "ingest"?' in err
    assert "framelog.segment_bytes" in err
    assert all(str(path) in line for line in err.splitlines())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[targets.x]\nurl = 'https://h/x'\nsecret_env = 'NOT_SET_ANYWHERE'\n", "NOT_SET_ANYWHERE"),
        ("[targets.x]\nurl = 'https://h/x'\nsecret_file = '/nonexistent'\n", "/nonexistent"),
        ("[targets.x]\nurl = 'https://h/x'\n", "needs a secret"),
        ("not toml", "not valid TOML"),
    ],
)
def test_an_unusable_configuration_is_one_line_and_exit_2(text: str, says: str, tmp_path: Path) -> None:
    code, _, err = invoked("config", "check", config(tmp_path, text))
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_configuration_that_is_not_there_is_named() -> None:
    code, _, err = invoked("config", "check", "/nonexistent/rlhfd.toml")
    assert code == 2
    assert "/nonexistent/rlhfd.toml" in err


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["mute", "r"]])
def test_without_a_daemon_commands_say_so_in_one_line(command: list[str], short_dir: Path) -> None:
    result = support.invoked(*command, environ={"RLHFD_RUNTIME_DIR": str(short_dir)})
    assert (result.returncode, result.stdout) == (69, "")
    assert len(result.stderr.splitlines()) == 1
    assert str(short_dir) in result.stderr


def test_status_shows_runs_and_alerts_and_mute_silences_emitters(daemon: DaemonProcess) -> None:
    from rlhfd_emitter import Emitter

    emitter = Emitter("ppo-7", role="trainer", endpoint=daemon.endpoint)
    emitter.emit(61, {"train/loss": math.nan})
    wait_for(lambda: daemon.status()["alerts"])
    result = rlhfd("status", "--config", daemon.config, COLUMNS="250")
    assert result.returncode == 0
    for text in ("ppo-7", "trainer", "non_finite", "61", "train/loss became NaN"):
        assert text in result.stdout
    assert json.loads(invoked("status", "--json", "--config", daemon.config)[1])["runs"][0]["run"] == "ppo-7"
    assert "1 live streams" in rlhfd("mute", "ppo-7", "--config", daemon.config).stdout
    wait_for(lambda: emitter.muted)
    invoked("mute", "ppo-7", "--off", "--config", daemon.config)
    wait_for(lambda: not emitter.muted)
    emitter.close()


def test_verify_counts_a_good_recording(recording: Path) -> None:
    for path in (recording, segment(recording)):
        assert invoked("frames", "verify", path)[:2] == (0, "1 segments, 40 records, ids 1 to 40\n")
    report = json.loads(invoked("frames", "verify", "--json", recording)[1])
    assert (report["records"], report["damages"]) == (40, [])


def test_verify_takes_a_torn_tail_for_no_damage_and_finds_damage_in_the_middle(recording: Path) -> None:
    path = segment(recording)
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    code, out, _ = invoked("frames", "verify", recording)
    assert (code, out) == (0, "1 segments, 39 records, ids 1 to 39\n")
    middle = len(data) // 2
    path.write_bytes(data[:middle] + b"\xff" * 8 + data[middle + 8 :])
    code, out, _ = invoked("frames", "verify", recording)
    assert code == 1
    assert "damaged:" in out
    assert "ids missing:" in out


@pytest.mark.parametrize("command", [["frames", "verify"], ["frames", "dump"], ["replay"]])
def test_a_recording_that_is_not_there_is_one_line(command: list[str]) -> None:
    code, out, err = invoked(*command, "/nonexistent/frames")
    assert (code, out) == (1, "")
    assert err.splitlines() == ["rlhfd: /nonexistent/frames: cannot read the recording: No such file or directory"]


def test_replaying_what_is_no_frame_log_says_so(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not a frame log")
    code, out, err = invoked("replay", foreign)
    assert (code, out) == (1, "")
    assert "no recorded frame in it" in err.splitlines()[-1]


def test_a_foreign_file_is_damage_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("These are not the frames you are looking for.\n" * 50)
    assert invoked("frames", "verify", tmp_path / "notes.txt")[0] == 1
    (tmp_path / "notes.gz").write_bytes(b"not gzip")
    code, _, err = invoked("frames", "verify", tmp_path / "notes.gz")
    assert code == 1
    assert "damaged archive" in err


def strict(line: str) -> dict[str, Any]:
    """JSON as the standard has it: without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    parsed: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return parsed


def test_dump_is_one_json_object_a_record_with_nan_spelled_out(recording: Path) -> None:
    code, out, _ = invoked("frames", "dump", recording)
    lines = [strict(line) for line in out.splitlines()]
    assert code == 0
    assert [line["record"] for line in lines] == list(range(1, 41))
    assert lines[29]["frame"]["metrics"] == {"train/loss": "NaN", "top": "Infinity"}
    assert lines[0]["received_ns"] == NS + 10**8


def test_dump_shows_damage_and_unreadable_frames_in_their_place(tmp_path: Path) -> None:
    log = FrameLog(tmp_path)
    log.open()
    log.append([(NS, 0, 1, packed(1)), (NS, 0, 1, b"\xc1"), (NS, 0, 1, packed(2, v=3)), (NS, 0, 1, packed(2))])
    log.close()
    lines = [strict(line) for line in invoked("frames", "dump", tmp_path)[1].splitlines()]
    assert [line.get("rejected", {}).get("reason") for line in lines] == [None, "malformed", "version", None]


def test_replay_is_the_same_to_the_byte_at_any_speed(recording: Path) -> None:
    first = rlhfd("replay", recording)
    assert first.returncode == 0
    bodies = [strict(line) for line in first.stdout.splitlines()]
    assert [body["type"] for body in bodies] == ["alert.firing", "alert.resolved"]
    assert {alert["metric"] for body in bodies for alert in body["data"]["alerts"]} == {"train/loss", "top"}
    assert rlhfd("replay", recording, PYTHONHASHSEED="1").stdout == first.stdout
    began = time.monotonic()
    assert rlhfd("replay", recording, "--speed", "8").stdout == first.stdout
    assert time.monotonic() - began > 39 * 0.1 / 8


def test_replay_obeys_the_configuration_s_analyzers(recording: Path, tmp_path: Path) -> None:
    path = config(tmp_path, "[analyzers.non_finite]\nenabled = false\n")
    assert invoked("replay", recording, "--config", path)[:2] == (0, "")


@pytest.mark.parametrize("command", ["frames dump", "replay"])
def test_a_reader_that_goes_away_ends_the_command_quietly(command: str, tmp_path: Path) -> None:
    log = FrameLog(tmp_path)
    log.open()
    log.append([(NS, 0, 1, packed(1, stream=f"s{n}", role=f"r{n}", metrics={"a": math.nan})) for n in range(1000)])
    log.close()
    shell = f"set -o pipefail; {sys.executable} -m rlhfd_daemon {command} {tmp_path} | head -n 1"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert len(result.stdout.splitlines()) == 1
    assert (result.returncode, result.stderr) == (0, "")


def test_run_without_a_command_shows_how() -> None:
    result = rlhfd("run")
    assert result.returncode == 2
    assert "rlhfd run -- python -m openrlhf" in result.stderr


def test_run_becomes_the_command_with_its_exit_code_and_names_the_run() -> None:
    program = "import os, sys; print(os.environ['RLHFD_RUN'], len(os.environ['RLHFD_BOOT'])); sys.exit(7)"
    result = rlhfd("run", "--run", "ppo-1", "--", sys.executable, "-c", program)
    assert (result.returncode, result.stdout) == (7, "ppo-1 32\n")
    assert rlhfd("run", "--", "/nonexistent/program").returncode == 127


WITHOUT_DAEMON = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("typer", "msgspec", "aiohttp", "rich", "structlog"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["rlhfd", *sys.argv[1:]]
from rlhfd_daemon.__main__ import main
sys.exit(main())
"""


def test_run_needs_nothing_of_the_daemon_and_other_commands_say_what_to_install() -> None:
    bare = [sys.executable, "-c", WITHOUT_DAEMON]
    result = subprocess.run([*bare, "run", "--", "true"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    result = subprocess.run([*bare, "status"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert re.fullmatch(r"rlhfd: \w+ is not installed.*pip install 'rlhfd\[daemon\]'\n", result.stderr)


@pytest.mark.parametrize("command", [["nonsense"], ["replay"], ["frames", "verify", "--nonsense"]])
def test_wrong_usage_is_exit_2(command: list[str]) -> None:
    assert invoked(*command)[0] == 2

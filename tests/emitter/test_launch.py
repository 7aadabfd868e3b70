"""``rlhfd run``: what the command inherits, and that the command is the user's in everything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhfd_emitter.launch import NOT_EXECUTABLE, NOT_FOUND, USAGE, default_run_name

NOON = time.struct_time((2026, 11, 23, 12, 0, 0, 0, 327, 0))
SHOW = (
    "import json, os, sys\n"
    "print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith('RLHFD_')}]))"
)


def launch(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """``rlhfd run`` with ``arguments``, in an environment with ``environ`` and no other variable of rlhfd's."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("RLHFD_")}
    return subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", "run", *arguments],
        capture_output=True, text=True, timeout=30, env={**foreign, **environ},
    )  # fmt: skip


def shown(result: subprocess.CompletedProcess[str]) -> tuple[list[str], dict[str, str]]:
    assert result.returncode == 0, result.stderr
    arguments, environ = json.loads(result.stdout)
    return arguments, environ


COMMANDS = [
    ("python -m openrlhf.cli.train_ppo_ray --x y", "ppo"),
    ("python openrlhf/cli/train_ppo_ray.py", "ppo"),
    ("deepspeed --module openrlhf.cli.train_sft --max_len 2048", "sft"),
    ("torchrun --nproc-per-node 8 -m openrlhf.cli.train_dpo", "dpo"),
    ("ray job submit -- python3 -m openrlhf.cli.train_ppo_ray", "ppo"),
    ("deepspeed /src/openrlhf/cli/train_rm.py", "rm"),
    ("bash -c exec\tpython\t-m\topenrlhf.cli.train_ppo", "ppo"),
    ("bash train.sh", "run"),
    ("python -m openrlhf.cli.serve_rm", "run"),
]


@pytest.mark.parametrize(("command", "name"), COMMANDS)
def test_a_run_is_named_after_its_trainer_and_the_time(command: str, name: str) -> None:
    assert default_run_name(command.split(" "), NOON) == f"{name}-20261123-120000"


def test_the_command_inherits_the_run_a_boot_of_its_own_and_the_endpoint() -> None:
    arguments = ["--run", "my/run-1", "--endpoint", "tcp://h:1", "--", sys.executable, "-c", SHOW]
    first, second = (launch(*arguments, RLHFD_BOOT="inherited") for _ in range(2))
    assert first.stderr == "rlhfd: observing run my/run-1\n"
    boots = set()
    for _, environ in map(shown, (first, second)):
        boots.add(environ.pop("RLHFD_BOOT"))
        assert environ == {"RLHFD_RUN": "my/run-1", "RLHFD_ENDPOINT": "tcp://h:1"}
    assert len(boots - {"inherited"}) == 2


def test_the_environment_s_run_and_endpoint_hold_until_the_command_line_says_otherwise() -> None:
    command = ["--", sys.executable, "-c", SHOW]
    inherited = {"RLHFD_RUN": "inherited", "RLHFD_ENDPOINT": "tcp://a:1"}
    _, environ = shown(launch(*command, **inherited))
    assert {name: environ[name] for name in inherited} == inherited
    _, environ = shown(launch("--run=mine", *command, **inherited))
    assert (environ["RLHFD_RUN"], environ["RLHFD_ENDPOINT"]) == ("mine", "tcp://a:1")


AWKWARD = ["", " a  b ", "$HOME", "'\"\\", "*", "é\n", "--", "--run", "x", "-h", "--endpoint=y", "@file"]
SEPARATORS: list[list[str]] = [["--"], [], ["--run", "r", "--"], ["--run", "r"]]


@pytest.mark.parametrize("before", SEPARATORS)
def test_every_argument_reaches_the_command_as_it_was_given(before: list[str]) -> None:
    arguments, environ = shown(launch(*before, sys.executable, "-c", SHOW, *AWKWARD))
    assert arguments == AWKWARD
    assert environ["RLHFD_RUN"].startswith("r")


def test_the_command_s_exit_code_and_streams_are_its_own() -> None:
    program = "import sys; sys.stderr.write('err'); sys.stdout.write(sys.stdin.read()); sys.exit(41)"
    result = subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", "run", "--run", "r", "--", sys.executable, "-c", program],
        input="in", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (41, "in")
    assert result.stderr == "rlhfd: observing run r\nerr"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_reaches_the_command_itself_under_the_same_pid(number: signal.Signals) -> None:
    arguments = [sys.executable, "-m", "rlhfd_daemon", "run", "--", "sh", "-c", "echo $$; exec sleep 30"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(number)
        assert process.wait(10) == -number


def test_a_run_allows_what_it_is_started_with_and_nothing_else() -> None:
    command = ("--", "sh", "-c", "echo [$RLHFD_ALLOW]")
    assert launch(*command).stdout == "[]\n"
    assert launch("--allow", "checkpoint,stop", *command).stdout == "[checkpoint,stop]\n"


def test_the_command_starts_with_the_signals_a_shell_would_give_it() -> None:
    """Python ignores SIGPIPE, and what is ignored is inherited: ``yes | head`` would complain."""
    command = ["grep", "SigIgn", "/proc/self/status"]
    direct = subprocess.run(command, capture_output=True, text=True, check=True)
    assert launch("--", *command).stdout == direct.stdout


def test_a_command_that_cannot_be_started_ends_as_in_a_shell(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for command, code, text in (
        ("no-such-command", NOT_FOUND, "command not found"),
        (str(tmp_path / "absent"), NOT_FOUND, "command not found"),
        (str(plain), NOT_EXECUTABLE, "Permission denied"),
        (str(tmp_path), NOT_EXECUTABLE, "Permission denied"),
    ):
        result = launch("--run", "r", "--", command)
        assert result.returncode == code
        assert result.stderr == f"rlhfd: observing run r\nrlhfd run: {command}: {text}\n"
    assert (NOT_FOUND, NOT_EXECUTABLE) == (127, 126)


WRONG = {
    "no command": [],
    "nothing behind the dashes": ["--run", "r", "--"],
    "an unknown option": ["--runn", "r", "--", "true"],
    "an option without its value": ["--run"],
    "an empty word in the name": ["--run", "my run", "--", "true"],
    "an action that there is not": ["--allow", "stop,start", "--", "true"],
    "a name that is too long": ["--run", "x" * 129, "--", "true"],
    "a name that is too long in bytes": ["--run", "é" * 65, "--", "true"],
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_command_line_starts_nothing_and_says_how_it_goes(how: str) -> None:
    result = launch(*WRONG[how])
    assert result.returncode == USAGE == 2
    assert result.stdout == ""
    assert "usage: rlhfd run [--run NAME] [--endpoint URL] [--allow ACTIONS] [--samples] -- COMMAND" in result.stderr


def test_a_wrong_name_in_the_environment_is_an_error_too() -> None:
    result = launch("--", "true", RLHFD_RUN="my run")
    assert result.returncode == USAGE
    assert "'my run'" in result.stderr


def test_help_is_no_error() -> None:
    result = launch("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "exit code stay its own" in " ".join(result.stdout.split())

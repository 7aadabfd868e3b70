"""``rlhfd run -- COMMAND``: names the run in the environment and becomes the command."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import MutableMapping, Sequence

from rlhfd_emitter.emitter import MAX_NAME
from rlhfd_emitter.requests import ACTIONS, ALLOW_VARIABLE, SAMPLES_VARIABLE, allowed_in

NOT_EXECUTABLE, NOT_FOUND, USAGE = 126, 127, 2
_NAME = re.compile(r"[\w.:@/+-]+")


def main(arguments: Sequence[str]) -> int:
    """Run ``rlhfd run``'s command line; returns an exit code only if the command could not be started."""
    parser = argparse.ArgumentParser(
        prog="rlhfd run",
        description="Run an OpenRLHF command under observation. The command's code and its exit code stay its own.",
        usage="rlhfd run [--run NAME] [--endpoint URL] [--allow ACTIONS] [--samples] -- COMMAND [ARGUMENT ...]",
    )
    parser.add_argument("--run", metavar="NAME", help="the run's name (default: trainer, date and time)")
    parser.add_argument(
        "--endpoint", metavar="URL", help="the daemon's endpoint (default: RLHFD_ENDPOINT or the socket)"
    )
    parser.add_argument(
        "--allow",
        metavar="ACTIONS",
        help=f"what the daemon may ask of the run, by default nothing: {', '.join(ACTIONS)} (docs/actions.md)",
    )
    parser.add_argument(
        "--samples", action="store_true", help="also send each answer's reward, length and the like, never its text"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error(
            "no command; write it behind --, for example: rlhfd run -- python -m openrlhf.cli.train_ppo_ray ..."
        )
    run = options.run or os.environ.get("RLHFD_RUN") or default_run_name(command, time.localtime())
    if not _NAME.fullmatch(run) or len(run.encode()) > MAX_NAME:
        parser.error(f"--run: {run!r} must be at most {MAX_NAME} letters, digits or . _ : @ / + -")
    if options.allow and allowed_in(options.allow) != {part.strip() for part in options.allow.split(",")}:
        parser.error(f"--allow: {options.allow!r} must be one or more of {', '.join(ACTIONS)}, separated by commas")
    set_environment(os.environ, run, options.endpoint, options.allow, options.samples)
    sys.stderr.write(f"rlhfd: observing run {run}\n")
    sys.stderr.flush()
    # Python ignores these two, and what is ignored stays so in the command.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.stderr.write(f"rlhfd run: {command[0]}: command not found\n")
        return NOT_FOUND
    except OSError as error:
        sys.stderr.write(f"rlhfd run: {command[0]}: {error.strerror}\n")
        return NOT_EXECUTABLE


def default_run_name(command: Sequence[str], now: time.struct_time) -> str:
    """``ppo-20261123-101500`` from the OpenRLHF module in the command, ``run-...`` if there is none."""
    match = re.search(r"openrlhf[./]cli[./]train_(\w+?)(_ray)?(\.py)?\b", " ".join(command))
    return f"{match.group(1) if match else 'run'}-{time.strftime('%Y%m%d-%H%M%S', now)}"


def set_environment(
    environ: MutableMapping[str, str], run: str, endpoint: str | None, allow: str | None = None, samples: bool = False
) -> None:
    """What the processes of the run inherit; ``RLHFD_BOOT`` tells two launches of one name apart."""
    environ["RLHFD_RUN"] = run
    environ["RLHFD_BOOT"] = uuid.uuid4().hex
    if endpoint:
        environ["RLHFD_ENDPOINT"] = endpoint
    if allow:
        environ[ALLOW_VARIABLE] = allow
    if samples:
        environ[SAMPLES_VARIABLE] = "1"

"""The command `rlhfd`. `run` and `doctor` need nothing but the emitter, which is all a training environment has."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from rlhfd_emitter.launch import main as launch

        return launch(arguments[1:])
    if arguments[:1] == ["doctor"]:
        from rlhfd_emitter.doctor import main as doctor

        return doctor(arguments[1:])
    try:
        if arguments[:1] == ["daemon"]:
            from rlhfd_daemon.service import main as service

            return service(arguments[1:])
        from rlhfd_daemon.cli import app
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"rlhfd: {error.name} is not installed. Here only `rlhfd run` and `rlhfd doctor` work; "
            "for the daemon and the other commands: pip install 'rlhfd[daemon]'\n"
        )
        return 2
    app(prog_name="rlhfd")
    return 0


if __name__ == "__main__":
    sys.exit(main())

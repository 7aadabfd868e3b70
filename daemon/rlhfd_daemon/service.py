"""The command ``rlhfd daemon``, beside the others: their libraries and tables would stay in its memory, 11 MB."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhfd_alerts.errors import AlertsError
from rlhfd_daemon import logs
from rlhfd_daemon.app import App
from rlhfd_daemon.config import DEFAULT_CONFIG, Config, read_config
from rlhfd_daemon.errors import FAILED, DaemonError

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Run the daemon until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="rlhfd daemon",
        description="Run the daemon in the foreground (SIGHUP reloads the configuration, SIGTERM stops).",
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", type=Path,
        help=f"TOML file (default: {DEFAULT_CONFIG} if it exists, else built-in defaults)",
    )  # fmt: skip
    try:
        config, path = read_config(parser.parse_args(arguments).config)
        logs.configure(config.log.level, config.log.format)
        asyncio.run(_serve(config, path))
    except (DaemonError, AlertsError) as error:
        sys.stderr.write(f"rlhfd: {error}\n")
        return int(getattr(error, "exit_code", FAILED))
    return 0


async def _serve(config: Config, path: Path | None) -> None:
    await App(config, path, os.environ).run()

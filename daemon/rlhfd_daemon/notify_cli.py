"""`rlhfd notify test`: send a sample to one target, without the daemon, and show what the other side says."""

from __future__ import annotations

import asyncio
import difflib
import os
import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from rlhfd_daemon.config import Config
from rlhfd_daemon.errors import ConfigError

__all__ = ["app"]

REFUSED = 1

app = typer.Typer(help="Where alerts go.", no_args_is_help=True)


@app.callback()
def notify() -> None:
    """Where alerts go."""


@app.command("test")
def send_test(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A target's name, as in [targets.NAME].")],
    resolved: Annotated[bool, typer.Option("--resolved", help="Send the end of the episode instead.")] = False,
    config: Annotated[Optional[Path], typer.Option("--config", "-c", help="TOML file.")] = None,  # noqa: UP045
) -> None:
    """Send a sample alert to a target and print what was answered; exit code 1 if it was not accepted."""
    from rlhfd_alerts.errors import DeliveryError
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config

    with one_line_errors():
        settings, source = read_config(config)
        if target not in settings.targets:
            raise ConfigError(_unknown(target, settings, str(source or "the built-in defaults")))
        kind = settings.targets[target].__struct_config__.tag
        try:
            said = asyncio.run(_send(target, settings, resolved))
        except DeliveryError as error:
            again = "not to be tried again" if error.permanent else "worth another try"
            typer.echo(f"{target} ({kind}): not accepted, {again}: {error}", err=True)
            raise typer.Exit(REFUSED) from None
        typer.echo(f"{target} ({kind}): accepted" + (f"; it said: {said}" if said else ""))


async def _send(name: str, config: Config, resolved: bool) -> str | None:
    from rlhfd_alerts.sample import sample
    from rlhfd_daemon.delivery import context_of, receiver

    context = context_of(config.links)
    now = time.time()
    identity, body = sample(context.host, resolved, now)
    one = receiver(name, config.targets[name], context, os.environ)
    try:
        return await one.send(identity, body, now)
    finally:
        await context.sessions.close()


def _unknown(target: str, config: Config, source: str) -> str:
    if not config.targets:
        return f"{source}: there is no target"
    nearest = difflib.get_close_matches(target, config.targets, n=1)
    hint = f'did you mean "{nearest[0]}"?' if nearest else f"there are: {', '.join(config.targets)}"
    return f"{source}: no target {target!r}; {hint}"

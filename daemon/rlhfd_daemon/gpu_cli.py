"""The commands `rlhfd gpu release|resume|status`: let go of the GPUs for a reset or a MIG change, and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import msgspec
import typer
from rich.table import Table

from rlhfd_daemon.render import console

__all__ = ["PATIENCE_SECONDS", "app", "table"]

HELD = 1
PATIENCE_SECONDS = 15.0  # a release waits 8 s for a child that hangs
GIB = 1 << 30

app = typer.Typer(help="The GPUs of the node, as the daemon sees them.", no_args_is_help=True)
ConfigOption = Annotated[Optional[Path], typer.Option("--config", "-c", help="The daemon's configuration file.")]  # noqa: UP045 - typer reads the annotation at run time
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("release")
def release_command(
    seconds: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--for", metavar="SECONDS", min=1.0, max=7 * 86400.0, help="Look again after so long."),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Stop watching the GPUs and let go of them, so that one can be reset; exit code 1 if a process of ours hangs."""
    answer = _ask("POST", "/api/v1/gpu/release", config, {"seconds": seconds})
    if json:
        _print_json(answer)
    elif answer["holders"]:
        pids = ", ".join(map(str, answer["holders"]))
        typer.echo(f"released, but a call of ours hangs in the driver and may still hold a GPU: process {pids}")
    else:
        typer.echo(f"released {'until `rlhfd gpu resume`' if seconds is None else f'for {seconds:g} s'}")
    if answer["holders"]:
        raise typer.Exit(HELD)


@app.command("resume")
def resume_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Watch the GPUs again."""
    answer = _ask("POST", "/api/v1/gpu/resume", config)
    if json:
        _print_json(answer)
    else:
        typer.echo("watching again")


@app.command("status")
def status_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show what is known of the GPUs."""
    answer = _ask("GET", "/api/v1/gpu", config)
    if json:
        _print_json(answer)
        return
    typer.echo(": ".join(part for part in (str(answer["state"] or "starting"), str(answer["detail"])) if part))
    if answer["gpus"]:
        console().print(table(answer["gpus"]))


def table(gpus: list[dict[str, Any]]) -> Table:
    """One row for each GPU; what is not known is empty."""
    found = Table("GPU", "name", "busy", "memory GiB", "power W", "°C", "SM MHz", "throttled by", "error", box=None)
    for gpu in gpus:
        values: dict[str, float] = gpu["metrics"]
        reasons = [name.partition("/")[2] for name, value in values.items() if name.startswith("throttle/") and value]
        used, total = _number(values, "memory_used_bytes", 1 / GIB), _number(values, "memory_total_bytes", 1 / GIB)
        found.add_row(
            str(gpu["index"]), gpu["name"], _number(values, "utilization_ratio", 100.0, "%"),
            f"{used} / {total}" if total else "", _number(values, "power_watts"),
            _number(values, "temperature_celsius"), _number(values, "sm_clock_hertz", 1e-6), ", ".join(reasons),
            gpu["error"],
        )  # fmt: skip
    return found


def _number(values: dict[str, float], name: str, factor: float = 1.0, unit: str = "") -> str:
    return f"{values[name] * factor:.0f}{unit}" if name in values else ""


def _ask(method: str, url: str, config: Path | None, body: object = None) -> dict[str, Any]:
    from rlhfd_daemon.app import control_socket_of
    from rlhfd_daemon.cli import one_line_errors
    from rlhfd_daemon.config import read_config
    from rlhfd_daemon.control import ask

    with one_line_errors():
        return ask(control_socket_of(read_config(config)[0]), method, url, body, seconds=PATIENCE_SECONDS)


def _print_json(answer: dict[str, Any]) -> None:
    typer.echo(msgspec.json.encode(answer).decode())

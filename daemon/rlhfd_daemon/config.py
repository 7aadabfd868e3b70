"""The configuration: one TOML file to one frozen :class:`Config`. The only place that reads the environment."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from rlhfd_alerts.target import TargetSettings
from rlhfd_daemon.config_actions import AnyAction
from rlhfd_daemon.config_alerts import AlertsConfig
from rlhfd_daemon.config_analyzers import AdaptiveConfig, AnalyzersConfig, IncidentsConfig, NonFiniteConfig
from rlhfd_daemon.config_check import cross_problems, problems_in
from rlhfd_daemon.config_checkpoints import CheckpointsConfig
from rlhfd_daemon.config_host import DisksConfig, HostConfig, ProcessesConfig, RayConfig
from rlhfd_daemon.config_outlets import HttpConfig, StepsConfig
from rlhfd_daemon.config_reward_probe import RewardProbeConfig
from rlhfd_daemon.config_rules import RulesConfig
from rlhfd_daemon.config_targets import HeartbeatConfig, LinksConfig, targets_from
from rlhfd_daemon.errors import ConfigError, Problem
from rlhfd_daemon.segment import MAX_PAYLOAD_BYTES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

__all__ = [
    "DEFAULT_CONFIG",
    "AdaptiveConfig",
    "AlertsConfig",
    "AnalyzersConfig",
    "Config",
    "ControlConfig",
    "DaemonConfig",
    "FrameLogConfig",
    "GpuConfig",
    "HttpConfig",
    "IncidentsConfig",
    "IngestConfig",
    "LogConfig",
    "NonFiniteConfig",
    "PhasesConfig",
    "PollersConfig",
    "RulesConfig",
    "StepsConfig",
    "load",
    "read_config",
]

DEFAULT_CONFIG = Path("/etc/rlhfd/rlhfd.toml")

_Bytes = Annotated[int, Meta(gt=0, le=1 << 50)]
# The upper ends also keep out TOML's inf and nan.
_Interval = Annotated[float, Meta(gt=0, le=60)]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DaemonConfig(_Section, frozen=True, kw_only=True):
    """``state_dir``: ``$STATE_DIRECTORY`` (set by systemd), else /var/lib/rlhfd for root, else
    ``$XDG_STATE_HOME``/rlhfd or ~/.local/state/rlhfd. Never empty once loaded."""

    state_dir: str = ""


class IngestConfig(_Section, frozen=True, kw_only=True):
    """``endpoint`` "" is the default endpoint; ``allowed_uids`` empty: the daemon's own user and root."""

    endpoint: str = ""
    max_frame_bytes: Annotated[int, Meta(ge=1024, le=MAX_PAYLOAD_BYTES)] = 256 * 1024
    allowed_uids: tuple[Annotated[int, Meta(ge=0, le=(1 << 32) - 2)], ...] = ()


class FrameLogConfig(_Section, frozen=True, kw_only=True):
    """``max_bytes`` is a hard cap on disk use, ``warmup_bytes`` how much of the log is read after a start."""

    segment_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 16 << 20
    max_bytes: _Bytes = 1 << 30
    sync_interval_seconds: _Interval = 0.2
    warmup_bytes: Annotated[int, Meta(ge=0)] = 32 << 20


class PhasesConfig(_Section, frozen=True, kw_only=True):
    """A phase is stalled after ``factor`` times the longest of its kind lately, at least ``floor_seconds``; before
    three of its kind have ended, after ``first_seconds``. A process that exists but is silent for
    ``heartbeat_seconds`` has lost its heartbeat."""

    enabled: bool = True
    factor: Annotated[float, Meta(ge=1, le=1e6)] = 5.0
    floor_seconds: Annotated[float, Meta(gt=0, le=86400)] = 10.0
    first_seconds: Annotated[float, Meta(gt=0, le=86400 * 7)] = 1800.0
    heartbeat_seconds: Annotated[float, Meta(ge=5, le=86400)] = 15.0


class GpuConfig(_Section, frozen=True, kw_only=True):
    """``interval_seconds`` is the least; readings that take long are made less often. An NVML call may take
    ``call_deadline_seconds``, one that may have to wake a GPU up ``start_deadline_seconds``; then the process that
    calls is killed. ``probe`` ``always``: ask NVML also where no driver is to be seen."""

    enabled: bool = True
    interval_seconds: Annotated[float, Meta(ge=1, le=3600)] = 5.0
    call_deadline_seconds: Annotated[float, Meta(ge=1, le=60)] = 5.0
    start_deadline_seconds: Annotated[float, Meta(ge=1, le=600)] = 60.0
    probe: Literal["auto", "always"] = "auto"


class PollersConfig(_Section, frozen=True, kw_only=True):
    """One section per poller."""

    gpu: GpuConfig = GpuConfig()
    host: HostConfig = HostConfig()
    processes: ProcessesConfig = ProcessesConfig()
    disks: DisksConfig = DisksConfig()
    ray: RayConfig = RayConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    reward_probe: RewardProbeConfig = RewardProbeConfig()


class ControlConfig(_Section, frozen=True, kw_only=True):
    """``socket``: path of the control socket, "" for one next to the endpoint."""

    socket: str = ""


class LogConfig(_Section, frozen=True, kw_only=True):
    """``auto`` is console on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(_Section, frozen=True, kw_only=True):
    """Everything that can be set; every part gets its own section."""

    daemon: DaemonConfig = DaemonConfig()
    ingest: IngestConfig = IngestConfig()
    framelog: FrameLogConfig = FrameLogConfig()
    analyzers: AnalyzersConfig = AnalyzersConfig()
    phases: PhasesConfig = PhasesConfig()
    pollers: PollersConfig = PollersConfig()
    control: ControlConfig = ControlConfig()
    http: HttpConfig = HttpConfig()
    steps: StepsConfig = StepsConfig()
    log: LogConfig = LogConfig()
    targets: dict[str, TargetSettings] = {}
    links: LinksConfig = LinksConfig()
    alerts: AlertsConfig = AlertsConfig()
    actions: tuple[AnyAction, ...] = ()
    heartbeat: HeartbeatConfig = HeartbeatConfig()


def read_config(path: Path | None) -> tuple[Config, Path | None]:
    """The configuration in the file that was named, else in the default one if it exists, with its path. Raises
    :class:`ConfigError`."""
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    return load(path, os.environ), path


def load(path: str | Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration in the TOML file at ``path``, or the defaults for ``None``.

    Raises :class:`ConfigError` that lists everything wrong with the file, not just the first.
    """
    source = "" if path is None else str(path)
    raw = {} if path is None else _parse(Path(path))
    problems = problems_in(raw, Config)
    if not problems:
        targets = targets_from(raw.pop("targets", {}))
        config = msgspec.structs.replace(msgspec.convert(raw, Config), targets=targets)
        problems = cross_problems(config)
        if path is not None and not problems:
            config, problems = _with_rules(config, Path(path).parent)
    if problems:
        raise ConfigError.of(source, problems)
    directory = _state_dir(config.daemon.state_dir, environ)
    if not directory.is_absolute():
        raise ConfigError.of(source, [Problem("daemon.state_dir", "must be an absolute path")])
    return msgspec.structs.replace(config, daemon=DaemonConfig(state_dir=str(directory)))


def _with_rules(config: Config, folder: Path) -> tuple[Config, list[Problem]]:
    """The configuration with the paths of its rule files made whole, and what is wrong with its rules."""
    if config.analyzers.rules == RulesConfig():
        return config, []
    from rlhfd_daemon.rules.configured import problems_of, resolved  # rules know families, which analyzers have

    rules = resolved(config.analyzers.rules, folder)
    analyzers = msgspec.structs.replace(config.analyzers, rules=rules)
    return msgspec.structs.replace(config, analyzers=analyzers), problems_of(rules)


def _parse(path: Path) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except ValueError as error:  # TOMLDecodeError, and integers beyond Python's limit of digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return parsed


def _state_dir(configured: str, environ: Mapping[str, str]) -> Path:
    if configured.startswith("~/"):
        return _home(environ) / configured[2:]
    if configured:
        return Path(configured)
    by_systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if by_systemd:
        return Path(by_systemd)
    if os.geteuid() == 0:
        return Path("/var/lib/rlhfd")
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path there is invalid and to be ignored.
    return Path(base, "rlhfd") if base.startswith("/") else _home(environ) / ".local/state/rlhfd"


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir)

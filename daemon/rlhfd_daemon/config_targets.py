"""The configuration of the targets: a section per target, by the registry of receivers, and its credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from rlhfd_alerts.receivers import RECEIVERS
from rlhfd_alerts.target import HttpSettings, Target, TargetSettings, url_fault
from rlhfd_daemon.errors import ConfigError, Problem

__all__ = [
    "DEFAULT_TYPE",
    "HeartbeatConfig",
    "LinksConfig",
    "heartbeat_faults",
    "link_faults",
    "read_target",
    "target_faults",
    "targets_from",
]

DEFAULT_TYPE = "webhook"
MAX_SECRET_FILE_BYTES = 64 * 1024
_NAMES = dict.fromkeys(("run", "boot", "rule", "severity", "host"), "x")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class LinksConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What messages link to. ``dashboard_url`` may name {run}, {boot}, {rule}, {severity} and {host}; ``rules_url`` is
    where docs/rules.md can be read."""

    dashboard_url: str = ""
    rules_url: str = ""


class HeartbeatConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dead man's switch: a URL that is called as long as all is well, so that somebody else notices when not."""

    url: str = ""
    url_file: str = ""
    url_env: str = ""
    method: Literal["GET", "POST", "HEAD"] = "GET"
    interval_seconds: Annotated[float, Meta(ge=1, le=86400)] = 60.0
    timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 10.0
    allow_private: bool = False
    proxy: str = ""
    ca_file: str = ""

    @property
    def enabled(self) -> bool:
        """Whether there is anywhere to call."""
        return bool(self.url or self.url_file or self.url_env)

    def settings(self) -> HttpSettings:
        """As for a target."""
        names = ("url", "url_file", "url_env", "timeout_seconds", "allow_private", "proxy", "ca_file")
        return HttpSettings(**{name: getattr(self, name) for name in names})


def link_faults(links: LinksConfig) -> list[Problem]:
    """What types cannot say about the links."""
    problems = []
    for field, url in (("dashboard_url", links.dashboard_url), ("rules_url", links.rules_url)):
        try:
            fault = url_fault(url.format_map(_NAMES)) if url else None
        except (KeyError, ValueError, IndexError, AttributeError):
            fault = f"may name {', '.join(f'{{{name}}}' for name in _NAMES)} only"
        if fault:
            problems.append(Problem(f"links.{field}", fault))
    return problems


def heartbeat_faults(heartbeat: HeartbeatConfig) -> list[Problem]:
    """What types cannot say about the heartbeat."""
    faults = heartbeat.settings().faults() if heartbeat.enabled else ()
    return [Problem(f"heartbeat.{field}", message) for field, message in faults]


def targets_from(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, TargetSettings]:
    """The settings in sections that :mod:`config_check` has found nothing wrong with."""
    kinds = {name: RECEIVERS[section.get("type", DEFAULT_TYPE)].settings for name, section in raw.items()}
    return {name: msgspec.convert(section, kinds[name]) for name, section in raw.items()}


def target_faults(name: str, settings: TargetSettings) -> list[Problem]:
    """What types cannot say about a target."""
    problems = [Problem(f"targets.{name}.{field}", message) for field, message in settings.faults()]
    if not _NAME.fullmatch(name):
        problems.append(Problem(f"targets.{name}", "a target's name is 1 to 64 letters, digits, '_', '-' or '.'"))
    return problems


def read_target(
    name: str, settings: TargetSettings, environ: Mapping[str, str], section: str = "targets."
) -> Target[TargetSettings]:
    """The target with its credentials. :class:`ConfigError` never shows one.

    A file holds one secret a line; a relative one lies in ``$CREDENTIALS_DIRECTORY`` (systemd's LoadCredential). A
    variable holds them separated by white space.
    """
    secrets = _read(section + name, "secret", settings.secret_file, settings.secret_env, environ)
    url = ""
    if isinstance(settings, HttpSettings):
        urls = _read(section + name, "url", settings.url_file, settings.url_env, environ)
        url = urls[0] if urls else settings.url
        if urls and (fault := url_fault(url)):
            raise ConfigError.of(
                "", [Problem(f"{section}{name}.{'url_env' if settings.url_env else 'url_file'}", fault)]
            )
    return Target(name, settings, url, secrets)


def _read(name: str, what: str, file: str, variable: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    if variable:
        field, text = f"{what}_env", environ.get(variable, "")
        place = f"the environment variable {variable}"
    elif file:
        field, text = f"{what}_file", _read_file(f"{name}.{what}_file", file, environ)
        place = file
    else:
        return ()
    values = tuple(text.split())
    if not values:
        raise ConfigError.of("", [Problem(f"{name}.{field}", f"{place} holds no {what}")])
    return values


def _read_file(field: str, file: str, environ: Mapping[str, str]) -> str:
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if not file.startswith("/") and not folder:
        message = f"{file} is relative, and there is no $CREDENTIALS_DIRECTORY that it could be in"
        raise ConfigError.of("", [Problem(field, message)])
    path = Path(folder, file)
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_SECRET_FILE_BYTES).decode("ascii")
    except OSError as error:
        raise ConfigError.of("", [Problem(field, f"{path} cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError:
        # Not chained: the error would carry the file's bytes into a traceback.
        raise ConfigError.of("", [Problem(field, f"{path} holds something other than ASCII text")]) from None

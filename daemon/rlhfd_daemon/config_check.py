"""Find everything that is wrong with a parsed configuration, with dotted names and the nearest valid key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from rlhfd_alerts.receivers import RECEIVERS
from rlhfd_alerts.target import TargetSettings
from rlhfd_daemon.config_actions import ACTIONS, AnyAction, action_faults
from rlhfd_daemon.config_alerts import alert_faults
from rlhfd_daemon.config_analyzers import forecast_faults
from rlhfd_daemon.config_targets import DEFAULT_TYPE, heartbeat_faults, link_faults, target_faults
from rlhfd_daemon.errors import Problem
from rlhfd_daemon.outlets.access import problems_of
from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, ipc_path

if TYPE_CHECKING:
    from rlhfd_daemon.config import Config

__all__ = ["cross_problems", "problems_in"]

_INLINE_SECRET = ("secret", "secrets", "token", "password", "routing_key", "integration_key")


def problems_in(raw: Mapping[str, Any], section: type[msgspec.Struct], prefix: str = "") -> list[Problem]:
    """Unknown keys, missing keys, wrong types and values out of range in ``raw``, all of them."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(section)}
    tag = section.__struct_config__.tag_field
    valid = [*fields] if tag is None else [tag, *fields]
    problems = [_unknown(prefix, key, valid) for key in raw if key not in valid]
    for name, field in fields.items():
        if name in raw:
            problems += _in_value(raw[name], field.type, prefix + name)
        elif field.required:
            problems.append(Problem(prefix + name, "is missing"))
    return problems


def _in_value(value: object, expected: Any, name: str) -> list[Problem]:
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        if not isinstance(value, dict):
            return [Problem(name, f"must be a section, [{name}]")]
        return problems_in(value, expected, f"{name}.")
    if expected == dict[str, TargetSettings] and isinstance(value, dict):
        return [problem for key in value for problem in _in_target(value[key], f"{name}.{key}")]
    if expected == tuple[AnyAction, ...] and isinstance(value, list):
        found = (_in_action(one, f"{name}[{number}]") for number, one in enumerate(value))
        return [problem for problems in found for problem in problems]
    if get_origin(expected) is dict and isinstance(value, dict):
        section = get_args(expected)[1]
        return [problem for key in value for problem in _in_value(value[key], section, f"{name}.{key}")]
    if (section := _repeated(expected)) is not None and isinstance(value, list):
        found = (_in_value(one, section, f"{name}[{number}]") for number, one in enumerate(value))
        return [problem for problems in found for problem in problems]
    if get_origin(expected) is Literal:
        choices = get_args(expected)
        return [] if value in choices else [Problem(name, f"must be one of: {', '.join(choices)}")]
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        # msgspec says what it expected, not what it got, so no secret can get into the text.
        message, _, place = str(error).partition(" - at `$")
        return [Problem(name + place.rstrip("`"), message[:1].lower() + message[1:])]
    return []


def _repeated(expected: Any) -> type[msgspec.Struct] | None:
    """The section that a list of tables holds."""
    section = get_args(expected)[0] if get_origin(expected) is tuple else None
    return section if isinstance(section, type) and issubclass(section, msgspec.Struct) else None


def _in_target(value: object, name: str) -> list[Problem]:
    return _in_one_of({kind: one.settings for kind, one in RECEIVERS.items()}, value, name, DEFAULT_TYPE)


def _in_action(value: object, name: str) -> list[Problem]:
    return _in_one_of(ACTIONS, value, name)


def _in_one_of(
    kinds: Mapping[str, type[msgspec.Struct]], value: object, name: str, default: str | None = None
) -> list[Problem]:
    """What is wrong with a section whose ``type`` says which of ``kinds`` it is."""
    if not isinstance(value, dict):
        return [Problem(name, f"must be a section, [{name}]")]
    kind = value.get("type", default)
    if not isinstance(kind, str) or kind not in kinds:
        nearest = difflib.get_close_matches(kind if isinstance(kind, str) else "", kinds, n=1)
        hint = f'did you mean "{nearest[0]}"? ' if nearest else ""
        return [Problem(f"{name}.type", f"{hint}must be one of: {', '.join(kinds)}")]
    return problems_in(value, kinds[kind], f"{name}.")


def _unknown(prefix: str, key: str, valid: list[str]) -> Problem:
    if prefix.startswith("targets.") and key in _INLINE_SECRET:
        return Problem(prefix + key, "a secret must not be in this file; name it with secret_file or secret_env")
    nearest = difflib.get_close_matches(key, valid, n=1)
    hint = f'did you mean "{nearest[0]}"?' if nearest else f"valid here: {', '.join(valid)}"
    return Problem(prefix + key, f"unknown key; {hint}")


def cross_problems(config: Config) -> list[Problem]:
    """What types cannot say: relations between values, URLs, socket paths."""
    problems: list[Problem] = []
    if config.framelog.max_bytes < 2 * config.framelog.segment_bytes:
        problems.append(Problem("framelog.max_bytes", "must be at least twice segment_bytes"))
    problems += _endpoint(config.ingest.endpoint)
    problems += forecast_faults(config.analyzers.forecast)
    if config.control.socket and not config.control.socket.startswith("/"):
        problems.append(Problem("control.socket", "must be an absolute path"))
    problems += [Problem(field, message) for field, message in problems_of(config.http)]
    for name, target in config.targets.items():
        problems += target_faults(name, target)
    problems += link_faults(config.links) + heartbeat_faults(config.heartbeat)
    return problems + alert_faults(config.alerts, tuple(config.targets)) + action_faults(config.actions)


def _endpoint(endpoint: str) -> list[Problem]:
    if not endpoint:
        return []
    path = ipc_path(endpoint)
    if path is None or not path.startswith("/"):
        return [Problem("ingest.endpoint", "must be ipc:// and an absolute path, like ipc:///run/rlhfd/rlhfd.sock")]
    if len(path.encode()) > MAX_IPC_PATH_BYTES:
        return [Problem("ingest.endpoint", f"the path is longer than {MAX_IPC_PATH_BYTES} bytes")]
    return []

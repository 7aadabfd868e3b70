"""Who may ask for `/metrics`: where to listen, whether a token is needed, which Host headers are taken."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhfd_daemon.errors import ConfigError, Problem
from rlhfd_emitter.endpoint import MAX_IPC_PATH_BYTES

if TYPE_CHECKING:
    from rlhfd_daemon.config import HttpConfig

__all__ = ["Access", "Listen", "parse_listen", "problems_of", "read_token"]

MIN_TOKEN, MAX_TOKEN = 16, 512
OPEN_PATH = "/healthz"
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d+)?", re.ASCII)


class Listen(NamedTuple):
    """A TCP address, or the ``path`` of a unix socket. Port 0 is any free one."""

    host: str
    port: int
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.path) or ipaddress.ip_address(self.host).is_loopback


def parse_listen(text: str) -> Listen | None:
    """``http.listen``; ``None`` for "". :raises ValueError: what is wrong with it."""
    if not text:
        return None
    if text.startswith("/"):
        if len(text.encode()) > MAX_IPC_PATH_BYTES:
            raise ValueError(f"the path is longer than {MAX_IPC_PATH_BYTES} bytes")
        return Listen("", 0, text)
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError('must be an address and a port like "127.0.0.1:9469", an absolute path, or "" for nowhere')
    return Listen(str(address), int(port))


def problems_of(config: HttpConfig) -> Iterator[tuple[str, str]]:
    """Field and message of everything wrong in the section [http]."""
    try:
        listen = parse_listen(config.listen)
    except ValueError as error:
        yield "http.listen", str(error)
        return
    if listen is not None and not listen.is_local and not config.token_file:
        yield (
            "http.token_file",
            f"must name a file (mode 0600) with a secret token, because {config.listen} can be reached from other "
            'machines; or set http.listen = "127.0.0.1:9469"',
        )


def read_token(config: HttpConfig, environ: Mapping[str, str]) -> bytes | None:
    """The token that requests must carry, ``None`` if none is configured. A relative ``token_file`` lies in
    ``$CREDENTIALS_DIRECTORY``. :raises ConfigError: it cannot be read, others may read it, or it holds no token."""
    if not config.listen or not config.token_file:
        return None
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder, config.token_file)
    if not path.is_absolute():
        raise _refused(f"{path} is relative, and there is no $CREDENTIALS_DIRECTORY that it could be in")
    try:
        with path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            token = opened.read(MAX_TOKEN + 2).strip()
    except OSError as error:
        raise _refused(f"{path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _refused(f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}")
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN or not all(0x21 <= byte <= 0x7E for byte in token):
        raise _refused(f"{path} must hold one token of {MIN_TOKEN} to {MAX_TOKEN} printable characters")
    return token


def _refused(message: str) -> ConfigError:
    return ConfigError.of("", [Problem("http.token_file", message)])


class Access:
    """Decides on one request by its headers."""

    def __init__(self, listen: Listen, token: bytes | None, allowed_hosts: tuple[str, ...]) -> None:
        self._checks_host = not listen.path
        self._token = token
        self._hosts = {host.lower().rstrip(".") for host in allowed_hosts}

    def refusal(self, path: str, host: str | None, authorization: str | None) -> tuple[int, str] | None:
        """HTTP status and reason, or ``None``: granted. Whether the daemon lives is no secret.

        Where no token is asked for, the Host header must name this machine: a web page that a user of this machine
        visits could have its own name point here (DNS rebinding), and read what loopback serves.
        """
        if self._token is None:
            if self._checks_host and not self._is_known(host or ""):
                return 421, "this Host is not served; add it to http.allowed_hosts"
            return None
        if path == OPEN_PATH:
            return None
        scheme, _, given = (authorization or "").partition(" ")
        good = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        return None if good and scheme.lower() == "bearer" else (401, "a Bearer token is needed")

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        name = "" if found is None else found[1].rstrip(".")
        if name == "localhost" or name in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
        except ValueError:
            return False

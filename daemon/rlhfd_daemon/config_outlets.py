"""The configuration sections of the outlets: the web server and the files of steps."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["HttpConfig", "StepsConfig"]


class HttpConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where `/metrics` is served: ``listen`` is "address:port", an absolute path of a unix socket, or "" for nowhere.
    With ``token_file`` requests need its token; what is not loopback must have one. ``allowed_hosts`` are names that
    the Host header may have beside those of loopback; with a token it may have any."""

    listen: str = "127.0.0.1:9469"
    token_file: str = ""
    allowed_hosts: tuple[str, ...] = ()


class StepsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One JSON line for each step of each run, in ``state_dir``/runs. Of one launch at most ``max_run_bytes`` are kept,
    in two files; of all at most the newest ``max_runs``."""

    enabled: bool = True
    max_run_bytes: Annotated[int, Meta(ge=65536, le=1 << 40)] = 256 << 20
    max_runs: Annotated[int, Meta(ge=1, le=10_000)] = 200

"""The configuration section of the poller that asks a reward again for scores it has given."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["RewardProbeConfig"]


class RewardProbeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Off unless ``pairs`` is given: a file of answers as `rlhfd reward probe` reads it. They are scored at each
    interval by ``url`` (a remote reward model) or ``function`` (a file with OpenRLHF's ``reward_func``, run by
    ``python`` in a process of its own), each call within ``timeout_seconds``.

    The first scores are the ``baseline`` (a file; by default in the state directory); a score that is further than
    ``tolerance`` from it is a finding, and so is a share of failed calls above ``failed_ratio``.
    """

    pairs: str = ""
    url: str = ""
    function: str = ""
    python: str = ""
    baseline: str = ""
    interval_seconds: Annotated[float, Meta(ge=1, le=86400)] = 600.0
    timeout_seconds: Annotated[float, Meta(gt=0, le=600)] = 30.0
    tolerance: Annotated[float, Meta(ge=0)] = 1e-6
    failed_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.pairs and bool(self.url) == bool(self.function):
            raise ValueError("pairs need either url or function, to be scored by")
        if not self.pairs and (self.url or self.function):
            raise ValueError("url or function needs pairs: a file of answers to be scored")

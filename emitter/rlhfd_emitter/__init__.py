"""What runs inside the training process: hands metrics and events to the rlhfd daemon over ZeroMQ.

Imports nothing but the standard library until an :class:`Emitter` is made, so that an interpreter that only
passes by (``rlhfd.start``) pays next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhfd_emitter.emitter import Emitter
    from rlhfd_emitter.endpoint import default_endpoint

__all__ = ["Emitter", "default_endpoint"]


def __getattr__(name: str) -> Any:
    if name == "Emitter":
        from rlhfd_emitter.emitter import Emitter

        return Emitter
    if name == "default_endpoint":
        from rlhfd_emitter.endpoint import default_endpoint

        return default_endpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

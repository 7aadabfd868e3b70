"""What the daemon asks of this process, as far as whoever started the run allows it: a checkpoint, a stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

__all__ = ["ACTIONS", "ALLOW_VARIABLE", "SAMPLES_VARIABLE", "Request", "Requests", "allowed_in"]

ALLOW_VARIABLE = "RLHFD_ALLOW"
SAMPLES_VARIABLE = "RLHFD_SAMPLES"
"""``1``: the numbers of single answers are sent, too."""
ACTIONS = ("checkpoint", "stop")
MAX_TEXT = 64
MAX_AT_ONCE = 16
MAX_SEEN = 64  # newest; the daemon repeats one until it is answered

Answer = Callable[..., None]


class Request(NamedTuple):
    """``id`` is the daemon's, ``action`` one of :data:`ACTIONS`."""

    id: str
    action: str


def allowed_in(text: str) -> frozenset[str]:
    """The actions that ``RLHFD_ALLOW`` names, separated by commas; what it names besides is nothing."""
    return frozenset(part.strip() for part in text.split(",")) & frozenset(ACTIONS)


class Requests:
    """Filled by the sender thread, emptied by the training's own, where hooks can carry a request out. Bounded.

    ``answer`` returns :meth:`Emitter.event` as long as there is one. Each request is answered at once (``accepted`` or
    ``refused``) and, once accepted, again with what became of it (``done`` or ``failed``): events ``action_answer``.
    """

    def __init__(self, allowed: Collection[str], answer: Callable[[], Answer | None]) -> None:
        self.able: Mapping[str, str] = dict.fromkeys(ACTIONS, "no hook of this process can do that")
        """By action what keeps this process from it; empty: nothing."""
        self._allowed = frozenset(allowed)
        self._answer = answer
        self._waiting: dict[str, str] = {}
        self._seen: deque[str] = deque(maxlen=MAX_SEEN)

    @property
    def waiting(self) -> tuple[Request, ...]:
        """What is to be carried out, in the order in which it came."""
        return tuple(Request(id_, action) for id_, action in list(self._waiting.items())) if self._waiting else ()

    def take(self, asked: object) -> None:
        """Take up what an answer of the daemon asks; what is no request, or was seen before, is passed over."""
        for one in asked[:MAX_AT_ONCE] if isinstance(asked, list) else ():
            id_, action = (one.get("id"), one.get("action")) if isinstance(one, dict) else (None, None)
            if not isinstance(id_, str) or not isinstance(action, str) or not 0 < len(id_) <= MAX_TEXT:
                continue
            if id_ not in self._seen:
                self._seen.append(id_)
                self._decide(Request(id_, action[:MAX_TEXT]))

    def settle(self, request: Request, state: str, **fields: object) -> None:
        """Say what became of ``request``: ``done``, ``failed`` or ``refused``."""
        if self._waiting.pop(request.id, None) is not None:
            self._say(request, state, **fields)

    def _decide(self, request: Request) -> None:
        if request.action not in ACTIONS:
            reason = "this rlhfd does not know it"
        elif request.action not in self._allowed:
            reason = f"the run was not started with rlhfd run --allow {request.action} ({ALLOW_VARIABLE})"
        else:
            reason = self.able.get(request.action, "")
        if reason:
            self._say(request, "refused", reason=reason)
        else:
            self._say(request, "accepted")
            self._waiting[request.id] = request.action

    def _say(self, request: Request, state: str, **fields: object) -> None:
        answer = self._answer()
        if answer is not None:
            answer("action_answer", id=request.id, action=request.action, state=state, **fields)

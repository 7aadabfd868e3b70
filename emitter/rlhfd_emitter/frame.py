"""The wire format, emitter side: plain values in, msgpack bytes out. docs/wire.md is the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import msgpack

VERSION = 1
MAX_FRAME_BYTES = 256 * 1024
MAX_METRICS = 512
MAX_KEY_BYTES = 128
MAX_DEPTH = 4
MAX_ITEMS = 1024
MAX_TEXT = 4096

Count = Callable[[str], None]

# Keys that were found good, so that they need not be looked at again. Bounded: a run has tens of metrics.
_known_keys: set[str] = set()
MAX_KNOWN_KEYS = 4096


def number(value: object) -> float | None:
    """A float of ``value``, or ``None`` if it is none; an accelerator tensor is refused, since reading it
    would make the training wait for the device."""
    if isinstance(value, (float, int)):
        return float(value)
    if isinstance(value, (str, bytes, bytearray)):
        return None
    device = getattr(value, "device", None)
    if device is not None and getattr(device, "type", "cpu") != "cpu":
        return None
    convert = getattr(value, "__float__", None)
    return None if convert is None else float(convert())


def clean_metrics(metrics: Mapping[str, object], count: Count) -> dict[str, float]:
    """The numbers among ``metrics``; ``None`` is absent, all else that is left out is counted by reason."""
    known = type(metrics) is dict and len(metrics) <= MAX_METRICS and metrics.keys() <= _known_keys
    if known and set(map(type, metrics.values())) == {float}:
        return metrics  # type: ignore[return-value]  # what OpenRLHF logs as a rule, decided without a Python loop
    kept: dict[str, float] = {}
    for key, value in metrics.items():
        if value is not None:
            _keep(kept, key, value, count)
    if len(kept) <= MAX_METRICS and len(_known_keys) < MAX_KNOWN_KEYS:
        _known_keys.update(kept)
    if len(kept) > MAX_METRICS:
        for key in list(kept)[MAX_METRICS:]:
            del kept[key]
            count("value:too_many_metrics")
    return kept


def _keep(kept: dict[str, float], key: object, value: object, count: Count) -> None:
    if not _is_key(key):
        count("value:bad_key")
        return
    try:
        converted = number(value)
    except Exception:  # noqa: BLE001 - __float__ and friends are the caller's code
        converted = None
    if converted is None:
        count("value:not_a_number")
    else:
        kept[str(key)] = converted


def _is_key(key: object) -> bool:
    try:
        return isinstance(key, str) and 0 < len(key.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def clean_fields(value: object, depth: int = 0, budget: Budget | None = None) -> Any:
    """``value`` in msgpack's plain types, cut to the wire's limits; an unknown object becomes its type's name
    (its ``repr`` may be slow, large or raise).

    :raises FieldsTooLargeError: as soon as it cannot fit into a frame any more, however large ``value`` is.
    """
    budget = budget or Budget()
    budget.spend(1)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
        return float(value) if abs(value) < 10**308 else "<int>"
    if isinstance(value, str):
        text = value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
        budget.spend(len(text))
        return _encodable(text)
    if depth >= MAX_DEPTH - 1:
        return f"<{type(value).__name__}>"
    if isinstance(value, (dict, Mapping)):  # a look at the abstract class costs as much as all the rest
        pairs = islice(value.items(), MAX_ITEMS)
        return {_encodable(str(k)[:MAX_KEY_BYTES]): clean_fields(v, depth + 1, budget) for k, v in pairs}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean_fields(v, depth + 1, budget) for v in islice(value, MAX_ITEMS)]
    return f"<{type(value).__name__}>"


class FieldsTooLargeError(ValueError):
    """Fields beyond what a frame can hold."""


class Budget:
    """What is left of a frame, in bytes of the packed form, counted from below."""

    def __init__(self, left: int = MAX_FRAME_BYTES) -> None:
        self._left = left

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise FieldsTooLargeError(f"more than {MAX_FRAME_BYTES} bytes")


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class FrameEncoder:
    """Packs the frames of one stream; what never changes within a stream is packed once. Not thread-safe."""

    def __init__(self, *, run: str, boot: str, role: str, rank: int | None, stream: str, pid: int) -> None:
        self._packer = msgpack.Packer()
        head: dict[str, object] = {
            "v": VERSION, "run": run, "boot": boot, "role": role, "rank": rank, "stream": stream, "pid": pid,
        }  # fmt: skip
        self._head_pairs = len(head)
        self._head: bytes = self._packer.pack(head)[1:]

    def encode(self, tail: dict[str, object]) -> bytes:
        """One frame: the stream's head and ``tail``, at most 8 pairs, as one msgpack map."""
        packed: bytes = self._packer.pack(tail)
        # Maps of up to 15 pairs have a one-byte header, so two of them join into one by their counts.
        return b"%c%b%b" % (0x80 | (self._head_pairs + len(tail)), self._head, packed[1:])

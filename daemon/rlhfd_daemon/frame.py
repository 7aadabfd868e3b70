"""Bytes become a :class:`Frame` here and nowhere else. The contract is docs/wire.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from rlhfd_daemon.errors import DaemonError

VERSION = 1
MAX_FRAME_BYTES = 256 * 1024
MAX_METRICS = 512
MAX_DEPTH = 4

Name = Annotated[str, Meta(min_length=1, max_length=128)]
StreamId = Annotated[str, Meta(min_length=1, max_length=64)]
Natural = Annotated[int, Meta(ge=0)]


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One message of one stream. Times in nanoseconds: ``time_ns`` since the epoch by the sender's clock,
    ``mono_ns`` by its monotonic one. ``drops`` are totals since the stream began."""

    v: int
    run: Name
    boot: Name
    role: Name
    stream: StreamId
    pid: Natural
    seq: Natural
    time_ns: int
    mono_ns: int
    kind: Literal["metrics", "event", "ping"]
    rank: Natural | None = None
    step: int | None = None
    metrics: Annotated[dict[Name, float], Meta(max_length=MAX_METRICS)] = {}
    event: Name | None = None
    fields: dict[str, Any] = {}
    drops: dict[str, Natural] = {}


class Link(NamedTuple):
    """What an emitter that resends puts before each frame: ``previous`` is the sequence number of the frame it sent
    before this one, ``acknowledged`` that of the last frame it knows to be taken."""

    previous: int
    acknowledged: int


class _Head(msgspec.Struct, frozen=True):
    v: int
    stream: str = ""
    seq: int = 0


class FrameError(DaemonError):
    """A message that is not a frame of ours. ``reason`` is the counter it goes to: ``malformed`` (not msgpack),
    ``schema`` (a field is missing or wrong), ``version``, ``too_large``, ``nesting`` (too deep, or not plain
    msgpack). ``stream`` and ``seq`` are set where they could still be read, so that it can be refused by name."""

    def __init__(self, reason: str, message: str, *, stream: str = "", seq: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.stream = stream
        self.seq = seq


# msgspec lets Python's own error through where a text is not UTF-8.
_NOT_READABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_SCALARS = frozenset((type(None), str, bool, int, float))
_decode = msgspec.msgpack.Decoder(Frame).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_link = msgspec.msgpack.Decoder(Link).decode
encode = msgspec.msgpack.Encoder().encode


def decode(payload: bytes, max_bytes: int = MAX_FRAME_BYTES) -> Frame:
    """The frame in ``payload``. Unknown keys are left alone: they are a newer minor version's.

    :raises FrameError: for everything else, with the reason and, in its text, the field.
    """
    if len(payload) > max_bytes:
        head = _head(payload)
        text = f"{len(payload)} bytes; at most {max_bytes} are taken"
        raise FrameError("too_large", text, stream=head.stream, seq=head.seq)
    try:
        frame = _decode(payload)
    except msgspec.ValidationError as error:
        raise _explain(payload, error) from error
    except _NOT_READABLE as error:
        raise FrameError("malformed", f"not one msgpack map: {error}") from error
    where = {"stream": frame.stream, "seq": frame.seq}
    if frame.v != VERSION:
        raise FrameError("version", f"wire version {frame.v}; this daemon reads version {VERSION}", **where)  # type: ignore[arg-type]
    if frame.kind == "event" and not frame.event:
        raise FrameError("schema", "an event without `event`", **where)  # type: ignore[arg-type]
    if not (_SCALARS.issuperset(map(type, frame.fields.values())) or _is_plain(frame.fields, MAX_DEPTH)):
        raise FrameError("nesting", f"`fields` is deeper than {MAX_DEPTH} or holds a non-plain type", **where)  # type: ignore[arg-type]
    return frame


def decode_link(part: bytes) -> Link:
    """:raises FrameError: ``part`` is not a msgpack array of two integers."""
    try:
        return _decode_link(part)
    except _NOT_READABLE as error:
        raise FrameError("malformed", f"the link before the frame: {error}") from error


def _explain(payload: bytes, error: Exception) -> FrameError:
    head = _head(payload)
    if head.v != VERSION:
        text = f"wire version {head.v}; this daemon reads version {VERSION}"
        return FrameError("version", text, stream=head.stream, seq=head.seq)
    return FrameError("schema", str(error), stream=head.stream, seq=head.seq)


def _head(payload: bytes) -> _Head:
    """What every version has in common, as far as it can be read."""
    try:
        return _decode_head(payload)
    except _NOT_READABLE:
        return _Head(VERSION)


def _is_plain(value: object, depth: int) -> bool:
    if value is None or isinstance(value, (str, bool, int, float)):
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    return isinstance(value, list) and all(_is_plain(item, depth - 1) for item in value)

"""Reads the opcodes of a pickle (protocols 2 to 5) into plain data; nothing is imported, called or looked up for it.

The opcodes are those of Python's ``Lib/pickletools.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rlhfd_daemon.checkpoints.contents import SHOWN
from rlhfd_daemon.checkpoints.defect import Defect, Refused
from rlhfd_daemon.checkpoints.pickle_machine import MAX_OPCODES, Machine
from rlhfd_daemon.checkpoints.pickle_names import FOREIGN, UNSAFE, judge
from rlhfd_daemon.checkpoints.pickle_values import Values

__all__ = ["MAX_BYTES", "Tree", "read", "refuse_unsafe"]

MAX_BYTES = 32 << 20
_Call = Callable[[Machine], None]


@dataclass(frozen=True, slots=True)
class Tree:
    """``value`` is what was pickled: dict, list, tuple, str, bytes, numbers, ``None``, ``Tensor`` (without a name),
    ``Storage`` and ``Opaque``; sets are lists. It may contain itself. ``globals`` are all names in it; ``end`` is the
    byte behind it."""

    value: object
    globals: tuple[tuple[str, str], ...]
    defects: tuple[Defect, ...]
    end: int


def read(data: bytes, values: Values, start: int = 0, opcodes: int = MAX_OPCODES) -> Tree:
    """The pickle at ``start`` of ``data``, of ``opcodes`` at most. Raises :class:`Refused` if it is malformed or beyond
    the limits."""
    if len(data) - start > MAX_BYTES:
        raise Refused("limit", values.file, f"a pickle of {len(data) - start} bytes, {MAX_BYTES} are read")
    machine = Machine(data, values, start)
    try:
        value = machine.run(_CALLS, opcodes)
    except Refused:
        refuse_unsafe(machine.globals, values.file)
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        refuse_unsafe(machine.globals, values.file)  # a loader runs what comes before the fault
        raise Refused("malformed", values.file, f"is no whole pickle: stops at byte {machine.position}") from error
    names = tuple(machine.globals)
    return Tree(value, names, (*_judged(names, values.file), *values.defects), machine.position)


def refuse_unsafe(names: Iterable[tuple[str, str]], file: str) -> None:
    """Raises :class:`Refused` if there is a name among ``names`` that could run something."""
    for one in _judged(names, file):
        if one.kind == "unsafe":
            raise Refused(one.kind, file, one.summary, **one.evidence)


def _judged(names: Iterable[tuple[str, str]], file: str) -> list[Defect]:
    found: dict[str, list[str]] = {UNSAFE: [], FOREIGN: []}
    for module, name in names:
        found.get(judge(module, name), []).append(f"{module}.{name}")
    said = {UNSAFE: "would run if it were loaded", FOREIGN: "is no class of a training state"}
    return [
        Defect(kind, file, f"{shown[0][:200]!r} {said[kind]}", evidence={"names": [one[:200] for one in shown[:SHOWN]]})
        for kind, shown in found.items()
        if shown
    ]


def _instance(machine: Machine, keywords: bool = False) -> None:
    extra = machine.stack.pop() if keywords else None
    args, kind = machine.stack.pop(), machine.stack.pop()
    if not isinstance(args, tuple):
        raise TypeError
    machine.call(kind, (*args[:1000], extra) if extra else args)


def _old_instance(machine: Machine, named: bool) -> None:
    args = machine.marked()
    if named:
        machine.named(machine.line(), machine.line())
        kind = machine.stack.pop()
    else:
        kind = args.pop(0) if len(args) < 1000 else None
    machine.call(kind, tuple(args))


def _reduce(machine: Machine) -> None:
    args, what = machine.stack.pop(), machine.stack.pop()
    machine.call(what, args)


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.named(module, name)


def _extension(machine: Machine, width: int) -> None:
    machine.named("copyreg", f"extension {machine.count(width)}")


def _put_one(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.put([key, value])


def _append_one(machine: Machine) -> None:
    machine.append([machine.stack.pop()])


def _protocol(machine: Machine) -> None:
    if machine.count(1) > 5:
        raise Refused("unsupported", machine.values.file, "a pickle of a protocol after 5")


def _list(machine: Machine) -> None:
    found = machine.marked()  # first: it also changes the stack
    machine.stack.append(found)


def _tuple(machine: Machine) -> None:
    found = tuple(machine.marked())
    machine.stack.append(found)


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


def _frame(machine: Machine) -> None:
    if machine.count(8) > len(machine.data) - machine.position:
        raise IndexError


_TABLE: dict[bytes, _Call] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": Machine.mark,
    b"0": _pop,
    b"1": lambda m: m.marked().clear(),
    b"2": lambda m: m.stack.append(m.stack[-1]),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"J": lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),
    b"K": lambda m: m.stack.append(m.count(1)),
    b"M": lambda m: m.stack.append(m.count(2)),
    b"\x8a": lambda m: m.integer(1),
    b"\x8b": lambda m: m.integer(4),
    b"G": lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    b"U": lambda m: m.text(1),
    b"T": lambda m: m.text(4),
    b"X": lambda m: m.text(4),
    b"\x8c": lambda m: m.text(1),
    b"\x8d": lambda m: m.text(8),
    b"B": lambda m: m.octets(4),
    b"C": lambda m: m.octets(1),
    b"\x8e": lambda m: m.octets(8),
    b"\x96": lambda m: m.octets(8),
    b"]": lambda m: m.stack.append([]),
    b")": lambda m: m.stack.append(()),
    b"}": lambda m: m.stack.append({}),
    b"\x8f": lambda m: m.stack.append([]),
    b"l": _list,
    b"t": _tuple,
    b"\x91": _list,
    b"\x85": lambda m: m.group(1),
    b"\x86": lambda m: m.group(2),
    b"\x87": lambda m: m.group(3),
    b"a": _append_one,
    b"e": lambda m: m.append(m.marked()),
    b"\x90": lambda m: m.append(m.marked()),
    b"s": _put_one,
    b"u": lambda m: m.put(m.marked()),
    b"q": lambda m: m.memoize(m.count(1)),
    b"r": lambda m: m.memoize(m.count(4)),
    b"\x94": lambda m: m.memoize(len(m.memo)),
    b"h": lambda m: m.stack.append(m.memo[m.count(1)]),
    b"j": lambda m: m.stack.append(m.memo[m.count(4)]),
    b"c": lambda m: m.named(m.line(), m.line()),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"b": Machine.build,
    b"\x81": _instance,
    b"\x92": lambda m: _instance(m, keywords=True),
    b"i": lambda m: _old_instance(m, named=True),
    b"o": lambda m: _old_instance(m, named=False),
    b"Q": lambda m: m.stack.append(m.values.persistent(m.stack.pop())),
    b"\x82": lambda m: _extension(m, 1),
    b"\x83": lambda m: _extension(m, 2),
    b"\x84": lambda m: _extension(m, 4),
}
_CALLS = [_TABLE.get(bytes([code])) for code in range(256)]

"""The stack machine of a pickle: bounded, and without anything that imports, calls or looks up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.pickle_values import Opaque, Storage, Values
from rlhfd_daemon.checkpoints.tensor import Tensor

__all__ = ["MAX_OPCODES", "MAX_TEXT_BYTES", "Machine"]

MAX_OPCODES = 2_500_000
"""About 40 make a tensor. An opcode takes 80 bytes of memory at most, besides texts."""
MAX_TEXT_BYTES = 32 << 20
"""Of all strings and byte strings together, in memory."""
MAX_MARKS = 200
MAX_NAME = 1000
MAX_GLOBALS = 1000
"""Different classes and functions; a checkpoint has a dozen."""
MAX_INTEGER_BYTES = 256
_STOP = ord(".")


class Machine:
    """The stack machine. What is wrong with the data comes out as the errors of Python that ``read`` converts."""

    def __init__(self, data: bytes, values: Values, position: int) -> None:
        self.data = data
        self.values = values
        self.position = position
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Opaque] = {}
        self.text_bytes = 0

    def run(self, calls: Sequence[Callable[[Machine], None] | None], opcodes: int = MAX_OPCODES) -> object:
        """What is pickled; ``calls`` has what each opcode does."""
        data = self.data
        for _ in range(opcodes):
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                return self.stack.pop()
            call = calls[code]
            if call is None:
                raise Refused("unsupported", self.values.file, f"a pickle with opcode {code:#04x}")
            call(self)
        raise Refused("limit", self.values.file, f"a pickle of more than {opcodes} opcodes")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise IndexError
        found = self.data[self.position : end]
        self.position = end
        return found

    def count(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.data.index(b"\n", self.position, self.position + MAX_NAME + 1)
        found = self.data[self.position : end].decode("utf-8")
        self.position = end + 1
        return found

    def keep(self, made: bytes | bytearray | str) -> None:
        """Puts a text on the stack, as long as there is room for texts."""
        self.text_bytes += made.__sizeof__()
        if self.text_bytes > MAX_TEXT_BYTES:
            raise Refused("limit", self.values.file, f"a pickle with more than {MAX_TEXT_BYTES} bytes of text")
        self.stack.append(made)

    def text(self, width: int) -> None:
        self.keep(self.take(self.count(width)).decode("utf-8", "surrogatepass"))

    def octets(self, width: int) -> None:
        self.keep(self.take(self.count(width)))

    def integer(self, width: int) -> None:
        length = self.count(width)
        if length > MAX_INTEGER_BYTES:
            raise Refused("limit", self.values.file, f"an integer of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise Refused("limit", self.values.file, f"a pickle that is nested more than {MAX_MARKS} deep")
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def named(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) > MAX_NAME or len(name) > MAX_NAME:
            raise TypeError
        known = self.globals.get((module, name))
        if known is None:
            known = self.globals[module, name] = Opaque(module, name)
            if len(self.globals) > MAX_GLOBALS:
                raise Refused("limit", self.values.file, f"a pickle that names more than {MAX_GLOBALS} classes")
        self.stack.append(known)

    def call(self, what: object, args: object) -> None:
        if not isinstance(what, Opaque) or not isinstance(args, tuple):
            raise TypeError
        self.stack.append(self.values.called(what, args))

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def group(self, count: int) -> None:
        found = tuple(self.stack[-count:])
        if len(found) != count:
            raise IndexError
        self.stack[-count:] = [found]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Opaque):
            if target.items is None:
                target.items = []
            target.items.extend(items)
        else:
            raise TypeError

    def put(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if len(pairs) % 2:
            raise IndexError
        if isinstance(target, dict):
            for index in range(0, len(pairs), 2):
                target[_key(pairs[index])] = pairs[index + 1]
        elif isinstance(target, Opaque):
            self.append(pairs)
        else:
            raise TypeError

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, (dict, list, tuple, Tensor)):  # of those, attributes do not count
            raise TypeError


def _key(key: object) -> object:
    """Something to put into a dict. Tuples and large integers could all be made to have one hash value."""
    if key is None or isinstance(key, (str, bytes, float, Opaque)) or (type(key) is int and abs(key) < 1 << 63):
        return key
    if isinstance(key, (bool, Tensor, Storage)):
        return key if isinstance(key, bool) else Opaque("", "key", key)
    if isinstance(key, (int, tuple)):
        return Opaque("builtins", type(key).__name__, key)
    raise TypeError

"""What the micro-batches of one training call add up to, kept on the tensors' own device and read once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rlhfd_emitter.signals.statistics import Tensor, cat, joined


class Rows:
    """The tensors of several micro-batches, copied, on their own device.

    So that signals are computed over many micro-batches at once: on small ones, an operation costs the same. Copies,
    since what OpenRLHF does to its tensors later must not change them.
    """

    positions = 65_536  # that are held at most, a larger micro-batch alone
    batches = 256

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self.filled = 0

    def __len__(self) -> int:
        """How many micro-batches there are."""
        return len(self._held)

    def has_room_for(self, positions: int) -> bool:
        """Whether a micro-batch of so many positions still fits."""
        return not self._held or (self.filled + positions <= self.positions and len(self._held) < self.batches)

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Take a micro-batch in: tensors of one shape, the last is the mask.

        :raises ValueError: the shapes differ.
        """
        shape = tuple(tensors[-1].shape)
        for tensor in tensors:
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{tuple(tensor.shape)} is not like action_mask {shape}")
        positions = math.prod(shape)
        # Of several types the widest is taken, in which all of them are what they were.
        self._held.append(joined(tensors).reshape(len(tensors), positions))
        self.filled += positions

    def take(self) -> tuple[Tensor, Tensor]:
        """The tensors as rows of float64, with 0 where the mask is not set, and the mask as bool; nothing is left."""
        held, self._held, self.filled = self._held, [], 0
        rows = (cat(held, 1) if len(held) > 1 else held[0]).double()
        mask = rows[-1].bool()
        return rows[:-1].masked_fill(~mask, 0.0), mask


class Totals:
    """Sums by name, and of the names in ``greatest`` the greatest value. All are tensors without a dimension.

    Nothing is read from the device here, and a thousand micro-batches take as much memory as one.
    """

    def __init__(self, greatest: Collection[str] = ()) -> None:
        self._greatest = greatest
        self._held: dict[str, Tensor] = {}
        self._times: Counter[str] = Counter()
        self._batches = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in what was computed at once; what could not be computed is not in ``values``."""
        self._batches += 1
        for name, value in values.items():
            held = self._held.get(name)
            self._held[name] = value if held is None else self._together(name, held, value)
            self._times[name] += 1

    def _together(self, name: str, held: Tensor, value: Tensor) -> Tensor:
        return held.maximum(value) if name in self._greatest else held + value

    def complete(self) -> dict[str, Tensor]:
        """The totals over all that was added; one that was missing once is not the truth, and is left out."""
        return {name: value for name, value in self._held.items() if self._times[name] == self._batches}


def read(values: Sequence[Tensor]) -> list[float]:
    """The numbers of tensors without a dimension, and of plain numbers among them, in one transfer from the device."""
    first = next((value for value in values if hasattr(value, "new_empty")), None)
    if first is None or getattr(getattr(first, "device", None), "type", "cpu") == "cpu":
        return [float(value) for value in values]
    row = first.double().new_empty(len(values))
    for place, value in enumerate(values):
        row[place] = value
    return [float(value) for value in row.tolist()]

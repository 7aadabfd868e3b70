"""How much of the responses repeats itself, from their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhfd_emitter.signals.batch import Batch, matrix
from rlhfd_emitter.signals.statistics import Tensor

N = 4
# A 4-gram as one number: its tokens as digits to this base, modulo 2**64. Two different ones of a response of 10,000
# tokens get the same number once in 10**11 responses.
BASE = 6_364_136_223_846_793_005
SQUARE = (BASE * BASE + 2**63) % 2**64 - 2**63  # as a signed number
NOTHING = -(2**63)


def repetition(batch: Batch) -> Mapping[str, float]:
    """``consecutive_ratio``: of the response tokens behind another, the share that equals it. ``seq_rep_4``: 1 less the
    share of different 4-grams, mean over the responses that have one. Both within one span of response tokens."""
    same = behind = 0
    for tokens, wanted in responses(batch):
        pairs = wanted[:, 1:] & wanted[:, :-1]
        behind += int(pairs.sum())
        same += int((pairs & (tokens[:, 1:] == tokens[:, :-1])).sum())
    values = {"rlhfd/repetition/consecutive_ratio": same / behind} if behind else {}
    if shares := [share for share in repeated_shares(batch) if share is not None]:
        values["rlhfd/repetition/seq_rep_4"] = sum(shares) / len(shares)
    return values


def repeated_shares(batch: Batch) -> Sequence[float | None]:
    """Of each used sample, 1 less the share of different 4-grams; ``None`` for one without any. Nothing if there are no
    sequences."""
    if batch.repeated is None:
        batch.repeated = [share for tokens, wanted in responses(batch) for share in _repeated_shares(tokens, wanted)]
    return batch.repeated


def digests(batch: Batch) -> Sequence[int]:
    """A number for each used sample's response; answers to one prompt that have the same are the same."""
    if batch.digests is not None:
        return batch.digests
    found: list[int] = []
    for tokens, wanted in responses(batch):
        powers = tokens.new_full((tokens.shape[1] + 1,), BASE).cumprod(0)
        found += ((tokens + 1) * powers[wanted.long().cumsum(1)]).masked_fill(~wanted, 0).sum(1).tolist()
    batch.digests = found
    return found


def responses(batch: Batch) -> Sequence[tuple[Tensor, Tensor]]:
    """For each experience the tokens (B, A) of its used samples, and which of them the response has; nothing if one has
    no sequences."""
    found = []
    for index, (experience, mask) in enumerate(zip(batch.experiences, batch.masks, strict=True)):
        sequences = getattr(experience, "sequences", None)
        if sequences is None:
            return ()
        found.append((batch.part(index, _aligned(sequences, mask)).long(), batch.part(index, mask)))
    return found


def _aligned(sequences: Tensor, mask: Tensor) -> Tensor:
    """The tokens that the mask's positions stand for: position ``i`` is token ``i + 1``, which is predicted there."""
    tokens = matrix(sequences)
    if tokens.shape[1] != mask.shape[1] + 1:
        raise ValueError(f"sequences {tuple(tokens.shape)} are not one token longer than {tuple(mask.shape)}")
    return tokens[:, 1:]


def _repeated_shares(tokens: Tensor, wanted: Tensor) -> list[float | None]:
    """The share of each row's 4-grams that occurred before in it."""
    if tokens.shape[1] < N:
        return [None] * int(tokens.shape[0])
    pairs = wanted[:, 1:] & wanted[:, :-1]
    twos = tokens[:, :-1] * BASE + tokens[:, 1:]
    grams = twos[:, :-2] * SQUARE + twos[:, 2:]
    whole = pairs[:, :-2] & pairs[:, 2:]
    ranked = grams.masked_fill(~whole, NOTHING).sort(1).values
    changes = (ranked[:, 1:] != ranked[:, :-1]).sum(1).tolist()
    counts = whole.sum(1).tolist()
    # What is not wanted is one value more, at the front of the row.
    width = grams.shape[1]
    return [
        1 - (1 + change - int(count < width)) / count if count else None
        for change, count in zip(changes, counts, strict=True)
    ]

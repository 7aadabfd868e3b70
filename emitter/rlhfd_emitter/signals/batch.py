"""One step's experiences as the groups of signals read them: masked tokens in one row, samples in lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from rlhfd_emitter.signals.statistics import Tensor, joined

MAX_POSITIONS = 4_000_000  # of the padded batch; beyond, the signals of tokens look at every n-th sequence


def setting(args: Any, *names: str) -> Any:
    """The first of OpenRLHF's arguments ``names`` that is set: dotted today, flat before 0.10.2."""
    for name in names:
        value = args
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is not None:
            return value
    return None


class Batch:
    """The experiences of one step, on the CPU, and what their maker knows.

    ``experiences`` are OpenRLHF's, each of B sequences, with tensors (B, A) over the same A positions, of which
    ``action_mask`` marks the response's. ``bases`` leads from the id of an experience's ``action_log_probs`` to the
    reference model's of the same shape. All tokens of all used sequences, one behind the other, are a *row*.

    :raises ValueError: a field's shape is not that of the mask.
    """

    def __init__(self, experiences: Sequence[Any], maker: Any, bases: Mapping[int, Tensor]) -> None:
        self.args = getattr(maker, "args", None) or getattr(getattr(maker, "strategy", None), "args", None)
        self.estimator = getattr(maker, "advantage_estimator", None)
        self.kl_coefficient = getattr(getattr(maker, "kl_ctl", None), "value", None)
        self.experiences = experiences
        self.masks = [matrix(experience.action_mask).bool() for experience in experiences]
        sizes = [len(mask) for mask in self.masks]
        counts = [int(count) for mask in self.masks for count in mask.sum(-1).tolist()]
        self.counts = counts  # of response tokens, by sample
        positions = sum(mask.numel() for mask in self.masks)
        self.stride = -(-positions // MAX_POSITIONS) or 1
        self.used = range(0, len(counts), self.stride)  # the samples whose tokens are looked at
        # Where the first used sequence of each experience is.
        self._firsts = [-before % self.stride for before in accumulate(sizes, initial=0)]
        self._bases = bases
        self._rows: dict[str, Tensor | None] = {}
        self._wanted: Tensor | None = None  # where the tokens of a row are among all positions of the used samples
        self.repeated: Sequence[float | None] | None = None  # by used sample, see repetition.repeated_shares
        self.digests: Sequence[int] | None = None  # by used sample, see repetition.digests
        self._beside: Mapping[str, list[float | None]] | None = None
        self._owners: Tensor | None = None  # of each token of a row, which used sample it is of

    def part(self, index: int, field: Tensor) -> Tensor:
        """The used sequences of ``field``, a (B, ...) tensor of experience ``index``."""
        whole = matrix(field.detach())
        return whole if self.stride == 1 else whole[self._firsts[index] :: self.stride]

    def row(self, name: str) -> Tensor | None:
        """The field ``name`` at the used samples' response tokens, one float64 tensor; ``None`` where it is absent.

        ``base_action_log_probs`` are also found where the experience has lost them.
        """
        if name not in self._rows:
            self._rows[name] = self._gather(name, [self._field(experience, name) for experience in self.experiences])
        return self._rows[name]

    def _field(self, experience: Any, name: str) -> Tensor | None:
        found = getattr(experience, name, None)
        if found is None and name == "base_action_log_probs":
            found = self._bases.get(id(getattr(experience, "action_log_probs", None)))
        return found

    def _gather(self, name: str, fields: Sequence[Tensor]) -> Tensor | None:
        if not fields or any(field is None for field in fields):
            return None
        for field, mask in zip(fields, self.masks, strict=True):
            if tuple(matrix(field).shape) != tuple(mask.shape):
                raise ValueError(f"{name} {tuple(matrix(field).shape)} is not like action_mask {tuple(mask.shape)}")
        if self._wanted is None:
            masks = joined([self.part(index, mask) for index, mask in enumerate(self.masks)])
            self._wanted = masks.argwhere().flatten()
        values = joined([self.part(index, field) for index, field in enumerate(fields)])
        return values.index_select(0, self._wanted).double()

    def advantages(self) -> Tensor | None:
        """The row of advantages before OpenRLHF whitens them. It keeps only the whitened ones; but with GAE the returns
        are advantages plus values, with every other estimator they are the advantages."""
        returns, values = self.row("returns"), self.row("values")
        if self.estimator != "gae":
            return returns
        return None if returns is None or values is None else returns - values

    def log_ratios(self) -> Tensor | None:
        """The row of log π - log π_ref, unclamped."""
        policy, reference = self.row("action_log_probs"), self.row("base_action_log_probs")
        return None if policy is None or reference is None else policy - reference

    def beside_rewards(self) -> Mapping[str, list[float | None]]:
        """Means over the tokens of each used sample, as far as they are known: ``advantage`` before whitening, ``kl``
        to the reference model; ``None`` for a sample without a token."""
        if self._beside is None:
            rows = {"advantage": self.advantages(), "kl": self.log_ratios()}
            self._beside = {name: self.means(row) for name, row in rows.items() if row is not None}
        return self._beside

    def means(self, row: Tensor) -> list[float | None]:
        """The mean of ``row`` over each used sample; ``None`` for one without a token."""
        counts = [self.counts[index] for index in self.used]
        if self._owners is None:
            places = row.new_tensor(list(range(len(counts)))).long()
            self._owners = places.repeat_interleave(row.new_tensor(counts).long())
        sums = row.new_tensor([0.0] * len(counts)).index_add(0, self._owners, row).tolist()
        return [total / count if count else None for total, count in zip(sums, counts, strict=True)]

    def prompts(self) -> list[int] | None:
        """Which prompt each sample answers; ``None`` with one sample a prompt.

        :raises ValueError: the experiences' index is not of these samples.
        """
        size = setting(self.args, "rollout.n_samples_per_prompt", "n_samples_per_prompt") or 1
        if size < 2:
            return None
        # Dynamic batches reorder samples; the index says where each was.
        places = [place for experience in self.experiences for place in getattr(experience, "index", None) or ()]
        if places and len(places) != len(self.counts):
            raise ValueError(f"{len(places)} indices of {len(self.counts)} samples")
        return [place // size for place in places or range(len(self.counts))]

    def samples(self, *names: str) -> list[float] | None:
        """One number a sample, from the first of the fields, or else of the keys of ``info``, that all experiences
        have; ``None`` if there is no such."""
        for source in (lambda experience: vars(experience), lambda experience: getattr(experience, "info", None) or {}):
            for name in names:
                found = [source(experience).get(name) for experience in self.experiences]
                if found and all(values is not None for values in found):
                    return self._listed(name, found)
        return None

    def _listed(self, name: str, found: Sequence[Tensor]) -> list[float]:
        values = [float(value) for tensor in found for value in tensor.detach().flatten().tolist()]
        if len(values) != len(self.counts):
            raise ValueError(f"{len(values)} values of {name} for {len(self.counts)} samples")
        return values


def matrix(tensor: Tensor) -> Tensor:
    """(B, ...) of a tensor that may be of one sequence alone."""
    return tensor.unsqueeze(0) if tensor.dim() == 1 else tensor

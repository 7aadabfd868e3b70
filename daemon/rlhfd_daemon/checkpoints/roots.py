"""Where a run writes its checkpoints, from its arguments, and what its processes say of saving, from their frames."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhfd_daemon import procfs
from rlhfd_daemon.checkpoints.completeness import Known
from rlhfd_daemon.checkpoints.layout import Description, Role
from rlhfd_daemon.frame import Frame
from rlhfd_daemon.run_folder import working_directory
from rlhfd_daemon.runs import DAEMON_ROLE, Run, Stream

__all__ = ["MAX_ROOTS", "Root", "Saves", "known_of", "roots_of"]

MAX_ROOTS = 64
MAX_SAVES = 4096
SAVING = ("checkpoint", "save_model")
"""The phases: ``DeepspeedStrategy.save_ckpt`` and ``save_model``."""

# Dotted since OpenRLHF 0.10.2, flat before.
_PATH = ("ckpt.path", "ckpt_path")
_OUTPUT = ("ckpt.output_dir", "save_path")
_STEPS = ("ckpt.save_steps", "save_steps")
_KEPT = ("ckpt.max_num", "max_ckpt_num")
_EXPORTS = ("ckpt.save_hf", "save_hf_ckpt")
_ZERO = ("ds.zero_stage", "zero_stage")
_CRITIC = ("critic.model_name_or_path", "critic_pretrain", "critic.num_nodes", "critic_num_nodes")
_WRITERS: Mapping[Role | None, frozenset[str]] = {
    "actor": frozenset({"PolicyModelActor", "ActorModelRayActor"}),
    "critic": frozenset({"CriticModelActor", "CriticModelRayActor"}),
    None: frozenset({"SFTTrainer", "RewardModelTrainer", "DPOTrainer", "KTOTrainer", "KDTrainer"}),
}


@dataclass(frozen=True, slots=True)
class Root:
    """A folder to look into. ``run`` and ``boot`` are empty for one that only the configuration names. ``save_steps``
    is ``None`` if nothing is saved before the end, ``kept`` how many checkpoints rotation leaves."""

    path: str
    run: str = ""
    boot: str = ""
    role: Role | None = None
    save_steps: int | None = None
    kept: int | None = None
    exports: bool | None = None


def roots_of(runs: Iterable[Run], configured: Iterable[str] = (), proc: Path = procfs.PROC) -> list[Root]:
    """Those of live runs, and those of the configuration; no path twice, at most ``MAX_ROOTS``.

    A relative path is left out as long as no process of its run tells its working directory.
    """
    found: dict[str, Root] = {}
    for path in configured:
        found.setdefault(os.path.normpath(path), Root(os.path.normpath(path)))
    for run in runs:
        if run.live:
            for root in _of_run(run, proc):
                known = found.get(root.path)
                if known is None or not known.run:  # a run knows more than the configuration
                    found[root.path] = root
    return list(found.values())[:MAX_ROOTS]


def _of_run(run: Run, proc: Path) -> list[Root]:
    args = run.context.get("args")
    if not isinstance(args, Mapping):
        return []
    output = _text(args, _OUTPUT)
    ppo = any(name in args for name in _CRITIC)
    role: Role | None = "actor" if ppo else None
    given: list[tuple[str | None, Role | None]] = [(_text(args, _PATH), None), (output, role)]
    given += [(f"{output}_critic", "critic")] if output and ppo else []
    folder = None if all(path is None or path.startswith("/") for path, _ in given) else working_directory(run, proc)
    roots = []
    for path, of_role in given:
        absolute = path if path is None or path.startswith("/") else folder and os.path.join(folder, path)
        if absolute:
            settings = _number(args, _STEPS), _number(args, _KEPT), _flag(args, _EXPORTS)
            roots.append(Root(os.path.normpath(absolute), run.run, run.boot, of_role, *settings))
    return roots


@dataclass(slots=True)
class _Save:
    """Of the processes of one role in one phase: which are in it, since when, when the last one left it, and how."""

    under_way: dict[tuple[str, object], float]
    ended: float | None = None
    error: str | None = None


class Saves:
    """When each run saved last. Fed with every frame; what it keeps is bounded."""

    def __init__(self) -> None:
        self._saves: dict[tuple[str, str, str, str], _Save] = {}

    def observe(self, frame: Frame, now: float) -> None:
        """``now`` in Unix seconds."""
        phase = frame.fields.get("phase")
        if frame.event in ("process_stop", "process_start"):
            self.ended(frame.stream)
        if frame.event not in ("phase_begin", "phase_end") or phase not in SAVING:
            return
        key = frame.run, frame.boot, frame.role, str(phase)
        if key not in self._saves and len(self._saves) >= MAX_SAVES:
            del self._saves[next(iter(self._saves))]
        save = self._saves.setdefault(key, _Save({}))
        one = frame.stream, frame.fields.get("id")
        if frame.event == "phase_begin":
            if not save.under_way:
                save.error = None
            if len(save.under_way) < MAX_SAVES:
                save.under_way[one] = now
        else:
            save.under_way.pop(one, None)
            save.ended = now
            error = frame.fields.get("error")
            save.error = str(error)[:200] if error else save.error

    def ended(self, stream: str) -> None:
        """The process of ``stream`` is gone: it saves no more, and did not end what it had begun."""
        for save in self._saves.values():
            for one in [one for one in save.under_way if one[0] == stream]:
                del save.under_way[one]
                save.error = "the process ended while it saved"

    def last(self, run: Run, role: str, phase: str) -> tuple[float | None, float | None, str | None]:
        """Since when it is under way, when it was last over, with which error."""
        save = self._saves.get((run.run, run.boot, role, phase))
        if save is None:
            return None, None, None
        return min(save.under_way.values(), default=None), save.ended, save.error


def known_of(run: Run | None, found: Description, saves: Saves, host: str | None = None) -> Known:
    """What the processes of ``run`` that write ``found`` have said. ``host`` is this node's name."""
    if run is None:
        return Known()
    host = host or socket.gethostname()
    writers = [one for one in run.streams.values() if one.role in _writers(run, found.role)]
    phase = "checkpoint" if found.kind == "deepspeed" else "save_model"
    roles = {one.role for one in writers}
    times = [saves.last(run, role, phase) for role in sorted(roles)]
    sizes = {size for one in writers if isinstance(size := one.start.get("world_size"), int) and size > 0}
    args = run.context.get("args")
    return Known(
        saving_since=min((since for since, _, _ in times if since is not None), default=None),
        saved_at=max((ended for _, ended, _ in times if ended is not None), default=None),
        failed=next((error for _, _, error in times if error), None),
        world_size=sizes.pop() if len(sizes) == 1 else None,
        local_ranks=frozenset(one.rank for one in writers if one.rank is not None and _here(one, host)) or None,
        alive=any(one.ended is None for one in writers) if writers else None,
        zero_stage=_number(args, _ZERO) if isinstance(args, Mapping) else None,
    )


def _writers(run: Run, role: Role | None) -> frozenset[str]:
    roles = {one.role for one in run.streams.values()} - {DAEMON_ROLE}
    return _WRITERS[role] if role is not None and roles & _WRITERS[role] else _WRITERS[None] | _WRITERS["actor"]


def _here(stream: Stream, host: str) -> bool:
    return stream.start.get("host") in (None, host)


def _first(args: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((args[name] for name in names if args.get(name) is not None), None)


def _text(args: Mapping[str, object], names: tuple[str, ...]) -> str | None:
    value = _first(args, names)
    return value if isinstance(value, str) and value else None


def _number(args: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    """A whole number of at least 0; -1 and infinity stand for never."""
    value = _first(args, names)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 31
    return int(value) if is_number else None  # type: ignore[call-overload]


def _flag(args: Mapping[str, object], names: tuple[str, ...]) -> bool | None:
    value = _first(args, names)
    return value if isinstance(value, bool) else None

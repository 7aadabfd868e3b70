"""A made-up ``/proc`` with the processes that a test wants."""

from __future__ import annotations

from pathlib import Path


def stat_line(
    pid: int, parent: int = 1, name: str = "python", state: str = "S", *, cpu_ticks: int = 0, threads: int = 1,
    start_ticks: int = 100, rss_pages: int = 0,
) -> str:  # fmt: skip
    """A line of ``/proc/<pid>/stat`` with all its 52 fields."""
    before_cpu = [parent, *[0] * 9]
    times = [cpu_ticks, 0, 0, 0, 20, 0, threads, 0, start_ticks, 0, rss_pages]
    return f"{pid} ({name}) {state} {' '.join(map(str, [*before_cpu, *times, *[0] * 28]))}\n"


def add_process(
    proc: Path, pid: int, parent: int = 1, *, children: tuple[int, ...] | None = None, **stat: object
) -> Path:
    """Make or change a process; ``children`` also makes the list that some kernels have."""
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(stat_line(pid, parent, **stat))  # type: ignore[arg-type]
    if children is not None:
        task = folder / "task" / str(pid)
        task.mkdir(parents=True, exist_ok=True)
        (task / "children").write_text(" ".join(map(str, children)))
    return folder

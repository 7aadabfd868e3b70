"""What the pollers of the host see: the node, its disks, and the processes of each run."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, Unit, observed

__all__ = ["CHECKPOINTS", "DISKS", "HOST", "PROCESSES", "REWARD_PROBE"]

NODE, RUN = "node", "each process of a run"
PSI = "Weiner 2018, Pressure Stall Information (Linux kernel documentation, accounting/psi)"


def _host(name: str, unit: Unit, meaning: str, *, source: str = "", healthy: str = "") -> Metric:
    return observed(f"host/{name}", unit, NODE, meaning, source=source, healthy=healthy)


def _process(name: str, unit: Unit, meaning: str) -> Metric:
    return observed(f"process/<role>/{name}", unit, RUN, meaning)


HOST: tuple[Metric, ...] = (
    _host("cpu_ratio", "ratio", "Busy share of all CPUs' time; stolen time counts as busy."),
    _host("cpu_iowait_ratio", "ratio", "Share of all CPUs' time that was idle while a disk was waited for."),
    _host("load_1m", "1", "Processes that run or wait for a CPU or a disk, mean of the last minute."),
    _host("processes_blocked", "count", "Processes waiting in the kernel (state D) at the moment."),
    _host("memory_total_bytes", "bytes", "Memory of the node."),
    _host("memory_available_bytes", "bytes", "Memory that new processes can have without swapping."),
    _host("swap_used_bytes", "bytes", "Swap space in use."),
    _host(
        "memory_pressure_some_ratio", "ratio", "Share of the last 10 s in which some task waited for memory.",
        source=PSI, healthy="0",
    ),
    _host(
        "memory_pressure_full_ratio", "ratio", "Share of the last 10 s in which every task waited for memory.",
        source=PSI, healthy="0",
    ),
    _host(
        "cpu_pressure_some_ratio", "ratio", "Share of the last 10 s in which some task waited for a CPU.",
        source=PSI,
    ),
    _host(
        "io_pressure_some_ratio", "ratio", "Share of the last 10 s in which some task waited for a disk.",
        source=PSI,
    ),
    _host(
        "io_pressure_full_ratio", "ratio", "Share of the last 10 s in which every task waited for a disk.",
        source=PSI,
    ),
    _host("oom_kills_total", "count", "Processes the kernel killed for want of memory since boot, in all containers."),
    _host(
        "cgroup_memory_bytes", "bytes",
        "Memory of the daemon's tightest control group (its container or job, not its service), without page cache "
        "that can be dropped. Absent without a limit.",
    ),
    _host("cgroup_memory_limit_bytes", "bytes", "The limit of that control group."),
    _host("cgroup_oom_kills_total", "count", "Processes killed at that limit since the group was made."),
    _host("disk_read_bytes_per_second", "bytes_per_second", "Read from all physical disks."),
    _host("disk_write_bytes_per_second", "bytes_per_second", "Written to all physical disks."),
    _host(
        "network_receive_bytes_per_second", "bytes_per_second",
        "Received by all physical interfaces; where there are none, as in a container, by all but lo.",
    ),
    _host("network_transmit_bytes_per_second", "bytes_per_second", "Sent by the same interfaces."),
    _host("infiniband_receive_bytes_per_second", "bytes_per_second", "Received by all InfiniBand and RoCE ports."),
    _host("infiniband_transmit_bytes_per_second", "bytes_per_second", "Sent by all InfiniBand and RoCE ports."),
    _host("infiniband_ports_active", "count", "Ports whose link is up."),
    _host("infiniband_link_downed_total", "count", "How often a link has gone down, over all ports."),
    _host("infiniband_receive_errors_total", "count", "Packets received with an error, over all ports."),
    _host("open_files", "count", "Open files of the whole node."),
    _host("open_files_limit", "count", "Their limit. Absent if there is none."),
    _host("shm_used_bytes", "bytes", "Used of /dev/shm, where Ray's object store and NCCL's buffers are."),
    _host("shm_total_bytes", "bytes", "Size of /dev/shm."),
)  # fmt: skip

DISKS: tuple[Metric, ...] = (
    observed(
        "disk/<device>/free_bytes", "bytes", NODE,
        "Free for users without privileges, on a file system that the daemon or a run writes to. The device is its "
        "mount point, such as root or data_ckpt; where quotas differ, the folder with the least space counts.",
    ),
    observed("disk/<device>/total_bytes", "bytes", NODE, "Size of that file system."),
    observed(
        "disk/<device>/inodes_free_ratio", "ratio", NODE,
        "Share of its inodes that are free: how many more files there can be. Absent where there is no fixed number.",
    ),
)  # fmt: skip

REWARD_PROBE: tuple[Metric, ...] = (
    *(
        observed(
            f"reward_probe/latency_{name}_seconds", "seconds", NODE,
            f"{text} time of the calls of one round of the reward probe that were answered.",
        )
        for name, text in (("p50", "Median"), ("p95", "95th percentile of the"), ("p99", "99th percentile of the"))
    ),
    observed("reward_probe/failed_ratio", "ratio", NODE, "Share of its calls that failed.", healthy="0."),
    observed("reward_probe/changed_count", "count", NODE, "Known answers that are scored otherwise.", healthy="0."),
)  # fmt: skip

CHECKPOINTS: tuple[Metric, ...] = (
    observed(
        "checkpoint/<role>/health", "ratio", "run",
        "Health of a checkpoint, from its bytes; 1 is healthy, docs/checkpoints.md has the formula. The role is actor, "
        "critic, or model where there is one model.", healthy="Above 0.95.",
    ),
    observed("checkpoint/<role>/size_bytes", "bytes", "run", "Bytes of its files."),
)  # fmt: skip

PROCESSES: tuple[Metric, ...] = (
    _process("rss_bytes", "bytes", "Resident memory; shared pages, as of Ray's object store, count in every process."),
    _process(
        "children_rss_bytes", "bytes",
        "Resident memory of its descendants that are no processes of a run themselves: vLLM's engine core below "
        "RolloutRayActor.",
    ),
    _process("cpu_ratio", "1", "CPU time per time; 1 is one core."),
    _process("threads", "count", "Threads."),
    _process("open_files", "count", "Open files. Absent if it is another user's process."),
    _process("open_files_ratio", "ratio", "Open files as a share of the process's soft limit."),
    _process("oom_score", "1", "0 to 2000: the kernel kills the process with the highest first."),
    observed(
        "cgroup/memory_bytes", "bytes", "run",
        "Memory of the control group of the run's processes that is nearest to its limit, without page cache that can "
        "be dropped. Absent without a limit.",
    ),
    observed("cgroup/memory_limit_bytes", "bytes", "run", "The limit of that control group."),
    observed("cgroup/oom_kills_total", "count", "run", "Processes killed at that limit since the group was made."),
)  # fmt: skip

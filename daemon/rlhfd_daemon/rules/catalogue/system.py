"""GPUs, memory, disks, Ray and the network of the node."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import CRITICAL, INFO, OURS, WARNING, above, below, zeros

__all__ = ["ROWS"]

MIB, GIB = float(1 << 20), float(1 << 30)
ERRORS = "NVIDIA, GPU Memory Error Management"
HEAT = "Look at fans, inlet temperature and dust, and at the neighbours in the rack; the step gets slower on all ranks."
DRAIN = "Save a checkpoint, drain the node and have the GPU looked at; resume elsewhere with --ckpt.load_enable."
FREE = (
    "Delete old checkpoints (--ckpt.max_num, --ckpt.max_mem; folders ending in _hf are never rotated) or write "
    "elsewhere (--ckpt.path, --ckpt.output_dir)."
)
HOST_MEMORY = (
    "See process/<role>/rss_bytes for who holds it: fewer engines per node (--vllm.num_engines), no "
    "--vllm.enable_sleep, no --ds.adam_offload, or more memory."
)
LOST = ("actor_death", "stalled_phase", "heartbeat_lost")

GPUS = (
    row(
        "memory_exhaustion", "Memory will run out", "system", WARNING,
        analyzer="forecast",
        metrics=("gpu/<n>/memory_used_bytes", "gpu/<n>/memory_total_bytes", "host/memory_available_bytes",
                 "host/memory_total_bytes", "host/shm_used_bytes", "host/cgroup_memory_bytes", "cgroup/memory_bytes"),
        explains=("oom_kill", *LOST),
        summary="at its pace {metric} is used up soon",
        remedy="On a GPU: --vllm.gpu_memory_utilization, --train.micro_batch_size, --train.max_tokens_per_gpu, "
        "--ds.zero_stage 3. On the host: " + HOST_MEMORY,
        source="OpenRLHF/OpenRLHF#1086, OpenRLHF/OpenRLHF#1065",
    ),
    row(
        "gpu_memory_low", "A GPU has hardly any free memory", "system", INFO,
        (below("gpu/<n>/memory_free_bytes", 256 * MIB),), hold=(24, 24), after=24,
        explains=("actor_death", "stalled_phase"),
        summary="{value} bytes of the GPU's memory are free",
        remedy="One larger batch ends the run: lower --vllm.gpu_memory_utilization, --train.micro_batch_size or "
        "--train.max_tokens_per_gpu.",
        source=f"OpenRLHF/OpenRLHF#519, OpenRLHF/OpenRLHF#742; {OURS}",
    ),
    row(
        "gpu_foreign_memory", "Others use a GPU of the run", "system", INFO,
        (above("gpu/<n>/other_processes_bytes", 4 * GIB),
         above("gpu/<n>/memory_used_bytes", 8 * GIB)),
        hold=(12, 12), after=12,
        explains=("memory_exhaustion", "step_slow", "gpu_memory_low"),
        summary="processes of no observed run hold {value} bytes of the GPU",
        remedy="Look at nvidia-smi: left-over processes of an earlier run, or another user.", source=OURS,
        false_positives="A run without rlhfd on the same GPU.",
    ),
    row(
        "gpu_slowed_by_heat", "The hardware slows a GPU down because of heat", "system", WARNING,
        (above("gpu/<n>/throttle/hw_thermal", 0.5),), hold=(6, 10),
        explains=("step_slow",), summary="the GPU is slowed down by its hardware because of heat",
        remedy=HEAT, source="NVIDIA, NVML documentation: clocks event reasons",
    ),
    row(
        "gpu_slowed_by_driver", "The driver slows a GPU down because of heat", "system", INFO,
        (above("gpu/<n>/throttle/sw_thermal", 0.5),), hold=(20, 24),
        explains=("step_slow", "gpu_slowed_by_heat"), summary="the GPU is slowed down by its driver because of heat",
        remedy=HEAT, source="NVIDIA, NVML documentation: clocks event reasons",
    ),
    row(
        "gpu_power_brake", "The power supply slows a GPU down", "system", WARNING,
        (above("gpu/<n>/throttle/power_brake", 0.5),), hold=(6, 10),
        explains=("step_slow",), summary="the power supply asks the GPU for less (power brake)",
        remedy="A power supply has failed or the rack is at its limit: tell those who run the machine.",
        source="NVIDIA, NVML documentation: clocks event reasons",
    ),
    row(
        "gpu_hot", "A GPU is hot", "system", INFO,
        (above("gpu/<n>/temperature_celsius", 88.0),), hold=(12, 12),
        explains=("gpu_slowed_by_heat", "gpu_slowed_by_driver"), summary="the GPU has {value} °C",
        remedy=HEAT, source=OURS,
    ),
    row(
        "gpu_memory_errors", "A GPU's memory has uncorrectable errors", "system", CRITICAL,
        (above("gpu/<n>/ecc_volatile_uncorrected_total", 0.0, "slope", 6),),
        explains=("gpu_xid", "gpu_lost", "non_finite", *LOST),
        summary="uncorrectable memory errors of the GPU are being counted",
        remedy=DRAIN, source=ERRORS,
    ),
    row(
        "gpu_row_remap_failed", "A GPU's memory cannot be repaired", "system", CRITICAL,
        (above("gpu/<n>/remapped_rows_failure", 0.5),),
        explains=("gpu_xid", "gpu_lost"), summary="a row of the GPU's memory could not be remapped",
        remedy=DRAIN, source=ERRORS,
    ),
    row(
        "gpu_row_remap_pending", "A GPU waits for a reset to repair its memory", "system", INFO,
        (above("gpu/<n>/remapped_rows_pending", 0.5),), hold=(3, 3),
        explains=("gpu_xid",), summary="a row of the GPU's memory will be remapped with the next reset",
        remedy="Reset the GPU when the run is over (rlhfd gpu release lets go of it).", source=ERRORS,
    ),
    row(
        "gpu_idle", "A GPU holds memory and does nothing", "system", INFO,
        (*zeros("gpu/<n>/utilization_ratio", 180), above("gpu/<n>/memory_used_bytes", 2 * GIB, "min", 180)),
        after=180,
        explains=("stalled_phase",), summary="no kernel has run on the GPU for a quarter of an hour",
        remedy="If the run stands still, see rlhfd topology for the phase that is open. Else the GPU is not needed for "
        "most of the step: --train.colocate_all shares GPUs.",
        source=f"modelscope/ms-swift#6962; {OURS}",
        false_positives="Models that wait for a long generation.",
    ),
)  # fmt: skip

NODE = (
    row(
        "memory_pressure", "All processes wait for memory", "system", WARNING,
        (above("host/memory_pressure_full_ratio", 0.2),), hold=(6, 10), critical=0.8,
        explains=("oom_kill", "step_slow", *LOST),
        summary="for {value} of the last 10 s every process waited for memory",
        remedy=HOST_MEMORY, source="Linux kernel documentation, accounting/psi; the limit is our choice",
    ),
    row(
        "disk_full", "A disk will be full", "system", WARNING,
        analyzer="forecast", metrics=("disk/<device>/free_bytes",),
        explains=("no_checkpoint", "disk_nearly_full", "actor_death"),
        summary="at its pace {metric} is used up soon", remedy=FREE, source="OpenRLHF/OpenRLHF#1265",
    ),
    row(
        "disk_nearly_full", "A disk is nearly full", "system", WARNING,
        (below("disk/<device>/free_bytes", GIB),), hold=(3, 3), critical=64 * MIB,
        explains=("no_checkpoint", "actor_death"),
        summary="{value} bytes are free on a disk that the run or rlhfd writes to",
        remedy=FREE, source=f"OpenRLHF/OpenRLHF#1265; {OURS}",
        false_positives="A small disk on which only little is written.",
    ),
    row(
        "inodes_low", "A disk has room for few more files", "system", WARNING,
        (below("disk/<device>/inodes_free_ratio", 0.01),), hold=(3, 3), critical=0.001,
        explains=("no_checkpoint", "actor_death"),
        summary="{value} of the file system's inodes are free", remedy=FREE, source=OURS,
    ),
    row(
        "disk_pressure", "All processes wait for a disk", "system", INFO,
        (above("host/io_pressure_full_ratio", 0.8),), hold=(20, 24),
        explains=("step_slow", "stalled_phase"),
        summary="for {value} of the last 10 s every process waited for a disk",
        remedy="See which process is in state D, and where it writes (--ckpt.path). Swapping reads so, too.",
        source="Linux kernel documentation, accounting/psi; the limit is our choice",
        false_positives="The minutes of a checkpoint.",
    ),
    row(
        "open_files_high", "A process is about to run out of files", "system", WARNING,
        (above("process/<role>/open_files_ratio", 0.9),), hold=(3, 5),
        explains=("actor_death", "reward_calls_fail"),
        summary="{value} of the files that a process may open are open",
        remedy="Raise the limit (ulimit -n) before Ray is started; a number that only grows is a leak, often in the "
        "reward function.",
        source=OURS,
    ),
    row(
        "object_store_spills", "Ray moves objects to disk", "system", INFO,
        (above("ray/object_store_spilled_bytes", GIB),), hold=(6, 6),
        explains=("step_slow", "disk_nearly_full"),
        summary="Ray has moved {value} bytes of objects to disk",
        remedy="The object store is too small for the batch: start Ray with --object-store-memory, or lower "
        "--rollout.batch_size.",
        source="OpenRLHF/OpenRLHF#331; the limit is our choice",
    ),
    row(
        "link_down", "An InfiniBand link has gone down", "system", WARNING,
        (above("host/infiniband_link_downed_total", 0.0, "slope", 6),),
        explains=("stalled_phase", "step_slow", "weight_sync_slow", "actor_death"),
        summary="an InfiniBand link of the node has gone down",
        remedy="NCCL waits or fails: look at ibstat and the switch; resume with --ckpt.load_enable if the run ends.",
        source=OURS,
    ),
    row(
        "link_errors", "InfiniBand packets arrive damaged", "system", INFO,
        (above("host/infiniband_receive_errors_total", 0.0, "slope", 60),), hold=(30, 60),
        explains=("link_down", "weight_sync_slow"),
        summary="packets with errors keep arriving over InfiniBand",
        remedy="A cable or a transceiver is failing: look at ibqueryerrors.", source=OURS,
    ),
)  # fmt: skip

ROWS = (*GPUS, *NODE)

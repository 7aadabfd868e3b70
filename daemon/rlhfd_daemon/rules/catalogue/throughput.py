"""Speed: steps, generation, engines, weight updates, and what rlhfd itself takes."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import (
    CRITICAL,
    INFO,
    MEASURED,
    OURS,
    WARNING,
    above,
    every_above,
    now_below,
    now_times,
    zeros,
)

__all__ = ["ROWS"]

STEP, REST = "train/timing/step_total", "rlhfd/ratio_of/generation_rest"
WHERE = (
    "Compare train/timing/* and phase/*/seconds to see which phase it is, and gpu/*/throttle/*, host/cpu_ratio, "
    "host/memory_pressure_some_ratio and the other jobs of the node for the cause."
)
ENGINES = (
    "Look at rlhfd/engine/<n>/requests_waiting and preemptions, at the reward calls (rlhfd/reward_call/*), which are "
    "part of generation, and at the answers' length; more engines (--vllm.num_engines) or more memory for them "
    "(--vllm.gpu_memory_utilization) help if they are the limit."
)
VLLM = "vLLM documentation, Production Metrics; the numbers are our choice"

ROWS = (
    row(
        "step_slow", "Steps take far longer", "throughput", WARNING,
        (now_times(STEP, 3.0), every_above(STEP, 1.5, 4)), hold=(3, 4), after=30,
        summary="a step takes {value} times as long as in the 50 steps before",
        remedy=WHERE, source=f"{MEASURED}: 99th percentile at most 2.7 medians in 16 of 18 runs",
        false_positives="Longer answers (see length_doubled); a machine that is shared.",
    ),
    row(
        "generation_share_high", "Generation takes far more of the step", "throughput", WARNING,
        (now_times(REST, 3.0),), hold=(4, 6), after=30,
        explains=("step_slow", "level_change", "trend_change"),
        summary="generation against all other phases takes {value} times as much as in the 50 steps before",
        remedy=ENGINES, source=OURS, false_positives="Longer answers.",
    ),
    row(
        "generation_slow", "Generation has become slow", "throughput", WARNING,
        (now_below("rlhfd/generation/tokens_per_second", 0.4),), hold=(6, 8), after=30,
        explains=("step_slow", "generation_share_high", "level_change"),
        summary="generation gives {value} times the tokens per second of the 50 steps before",
        remedy=ENGINES, source="marin-community/marin#2830; the numbers are our choice",
        false_positives="Answers that have become very short; few long answers that all wait for.",
    ),
    row(
        "engine_idle", "An engine gives no tokens although it has requests", "stall", CRITICAL,
        (*zeros("rlhfd/engine/<n>/generated_tokens_per_second", 24),
         above("rlhfd/engine/requests_under_way", 0.0, "min", 24)),
        after=24,
        explains=("stalled_phase", "step_slow", "generation_slow"),
        summary="a vLLM engine has given no token for two minutes although requests are under way",
        remedy="The engine hangs: look at its log and at py-spy dump of the EngineCore process; then restart and "
        "resume with --ckpt.load_enable.",
        source="OpenRLHF/OpenRLHF#211, OpenRLHF/OpenRLHF#331; 24 readings of 5 s are our choice",
        false_positives="Very long prompts that are still being read.",
    ),
    row(
        "engine_memory_full", "An engine computes requests again for want of memory", "throughput", INFO,
        (above("rlhfd/engine/<n>/preemptions", 0.0), above("rlhfd/engine/<n>/kv_cache_ratio", 0.9)), hold=(8, 10),
        after=10,
        explains=("generation_slow", "step_slow"),
        summary="{value} requests were put back since the last reading because the KV cache is full",
        remedy="Give vLLM more memory (--vllm.gpu_memory_utilization), more engines (--vllm.num_engines) or more GPUs "
        "an engine (--vllm.tensor_parallel_size); or shorter answers (--rollout.max_new_tokens).",
        source=f"Kwon et al. 2023 (PagedAttention), arXiv:2309.06180; {VLLM}",
    ),
    row(
        "first_token_slow", "Requests wait for their first token", "throughput", INFO,
        (above("rlhfd/engine/<n>/queue/p99_seconds", 30.0),
         above("rlhfd/engine/<n>/queue/p99_seconds", 5.0, "median", 5, "baseline")),
        hold=(3, 5), after=30,
        explains=("generation_slow", "step_slow"),
        summary="requests wait {value} s to be scheduled, five times as long as before",
        remedy="Too many requests for the engines: --vllm.num_engines, or fewer at once "
        "(--rollout.vllm_generate_batch_size).",
        source=VLLM,
    ),
    row(
        "weight_sync_slow", "Updates of the engines' weights have become slow", "throughput", WARNING,
        (above("rlhfd/engine/weight_sync/seconds", 10.0),
         above("rlhfd/engine/weight_sync/seconds", 4.0, "median", 3, "baseline")),
        hold=(3, 5), after=25,
        explains=("step_slow", "stalled_phase", "level_change"),
        summary="an update of the engines' weights takes {value} s, four times as long as before",
        remedy="Look at the network between policy and engines (host/infiniband_*, NCCL_DEBUG=INFO) and at "
        "--vllm.sync_backend; --vllm.sync_with_ray is slower.",
        source=f"OpenRLHF/OpenRLHF#411; {OURS}",
    ),
    row(
        "broadcast_slow", "The broadcast of weights has become slow", "throughput", WARNING,
        (above("train/timing/broadcast", 30.0), above("train/timing/broadcast", 5.0, "median", 5, "baseline")),
        hold=(3, 5), after=30,
        explains=("step_slow", "stalled_phase", "level_change"),
        summary="train/timing/broadcast is {value} s, five times what it was in the 50 steps before",
        remedy="Look at the network between policy and engines (host/infiniband_*, NCCL_DEBUG=INFO) and at "
        "--vllm.sync_backend.",
        source=f"OpenRLHF/OpenRLHF#411; {OURS}",
    ),
    row(
        "rlhfd_costs", "rlhfd itself takes time from the training", "throughput", INFO,
        (above("rlhfd/overhead/hooks_ratio", 0.02),), hold=(3, 5),
        summary="rlhfd's own code takes {value} of the time of a process of the training",
        remedy="Report it with OpenRLHF's version; rlhfd mute RUN makes the emitters of a run fall silent.",
        source=OURS,
        false_positives="Steps of well under a second.",
    ),
)  # fmt: skip

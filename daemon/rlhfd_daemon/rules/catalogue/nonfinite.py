"""NaN and infinity, and what comes before them."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import CLIPPED, CRITICAL, WARNING, above, zeros

__all__ = ["ROWS"]

MASKS = "OpenRLHF/OpenRLHF#1240, OpenRLHF/OpenRLHF#1120"
OVERFLOW = "Micikevicius et al. 2018, arXiv:1710.03740; the numbers are our choice"

ROWS = (
    row(
        "non_finite", "A metric is NaN or infinite", "nonfinite", CRITICAL,
        analyzer="non_finite", metrics=("*",),
        explains=("clip_hides_nan", "missing_key", "reward_constant", "entropy_vanished", "gradient_zero"),
        summary="{metric} became {value}",
        remedy="Stop the run: optimizer steps on NaN gradients are skipped or spoil the weights. Look at the reward "
        "function's or reward model's output for this step, then resume from the last checkpoint written before it "
        "(--ckpt.load_enable). If the reward was finite, lower --actor.adam.lr or use --ds.param_dtype bf16.",
        source="OpenRLHF/OpenRLHF#1120, OpenRLHF/OpenRLHF#528, verl-project/verl#747, AgentR1/Agent-R1#30",
        false_positives="A metric of your own that is NaN where it does not apply: leave it out instead.",
    ),
    row(
        "log_probabilities_nonfinite", "Log-probabilities that are no finite numbers", "nonfinite", CRITICAL,
        (above("rlhfd/ratio/nonfinite_ratio", 0.0),),
        explains=("non_finite", "clip_hides_nan", "gradient_zero"),
        summary="the log-probabilities of {value} of the response tokens are no finite numbers",
        remedy="Stop and resume from the last checkpoint before this step (--ckpt.load_enable). The logits have "
        "overflowed: use --ds.param_dtype bf16, another --ds.attn_implementation, or lower --actor.adam.lr. If only "
        "padding is concerned, OpenRLHF before 0.11.0 lets masked NaN into the loss: update.",
        source=MASKS,
    ),
    row(
        "clip_hides_nan", "The clip fraction is 0 because the ratios are NaN", "nonfinite", CRITICAL,
        (above("rlhfd/ratio/nonfinite_ratio", 0.0), zeros(CLIPPED, 1)[0]),
        summary="train/ppo_clip_ratio reads 0 although {value} of the log-probabilities are no finite numbers: a "
        "comparison with NaN is false",
        remedy="Do not trust the clip fraction; see non_finite: stop, and resume from the last good checkpoint "
        "(--ckpt.load_enable).",
        source="AgentR1/Agent-R1#30",
    ),
    row(
        "optimizer_steps_skipped", "Optimizer steps of the policy are skipped", "nonfinite", WARNING,
        (above("rlhfd/policy/skipped_steps", 0.0),), hold=(8, 10), after=20,
        explains=("kl_exactly_zero", "clip_never"),
        summary="DeepSpeed skips optimizer steps of the policy again and again: float16 gradients overflow",
        remedy="Use --ds.param_dtype bf16; with float16 lower --actor.adam.lr or --actor.max_norm.",
        source=OVERFLOW,
        false_positives="The first steps with float16, in which the loss scale is sought, do not count.",
    ),
    row(
        "critic_steps_skipped", "Optimizer steps of the critic are skipped", "nonfinite", WARNING,
        (above("rlhfd/critic/skipped_steps", 0.0),), hold=(8, 10), after=20, requires=("critic",),
        explains=("explained_variance_negative",),
        summary="DeepSpeed skips optimizer steps of the critic again and again: float16 gradients overflow",
        remedy="Use --ds.param_dtype bf16; with float16 lower --critic.adam.lr, or normalise the rewards "
        "(--reward.normalize_enable).",
        source=OVERFLOW,
    ),
    row(
        "reward_missing", "Samples without a reward", "nonfinite", CRITICAL,
        (above("rlhfd/reward/missing_ratio", 0.0),),
        explains=("non_finite", "reward_constant", "advantage_zero"),
        summary="{value} of the samples have NaN for a reward",
        remedy="The reward function or service gives no number for them: let it return a defined reward on errors "
        "(--reward.remote_url names it), and resume from the last checkpoint before (--ckpt.load_enable).",
        source="OpenRLHF/OpenRLHF#1120; openrlhf/utils/agent.py, which only logs errors",
    ),
)  # fmt: skip

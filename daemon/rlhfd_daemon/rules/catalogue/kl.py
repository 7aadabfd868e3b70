"""Distance from the reference model, and from the policy that made the samples."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import (
    INFO,
    KL,
    LENGTH,
    MEASURED,
    OURS,
    REWARD,
    STEP_KL,
    WARNING,
    above,
    below,
    fallen,
    zeros,
)
from rlhfd_daemon.rules.rule import Argument

__all__ = ["ROWS"]

INITIAL = ("algo.kl.init_coef", "init_kl_coef")
LEAVING = (
    "The policy is far from the reference: lower --actor.adam.lr or raise --algo.kl.init_coef, and resume from a "
    "checkpoint before it left (--ckpt.load_enable). Read samples: far from the reference the reward is often hacked."
)
STEPPING = (
    "One training step changes the policy too much: lower --actor.adam.lr or --train.max_epochs, or make "
    "--train.batch_size larger, so that fewer optimizer steps reuse a rollout."
)
SCORING = (
    "With estimator k1 a mean below 0 says that the policy gives its own samples less probability than the reference "
    "does: sampling and scoring differ. Look at --rollout.temperature, --rollout.top_p and the end-of-text token, and "
    "whether the weights reach the engines (rlhfd/mismatch/*)."
)

ROWS = (
    row(
        "kl_high", "The policy is far from the reference model", "kl", WARNING,
        (above(KL, 1.0),), hold=(3, 5), after=3, critical=3.0, requires=("reference_model",), excludes=("supervised",),
        explains=("reward_kl_length_up", "kl_sequence_high"),
        summary="train/kl is {value} nats per token, above {limit}",
        remedy=LEAVING, source=f"{MEASURED}: healthy runs stay below 0.6, a run that was lost had 2.4",
        false_positives="Estimators k2 and k3 weigh rare tokens heavily.",
    ),
    row(
        "kl_sequence_high", "The policy is far from the reference model, per sequence", "kl", INFO,
        (above(KL, 0.05), above(KL, 150.0, "mean", 5, by=LENGTH)), hold=(3, 5), after=5, strictly=("reward_model",),
        requires=("reference_model",),
        summary="KL to the reference is above 150 nats per sequence, at {value} per token",
        remedy=LEAVING,
        source="Gao et al. 2022, arXiv:2210.10760, for the quantity; the limit is our choice above the 59 nats of "
        "healthy public runs",
        false_positives="Long answers reach it with a small KL per token.",
    ),
    row(
        "kl_negative", "KL to the reference is below 0", "kl", WARNING,
        (below(KL, 0.0), below(KL, -0.02, "mean", 10)), hold=(3, 5), after=10, critical=-0.5,
        requires=("reference_model",),
        summary="train/kl is {value} nats per token, below -0.02 in the mean of 10 steps, and a KL cannot be negative",
        remedy=SCORING, source="huggingface/trl#352, huggingface/trl#516, huggingface/trl#4159; the limit is our "
        "choice",
        false_positives="Small batches scatter around 0 while the policy is still the reference.",
    ),
    row(
        "kl_up_reward_flat", "KL rises and the reward does not", "kl", WARNING,
        (above(KL, 0.05), above(KL, 3.0, "median", 5, "baseline"), fallen(REWARD, 0.2)), hold=(5, 6), after=60,
        requires=("reference_model",), excludes=("supervised",),
        summary="train/kl has risen to {value}, three times its level of the 50 steps before, while the reward has "
        "fallen from its best",
        remedy="The policy leaves the reference for nothing: lower --actor.adam.lr, raise --algo.kl.init_coef, and "
        "look at what changed at the onset (data, reward service, weight sync).",
        source="rllm-org/rllm#94, huggingface/open-r1#255; the numbers are our choice",
    ),
    row(
        "kl_exactly_zero", "KL to the reference is exactly 0", "kl", WARNING,
        (*zeros(KL, 20), above("train/actor_grad_norm", 0.0), above("train/actor_lr", 0.0)), after=20,
        strictly=("reference_model",),
        summary="train/kl has been exactly 0 for 20 steps although there is a reference model",
        remedy="The policy does not move, or both models are one: look at --actor.adam.lr and "
        "--ds.param_dtype, and whether optimizer steps are skipped (rlhfd/policy/skipped_steps).",
        source=f"openrlhf/trainer/ppo_utils/experience_maker.py; {OURS}",
        false_positives="--critic.freezing_steps: the actor's metrics are absent then, and this is not checked.",
    ),
    row(
        "policy_step_large", "A training step changes the policy too much", "kl", WARNING,
        (above(STEP_KL, 0.05, absolute=True),), hold=(3, 5), after=3, critical=0.3,
        explains=("clip_ratio_high", "kl_high"),
        summary="|train/ppo_kl| is {value} nats per token, above {limit}",
        remedy=STEPPING,
        source="Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization: below 0.02; "
        f"{MEASURED}: at most 0.006",
        false_positives="Asynchronous training with old samples.",
    ),
    row(
        "policy_step_large_k3", "A training step changes the policy too much, by estimator k3", "kl", INFO,
        (above("rlhfd/policy_kl/k3", 0.1),), hold=(3, 5), after=3,
        explains=("clip_ratio_high", "kl_high"),
        summary="rlhfd/policy_kl/k3 is {value} nats per token, above {limit}",
        remedy=STEPPING, source="Schulman 2020, Approximating KL Divergence; the limit is our choice",
    ),
    row(
        "kl_single_tokens", "Single tokens are far from the reference", "kl", INFO,
        (above("rlhfd/kl/max", 10.0),), hold=(8, 10), after=10, requires=("reference_model",),
        summary="log π - log π_ref of a token reaches {value}; OpenRLHF clamps at 10",
        remedy="Look at those tokens: end of text, or one that the reference never writes. Beyond the clamp "
        "--algo.kl.init_coef holds nothing back.",
        source="openrlhf/models/utils.py, which clamps to ±10",
    ),
    row(
        "kl_coefficient_high", "The KL controller has run away upwards", "kl", WARNING,
        (above("rlhfd/kl_coefficient", Argument(INITIAL, 10.0)),), hold=(3, 3),
        explains=("kl_exactly_zero",),
        summary="the KL coefficient is {value}, ten times what it began with",
        remedy="The adaptive controller does not hold KL at its target: leave out --algo.kl.target, so that "
        "--algo.kl.init_coef stays fixed.",
        source="openrlhf/trainer/ppo_trainer.py, which marks the adaptive controller incompatible; the factor is our "
        "choice",
    ),
    row(
        "kl_coefficient_low", "The KL controller has let go", "kl", INFO,
        (below("rlhfd/kl_coefficient", Argument(INITIAL, 0.1)),), hold=(3, 3),
        explains=("kl_high",),
        summary="the KL coefficient is {value}, a tenth of what it began with",
        remedy="KL stays below its target and the penalty has gone: leave out --algo.kl.target, or lower it.",
        source="openrlhf/trainer/ppo_trainer.py; the factor is our choice",
    ),
)  # fmt: skip

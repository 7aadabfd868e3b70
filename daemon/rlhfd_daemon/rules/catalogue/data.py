"""Prompts, samples and metrics that do not come as they used to."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, OURS, WARNING, below, now_below

__all__ = ["ROWS"]

FILTER = (
    "Most prompts are too easy or too hard for the policy: change their mix, or widen "
    "--algo.dynamic_filtering_range; generation takes as much longer as prompts are thrown away."
)
DAPO = "Yu et al. 2025 (DAPO), arXiv:2503.14476; the limit is our choice"

ROWS = (
    row(
        "missing_key", "A metric no longer comes", "data", WARNING,
        analyzer="absence", metrics=("train/*",),
        summary="{metric} has not come for some steps, while others of the same process keep coming",
        remedy="Look at the log of the process that computes it (docs/metrics.md says which): an exception that was "
        "caught, a data source that ran dry, or a resume with other options. OpenRLHF logs the entropy only with "
        "--actor.entropy_coef and the critic only with --algo.advantage.estimator gae.",
        source=OURS,
    ),
    row(
        "frozen_metric", "A metric no longer changes", "data", WARNING,
        analyzer="absence", metrics=("train/*",),
        summary="{metric} has had the same value, bit by bit, for many steps",
        remedy="A measurement that repeats itself bit by bit is none: compare with the run's own log. If the trainer "
        "logs it so, look for a reward service that answers the same to everything (--reward.remote_url), a data "
        "loader that returns one batch, or weights that no longer move (--actor.adam.lr).",
        source=OURS, false_positives="A count or a cap that is kept.",
    ),
    row(
        "filter_passes_little", "Dynamic filtering throws most prompts away", "data", WARNING,
        (below("rlhfd/dynamic_filtering/pass_ratio", 0.15),), hold=(8, 10), after=10, critical=0.02,
        explains=("step_slow", "generation_share_high"),
        summary="{value} of the prompts pass dynamic filtering", remedy=FILTER, source=DAPO,
    ),
    row(
        "filter_pass_rate_low", "OpenRLHF's pass rate of dynamic filtering is low", "data", WARNING,
        (below("train/dynamic_filtering_pass_rate", 0.15),), hold=(8, 10), after=10, critical=0.02,
        explains=("step_slow", "generation_share_high", "filter_passes_little"),
        summary="{value} of the prompts pass dynamic filtering", remedy=FILTER, source=DAPO,
        false_positives="Unknown where OpenRLHF's version is: the unit changed twice.",
    ),
    row(
        "samples_shrunk", "Steps have far fewer samples", "data", WARNING,
        (now_below("train/rollout/num_samples", 0.5),), hold=(5, 5), after=25, excludes=("async",),
        explains=("level_change", "spread_change"),
        summary="a step has {value} times the samples of the 50 steps before",
        remedy="Samples are lost between generation and training: failed reward calls, a filter, or prompts that ran "
        "out. Look at rlhfd/generation/samples and --rollout.batch_size.",
        source="OpenRLHF/OpenRLHF#1310; the numbers are our choice",
        false_positives="A resume with other sizes.",
    ),
    row(
        "prompts_without_samples", "A generation gave hardly any samples", "data", INFO,
        (below("rlhfd/generation/samples", 2.0),), hold=(3, 5), after=5,
        explains=("samples_shrunk",),
        summary="a generation gave {value} samples",
        remedy="All others were filtered or failed: look at --algo.dynamic_filtering_range and the reward calls.",
        source="OpenRLHF/OpenRLHF#1310; the numbers are our choice",
    ),
)  # fmt: skip

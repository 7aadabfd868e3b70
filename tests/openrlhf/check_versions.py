"""Looks for every hook in the released wheels of OpenRLHF, without installing them, and renders docs/versions.md.

By hand: ``PYTHONPATH=tests .venv/bin/python -m openrlhf.check_versions [--write]``; exit code 1 if the page differs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhfd_emitter import hooks, wrappers
from rlhfd_emitter.symbols import Parameters, Place, missing_parameters, parse, places
from rlhfd_emitter.wrappers import read_by

PAGE = Path(__file__).parents[2] / "docs" / "versions.md"
# The first and the last of each minor version, and those between which a hooked function moved.
VERSIONS = (
    "0.8.0", "0.8.3", "0.8.11", "0.9.0", "0.9.1", "0.9.8", "0.9.10", "0.10.1.post2", "0.10.2", "0.10.4", "0.11.0",
    "0.11.2",
)  # fmt: skip
# The wheels are pure Python, whatever their tag says.
PLATFORM = ("--implementation", "cp", "--python-version", "311", "--abi", "cp311", "--platform", "manylinux1_x86_64")
DOWNLOAD_SECONDS = 120.0

_TRAINER = "openrlhf.trainer"
_LAUNCHER, _PPO = f"{_TRAINER}.ray.launcher", f"{_TRAINER}.ppo_trainer"
_GENERATOR = f"{_TRAINER}.ppo_utils.samples_generator.SamplesGenerator"
_MAKER = f"{_TRAINER}.ppo_utils.experience_maker.RemoteExperienceMaker"
_AGENT = "openrlhf.utils.agent"
_STRATEGY = "openrlhf.utils.deepspeed.deepspeed.DeepspeedStrategy"
# today's symbol -> (who reports, what); a hook that is not named here is listed under its own name.
SEEN: dict[str, tuple[str, str]] = {
    f"{_PPO}.BasePPOTrainer.save_logs_and_checkpoints": ("PPO trainer", "step metrics"),
    f"{_PPO}.BasePPOTrainer.__init__": ("PPO trainer", "run metadata"),
    f"{_PPO}.BasePPOTrainer.ppo_train": ("PPO trainer", "phase ppo_train"),
    f"{_PPO}.BasePPOTrainer.broadcast_to_vllm": ("PPO trainer", "phase broadcast"),
    f"{_PPO}.compute_eval_metrics": ("PPO trainer", "evaluation metrics"),
    f"{_GENERATOR}.__init__": ("PPO trainer or generator", "process start"),
    f"{_GENERATOR}.generate_samples": ("PPO trainer or generator", "phase generation, signals of it"),
    f"{_GENERATOR}.generate_eval_samples": ("PPO trainer or generator", "phase of evaluation"),
    f"{_MAKER}.make_experience_batch": ("PPO trainer", "phase make_experience, signals of the experiences"),
    f"{_MAKER.rpartition('.')[0]}.compute_approx_kl": ("PPO trainer", "signals of the KL to the reference model"),
    f"{_PPO}.BasePPOTrainer.init_checkpoint_states": ("PPO trainer", "the step that a run goes on from"),
    f"{_LAUNCHER}.BaseDistributedActor.__init__": ("all model actors", "process start, role and rank"),
    f"{_LAUNCHER}.BaseModelActor.execute_batch": ("all model actors", "phases by method"),
    f"{_TRAINER}.ray.ppo_actor.ActorPPOTrainer.ppo_train": ("policy", "phase ppo_train, signals of it"),
    f"{_TRAINER}.ray.ppo_actor.ActorPPOTrainer.broadcast_to_vllm": ("policy", "phase broadcast"),
    f"{_AGENT}.SingleTurnAgentExecutor.__init__": ("vLLM engine", "phase reward, calls of a reward function"),
    f"{_AGENT}.SingleTurnAgentExecutor._fetch_rewards_via_http": ("vLLM engine", "the same of a remote reward model"),
    f"{_AGENT}.MultiTurnAgentExecutor.__init__": ("vLLM engine", "the same of an agent's steps"),
    f"{_TRAINER}.ray.ppo_critic.CriticPPOTrainer.ppo_train": ("critic", "phase ppo_train, signals of it"),
    "openrlhf.models.loss.PolicyLoss.forward": ("policy", "signals of the loss"),
    "openrlhf.models.loss.ValueLoss.forward": ("critic", "signals of the loss"),
    f"{_TRAINER}.ppo_utils.replay_buffer.NaiveReplayBuffer.collate_fn": ("policy, critic", "padding of micro-batches"),
    "openrlhf.models.actor.Actor.forward": ("SFT", "padding of micro-batches"),
    f"{_STRATEGY}.optimizer_step": ("policy, critic, SFT, RM, DPO", "gradient norms of policy and critic"),
    f"{_STRATEGY}.load_ckpt": ("policy, critic, SFT, RM, DPO", "the step that policy and critic go on from"),
    f"{_STRATEGY}.save_ckpt": ("policy, critic, SFT, RM, DPO", "phase checkpoint"),
    f"{_STRATEGY}.save_model": ("policy, critic, SFT, RM, DPO", "phase save_model"),
    **{
        f"{_TRAINER}.{module}.{trainer}.{method}": (role, what)
        for role, module, trainer in (
            ("SFT", "sft_trainer", "SFTTrainer"),
            ("RM", "rm_trainer", "RewardModelTrainer"),
            ("DPO", "dpo_trainer", "DPOTrainer"),
        )
        for method, what in (
            ("save_logs_and_checkpoints", "step metrics"),
            ("__init__", "run metadata"),
            ("evaluate", "phase eval"),
        )
    },
    **{
        f"{_TRAINER}.{module}.concatenated_forward": (role, "padding of micro-batches")
        for role, module in (("RM", "rm_trainer.RewardModelTrainer"), ("DPO", "dpo_trainer.DPOTrainer"))
    },
}
MARKS = {"found": "✓", "moved": "former", "changed": "changed", "absent": "–"}
HEAD = """# What is seen in which version of OpenRLHF

Made by `tests/openrlhf/check_versions.py` from the released wheels; do not edit. Real runs are tested with 0.11.2;
in the other versions each hooked function was looked up in the source. `rlhfd doctor` says the same for the
environment at hand, vLLM included.

- ✓: the function is at its place of today.
- former: at the place that it had then, which is hooked, too.
- –: this version has no such function, and this is not seen.
- changed: the function is there, but without a parameter that rlhfd reads; it is left alone.
"""
TAIL = """
Phases of the vLLM engines are seen from 0.9.1 on, and before that in asynchronous training only: the synchronous
trainer used `vllm.LLM`. In asynchronous training up to 0.9.0 the broadcast is seen in the policy, not in the trainer.
There the generator's phases and evaluations carry a step from 0.9.8 on, before that none. Reward calls are seen from
0.9.1 on: before that they were Ray tasks. Those of an executor of the user's own that is neither single-turn nor
multi-turn cannot be told from the rest of it.
"""


class VersionError(Exception):
    """A wheel could not be had; says why."""


@dataclass(frozen=True)
class Version:
    """One released OpenRLHF: where its hooked functions stand, and the parameters of those that are there."""

    name: str
    places: Sequence[Place]
    functions: Mapping[str, Parameters]


def cache() -> Path:
    """The folder of the downloaded wheels, beside the environments of build_env.sh."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("RLHFD_OPENRLHF_CACHE") or Path(home, "rlhfd"), "wheels")


def wheel(version: str, folder: Path) -> Path:
    """The wheel of ``version``, downloaded into ``folder`` if it is not there yet; nothing in it is run.

    :raises VersionError: the index has no wheel of it or cannot be reached.
    """
    if not (held := sorted(folder.glob(f"openrlhf-{version}-*.whl"))):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
        command = [*pip, "--only-binary=:all:", *PLATFORM, "--dest", str(folder), f"openrlhf=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
        held = sorted(folder.glob(f"openrlhf-{version}-*.whl"))
        if done.returncode or not held:
            raise VersionError(f"openrlhf {version}: {done.stderr.strip()[-500:]}")
    return held[0]


def functions(wheel: Path) -> dict[str, Parameters]:
    """The functions of all hooked modules that are in ``wheel``."""
    found: dict[str, Parameters] = {}
    with zipfile.ZipFile(wheel) as archive:
        # These wheels keep their packages under openrlhf-<version>.data/purelib.
        files = {re.sub(r"^[^/]+\.data/(pure|plat)lib/", "", name): name for name in archive.namelist()}
        for module in hooks.WRAPPERS:
            name = files.get(f"{module.replace('.', '/')}.py")
            if name is not None:
                found.update(parse(module, archive.read(name)))
    return found


def examine(name: str, folder: Path) -> Version:
    """Look for every hook of OpenRLHF in the version ``name``."""
    return look(name, functions(wheel(name, folder)))


def look(name: str, found: Mapping[str, Parameters]) -> Version:
    """Look for every hook of OpenRLHF among the functions ``found``."""
    reads = hooks.symbols()
    ours = [symbol for symbol in reads if symbol.startswith("openrlhf.")]
    return Version(name, places(ours, hooks.FORMER, found, {"openrlhf"}, reads), found)


def broken_step_logs(version: Version) -> list[str]:
    """Every ``save_logs_and_checkpoints`` that has not the parameters which step metrics are read from."""
    saves = [symbol for symbol in version.functions if symbol.endswith("Trainer.save_logs_and_checkpoints")]
    read = read_by(wrappers.step_logs)
    return [symbol for symbol in saves if missing_parameters(read, version.functions[symbol])]


def render(versions: Sequence[Version]) -> str:
    """The page: one row a hook of today, one column a version."""
    rows = [
        ["seen", "in", *(version.name for version in versions), "by"],
        ["---", "---", *(":-:" for _ in versions), "---"],
    ]
    for place in versions[-1].places:
        symbol = place.symbol
        if symbol in hooks.FORMER:
            continue
        role, what = SEEN.get(symbol, ("", symbol.rpartition(".")[2]))
        marks = [MARKS[each.status] for version in versions for each in version.places if each.symbol == symbol]
        rows.append([what, role, *marks, f"`{symbol.removeprefix('openrlhf.')}`"])
    order = ["", *(role for role, _ in SEEN.values())]
    rows[2:] = sorted(rows[2:], key=lambda row: order.index(row[1]))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{HEAD}\n{table}\n{_former_places(versions)}{TAIL}"


def _former_places(versions: Sequence[Version]) -> str:
    """The second table: what was where, and up to which of the versions looked at."""
    lines = ["", "| former place | last looked-at version with it | place of today |", "| --- | --- | --- |"]
    for former, today in hooks.FORMER.items():
        last = [version.name for version in versions if former in version.functions]
        names = [symbol.removeprefix("openrlhf.") for symbol in (former, today)]
        lines.append(f"| `{names[0]}` | {last[-1] if last else '–'} | `{names[1]}` |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Compare the page with the wheels, or write it."""
    page = render([examine(name, cache()) for name in VERSIONS])
    if "--write" in arguments:
        PAGE.write_text(page, "utf-8")
    return int(not PAGE.exists() or PAGE.read_text("utf-8") != page)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

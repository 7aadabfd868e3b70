"""Every supported OpenRLHF has the functions that the hooks need, and docs/versions.md says what is seen in which."""

from __future__ import annotations

import pytest

from openrlhf.check_versions import (
    PAGE,
    SEEN,
    VERSIONS,
    Version,
    VersionError,
    broken_step_logs,
    cache,
    examine,
    look,
    render,
    wheel,
)
from rlhfd_emitter import hooks

OFFLINE = ("Temporary failure in name resolution", "Failed to establish", "ConnectionError", "Connection refused")
COMPUTE_EVAL = "openrlhf.trainer.ppo_trainer.compute_eval_metrics"
AGENT = "openrlhf.utils.agent"  # from 0.9.1 on; before, rewards were computed by Ray tasks
BEFORE_THE_REWRITE = {
    COMPUTE_EVAL,
    "openrlhf.trainer.ppo_trainer.BasePPOTrainer.init_checkpoint_states",
    f"{AGENT}.SingleTurnAgentExecutor.__init__",
    f"{AGENT}.SingleTurnAgentExecutor._fetch_rewards_via_http",
    f"{AGENT}.MultiTurnAgentExecutor.__init__",
}
# What a supported version may lack; everything else attaches in all of them.
KNOWN_TO_LACK = {
    **dict.fromkeys(("0.8.0", "0.8.3", "0.8.11", "0.9.0"), BEFORE_THE_REWRITE),
    "0.9.1": {COMPUTE_EVAL},
}

pytestmark = pytest.mark.timeout(1200)  # the first call downloads


@pytest.fixture(scope="module")
def versions() -> dict[str, Version]:
    try:
        for name in VERSIONS:
            wheel(name, cache())
    except VersionError as error:
        if any(sign in str(error) for sign in OFFLINE):
            pytest.skip(f"no package index: {error}")
        raise
    return {name: examine(name, cache()) for name in VERSIONS}


@pytest.mark.parametrize("name", VERSIONS)
def test_every_hook_finds_its_function_in_its_place_of_today_or_in_a_former_one(
    versions: dict[str, Version], name: str
) -> None:
    unseen = {place.symbol for place in versions[name].places if place.status in ("absent", "changed")}
    assert unseen == KNOWN_TO_LACK.get(name, set())


@pytest.mark.parametrize("name", VERSIONS)
def test_every_trainer_hands_its_step_and_its_logs_to_one_function(versions: dict[str, Version], name: str) -> None:
    saves = {symbol.split(".")[-2] for symbol in versions[name].functions if "save_logs_and_checkpoints" in symbol}
    assert saves >= {"BasePPOTrainer", "SFTTrainer", "RewardModelTrainer", "DPOTrainer"}
    assert broken_step_logs(versions[name]) == []


def test_every_former_place_is_in_one_of_the_versions_and_none_is_in_the_newest(versions: dict[str, Version]) -> None:
    for former, today in hooks.FORMER.items():
        holders = [name for name, version in versions.items() if former in version.functions]
        assert holders, former
        assert VERSIONS[-1] not in holders
        assert today in versions[VERSIONS[-1]].functions


def test_a_function_that_lost_a_parameter_which_a_hook_reads_is_changed(versions: dict[str, Version]) -> None:
    newest = versions[VERSIONS[-1]]
    saves = "openrlhf.trainer.sft_trainer.SFTTrainer.save_logs_and_checkpoints"
    renamed = tuple(name.replace("logs_dict", "logs") for name in newest.functions[saves])
    version = look("next", {**newest.functions, saves: renamed})
    (place,) = [place for place in version.places if place.symbol == saves]
    assert (place.status, place.detail) == ("changed", "logs_dict")
    assert broken_step_logs(version) == [saves]
    (row,) = [row for row in render([newest, version]).splitlines() if saves.removeprefix("openrlhf.") in row]
    assert row.split("|")[3:5] == [" ✓ ", " changed "]


def test_the_page_says_what_the_wheels_say(versions: dict[str, Version]) -> None:
    assert PAGE.read_text("utf-8") == render(list(versions.values())), "run openrlhf.check_versions --write"


def test_the_descriptions_name_hooks_that_exist() -> None:
    symbols = {f"{module}.{symbol}" for module, wrappers in hooks.WRAPPERS.items() for symbol in wrappers}
    assert set(SEEN) <= symbols - set(hooks.FORMER)

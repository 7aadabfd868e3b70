"""Which checkpoint another one is compared with."""

from __future__ import annotations

from rlhfd_daemon.checkpoints.chains import before, chains
from rlhfd_daemon.checkpoints.layout import Description, Layout


def tag(step: int | None, best: bool = False, folder: str = "_actor") -> Description:
    name = "model" if step is None else f"{'best_' if best else ''}global_step{step}"
    return Description(f"{folder}/{name}", "deepspeed", step=step, best=best, role="actor")


def path_before(found: Description, *others: Description) -> list[str]:
    (chain,) = chains(Layout(checkpoints=(found, *others)))
    return [one.path for one in before(found, chain)]


def test_the_newest_of_the_earlier_ones_comes_first() -> None:
    assert path_before(tag(30), tag(10), tag(40), tag(20)) == ["_actor/global_step20", "_actor/global_step10"]
    assert path_before(tag(10), tag(20)) == []


def test_the_best_ones_come_last_as_their_weights_may_be_later_than_their_name() -> None:
    best = tag(20, best=True)
    assert path_before(tag(20), tag(10), best) == ["_actor/global_step10"]
    assert path_before(tag(30), tag(10), best) == ["_actor/global_step10", "_actor/best_global_step20"]
    assert path_before(best, tag(10), tag(20)) == ["_actor/global_step10"]
    assert path_before(tag(40, best=True), best) == ["_actor/best_global_step20"]


def test_names_without_a_step_tell_nothing_of_what_follows_upon_what() -> None:
    chain = [Description(name, "file") for name in ("actor.pt", "critic.pt")]
    assert before(chain[1], chain) == []
    assert before(tag(10), [tag(None), tag(10)]) == []


def test_chains_are_of_one_folder_kind_and_role() -> None:
    layout = Layout(checkpoints=(tag(2), tag(1), tag(1, folder="_critic")))
    assert [[one.path for one in chain] for chain in chains(layout)] == [
        ["_actor/global_step1", "_actor/global_step2"],
        ["_critic/global_step1"],
    ]

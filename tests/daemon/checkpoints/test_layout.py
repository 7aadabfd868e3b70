"""Every layout of a checkpoint: what it is, which ranks it has, what is missing of it."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_trees import (
    adapter,
    deepspeed,
    export,
    look,
    metric,
    ppo,
    safetensors,
    torch_archive,
    under,
    universal,
    write,
)  # fmt: skip
from rlhfd_daemon.checkpoints.defect import Refused
from rlhfd_daemon.checkpoints.lacking import MAX_COUNTED, MAX_NAMES
from rlhfd_daemon.checkpoints.layout import Description, Layout, describe
from rlhfd_daemon.checkpoints.names import named
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.scan import Scanner, Tree
from rlhfd_daemon.checkpoints.seals import Seal, seal_of

KINDS: dict[str, tuple[str, Mapping[str, bytes]]] = {
    "zero0": ("deepspeed", deepspeed(0)),
    "zero2": ("deepspeed", deepspeed(2, 2)),
    "zero2, fp16": ("deepspeed", deepspeed(2, 2, prefix="")),
    "zero3": ("deepspeed", deepspeed(3, 4)),
    "zero2, tensor parallel": ("deepspeed", deepspeed(2, 2, 2)),
    "zero3, tensor parallel": ("deepspeed", deepspeed(3, 2, 2)),
    "experts": ("deepspeed", deepspeed(2, 2, experts=3)),
    "export": ("export", export()),
    "export, shards": ("export", export(3)),
    "export, binary": ("export", export(binary=True)),
    "export, binary shards": ("export", export(2, binary=True)),
    "adapter": ("adapter", adapter()),
    "adapter, binary": ("adapter", adapter(binary=True)),
    "universal": ("universal", universal()),
}
OPTIONAL = {"tokenizer.json", "tokenizer_config.json", "zero/optimizer_state.pt"}


def only(layout: Layout) -> Description:
    (one,) = layout.checkpoints
    return one


def seen(root: Path, files: Mapping[str, bytes]) -> Description:
    return only(look(write(root, files)))


@pytest.mark.parametrize("name", KINDS)
def test_every_layout_is_recognised_and_lacks_nothing(name: str, tmp_path: Path) -> None:
    kind, files = KINDS[name]
    found = seen(tmp_path / "checkpoint", files)
    assert (found.kind, found.path, found.step, found.role) == (kind, "", None, None)
    assert not found.missing
    assert found.cut_off == ()
    assert {part.file for part in found.parts} == set(files)
    assert found.size == sum(len(content) for content in files.values())
    assert all(part.whole for part in found.parts if part.file not in OPTIONAL or part.file.endswith(".pt"))


@pytest.mark.parametrize(
    ("files", "without", "missing"),
    [
        (deepspeed(2, 4), "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt", None),
        (deepspeed(2, 4), "mp_rank_00_model_states.pt", None),
        (deepspeed(2, 2, 2), "mp_rank_01_model_states.pt", None),
        (deepspeed(2, 2, 2), "bf16_zero_pp_rank_1_mp_rank_01_optim_states.pt", None),
        (deepspeed(3, 4), "zero_pp_rank_3_mp_rank_00_model_states.pt", None),
        (deepspeed(3, 4), "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", None),
        (deepspeed(2, 1, experts=3), "layer_1_expert_1_mp_rank_00_model_states.pt", None),
        (deepspeed(2, 1, experts=3), "layer_1_expert_2_mp_rank_00_model_states.pt", None),
        (export(3), "model-00002-of-00003.safetensors", None),
        (export(3), "model-00003-of-00003.safetensors", None),
        (export(3), "model.safetensors.index.json", None),
        (export(2, binary=True), "pytorch_model-00001-of-00002.bin", None),
        (export(), "model.safetensors", None),
        (export(), "config.json", None),
        (export(binary=True), "pytorch_model.bin", "model.safetensors"),
        (adapter(), "adapter_model.safetensors", None),
        (adapter(), "adapter_config.json", None),
        (adapter(binary=True), "adapter_model.bin", "adapter_model.safetensors"),
        (universal(), "zero/model.layers.0.weight/exp_avg.pt", None),
        (universal(), "zero/model.layers.2.weight/fp32.pt", None),
        (universal(), "mp_rank_00_model_states.pt", None),
    ],
)
def test_what_the_others_demand_is_missing(
    files: dict[str, bytes], without: str, missing: str | None, tmp_path: Path
) -> None:
    rest = {name: content for name, content in files.items() if name != without}
    if without == "zero/model.layers.2.weight/fp32.pt":
        rest["zero/model.layers.2.weight/exp_avg.pt"] = torch_archive()
        rest["zero/model.layers.2.weight/exp_avg_sq.pt"] = torch_archive()
    suffix = "_universal" if any(name.startswith("zero/") for name in files) else ""
    found = seen(tmp_path / f"checkpoint{suffix}", rest)
    assert found.missing.names == (missing or without,)
    assert found.missing.count == 1


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_of_any_part_of_the_files_only_what_is_not_there_is_missing_and_every_gap_is(data: st.DataObject) -> None:
    kind, files = data.draw(st.sampled_from(list(KINDS.values())))
    kept = data.draw(st.sets(st.sampled_from(sorted(files)), min_size=1))
    with TemporaryDirectory() as folder:
        suffix = {"universal": "_universal", "export": "_hf", "adapter": "_hf"}.get(kind, "")
        layout = look(write(Path(folder) / f"global_step7{suffix}", {name: files[name] for name in kept}))
    found = only(layout)
    assert found.step == 7
    assert not set(found.missing.names) & kept
    if found.kind == kind == "deepspeed" and found.optimizer_ranks and not found.elsewhere:
        ranks = found.optimizer_ranks
        assert (not found.missing) <= (len(ranks) == (found.data_world_size or 0) * found.model_world_size)


def test_what_zero_and_how_many_ranks_is_read_from_the_names(tmp_path: Path) -> None:
    def shown(name: str) -> tuple[int | None, int | None, int]:
        found = seen(tmp_path / name, KINDS[name][1])
        return found.zero, found.data_world_size, found.model_world_size

    assert shown("zero0") == (0, None, 1)
    assert shown("zero2") == (2, 2, 1)
    assert shown("zero3") == (3, 4, 1)
    assert shown("zero2, tensor parallel") == (2, 2, 2)
    assert shown("zero3, tensor parallel") == (3, 2, 2)
    assert named("layer_3_expert_7_mp_rank_01_model_states.pt").expert == 7
    assert named("fp16_zero_pp_rank_10_mp_rank_00_optim_states.pt").data_rank == 10
    assert named("model-00002-of-00003.safetensors").shard == (2, 3)
    assert named("bf16_zero_pp_rank_٣_mp_rank_00_optim_states.pt").kind == "other"


def test_a_ppo_run_has_checkpoints_of_two_roles_and_exports_beside_them(tmp_path: Path) -> None:
    files = {**ppo(5), **ppo(10), **under("_actor/best_global_step5", {**deepspeed(2), "metric.json": metric(0.5)})}
    layout = look(write(tmp_path, files))
    told = {one.path: (one.kind, one.role, one.step, one.best, one.latest) for one in layout.checkpoints}
    assert told == {
        "_actor/best_global_step5": ("deepspeed", "actor", 5, True, False),
        "_actor/global_step5": ("deepspeed", "actor", 5, False, False),
        "_actor/global_step10": ("deepspeed", "actor", 10, False, True),
        "_critic/global_step5": ("deepspeed", "critic", 5, False, False),
        "_critic/global_step10": ("deepspeed", "critic", 10, False, True),
        "global_step5_hf": ("export", "actor", 5, False, None),
        "global_step10_hf": ("export", "actor", 10, False, None),
    }
    assert dict(layout.latest) == {"_actor": "global_step10", "_critic": "global_step10"}
    assert layout.dangling == ()
    assert not any(one.missing or one.cut_off for one in layout.checkpoints)


def test_the_default_output_folder_holds_the_final_model_and_the_checkpoints_below_it(tmp_path: Path) -> None:
    files = {**export(), **under("checkpoints_ppo_ray", ppo(3)), **under("checkpoints_sft/global_step2", deepspeed(2))}
    layout = look(write(tmp_path / "ckpt", files))
    told = {one.path: (one.kind, one.role) for one in layout.checkpoints}
    assert told == {
        "": ("export", None),
        "checkpoints_ppo_ray/_actor/global_step3": ("deepspeed", "actor"),
        "checkpoints_ppo_ray/_critic/global_step3": ("deepspeed", "critic"),
        "checkpoints_ppo_ray/global_step3_hf": ("export", "actor"),
        "checkpoints_sft/global_step2": ("deepspeed", None),
    }


def test_latest_may_name_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    layout = look(write(tmp_path, {**under("global_step2", deepspeed(2)), "latest": b"global_step4\n"}))
    assert layout.dangling == (("", "global_step4"),)
    assert only(layout).latest is False


def test_the_script_that_zero_leaves_demands_optimizer_states(tmp_path: Path) -> None:
    files = {"global_step2/mp_rank_00_model_states.pt": torch_archive(), "zero_to_fp32.py": b"#"}
    assert only(look(write(tmp_path, files))).missing.names == ("zero_pp_rank_0_mp_rank_00_optim_states.pt",)
    # metric.json comes behind a barrier: then there is no ZeRO any more, the script is of another run.
    assert not only(look(write(tmp_path, {**files, "global_step2/metric.json": metric()}))).missing


def test_metric_json_must_be_whole_and_the_newest(tmp_path: Path) -> None:
    assert seen(tmp_path / "global_step1", {**deepspeed(2), "metric.json": metric()}).metric_is_last
    assert not seen(tmp_path / "global_step2", {**deepspeed(2), "metric.json": metric()[:-4]}).metric_is_last
    late = write(tmp_path / "global_step3", {**deepspeed(2), "metric.json": metric()}, age_seconds=5)
    os.utime(late / "mp_rank_00_model_states.pt")
    assert not only(look(late)).metric_is_last
    assert not seen(tmp_path / "global_step4", deepspeed(2)).metric_is_last


def test_ranks_of_another_node_only_are_its_part_of_a_checkpoint(tmp_path: Path) -> None:
    files = {name: content for name, content in deepspeed(2, 4).items() if "rank_2_" in name or "rank_3_" in name}
    part = only(look(write(tmp_path / "a", under("global_step1", files))))
    assert part.elsewhere
    assert not part.missing
    # The same with what the first rank writes: the first ranks' files are missing.
    shared = only(look(write(tmp_path / "b", {**under("global_step1", files), "latest": b"global_step1"})))
    assert not shared.elsewhere
    assert shared.missing.count == 3
    gap = {name: content for name, content in deepspeed(3, 5).items() if "rank_2_" in name or "rank_4_" in name}
    assert not only(look(write(tmp_path / "c", under("global_step1", gap)))).elsewhere


@pytest.mark.parametrize("name", ["zero2", "export", "adapter, binary", "export, shards", "universal"])
def test_a_file_cut_off_anywhere_is_seen(name: str, tmp_path: Path) -> None:
    _, files = KINDS[name]
    root = write(tmp_path / "checkpoint", files)
    for file, content in files.items():
        if file in OPTIONAL and not file.endswith(".pt"):
            continue
        for length in {0, 1, 7, 8, len(content) // 2, len(content) - 1}:
            (root / file).write_bytes(content[:length])
            assert only(look(root)).cut_off == (file,), length
        (root / file).write_bytes(content)
    assert only(look(root)).cut_off == ()


def test_an_archive_whose_beginning_is_lost_is_seen(tmp_path: Path) -> None:
    files = {**deepspeed(0), "mp_rank_00_model_states.pt": torch_archive(400)[300:]}
    assert seen(tmp_path, files).cut_off == ("mp_rank_00_model_states.pt",)


def test_a_pickle_of_old_torch_is_not_called_cut_off(tmp_path: Path) -> None:
    found = seen(tmp_path / "m", {"pytorch_model.bin": b"\x80\x02" + bytes(60), "config.json": b"{}"})
    assert [part.whole for part in found.of("weights")] == [None]
    assert found.cut_off == ()


def test_a_single_file_is_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, {"weights.safetensors": safetensors()})
    (tmp_path / "link").symlink_to("weights.safetensors")
    for path in (tmp_path / "weights.safetensors", tmp_path / "link"):
        found = only(look(path))
        assert (found.kind, found.path, found.parts[0].file) == ("file", "", "weights.safetensors")
        assert found.parts[0].whole


def test_nothing_at_all_is_nothing(tmp_path: Path) -> None:
    assert Scanner().scan(str(tmp_path / "none")) is None
    assert look(tmp_path) == Layout()
    write(tmp_path, {"tensorboard/events.out": b"x", "train.log": b"y", ".hidden/model.safetensors": safetensors()})
    assert look(tmp_path) == Layout()


def test_a_folder_that_was_just_made_is_a_checkpoint_without_its_files(tmp_path: Path) -> None:
    for name, kind in (
        ("global_step1", "deepspeed"),
        ("global_step1_hf", "export"),
        ("global_step2_universal", "universal"),
    ):
        (tmp_path / name).mkdir()
        (found,) = [one for one in look(tmp_path).checkpoints if one.path == name]
        assert found.kind == kind
        assert found.missing


def test_promise_E2_links_and_special_files_are_named_and_never_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {**deepspeed(2), "latest": b"global_step9"})
    root = write(tmp_path / "root", under("global_step1", deepspeed(2)))
    (root / "global_step2").symlink_to(outside)
    (root / "latest").symlink_to(outside / "latest")
    os.mkfifo(root / "global_step1" / "metric.json")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(root / "socket"))
    layout = look(root)
    assert layout.links == ("global_step2", "latest", "socket", "global_step1/metric.json")
    assert only(layout).path == "global_step1"
    assert only(layout).latest is None
    (tmp_path / "named").symlink_to(root)  # the user's own word
    assert look(tmp_path / "named") == layout


def test_a_path_that_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Refused, match="neither a folder nor a regular file"):
        Scanner().scan(str(tmp_path / "fifo"))
    with pytest.raises(Refused, match="neither"):
        Scanner().scan("/dev/null")


def test_absurd_names_cost_nothing(tmp_path: Path) -> None:
    found = seen(
        tmp_path, {"zero_pp_rank_999999_mp_rank_999999_optim_states.pt": b"", "mp_rank_00_model_states.pt": b""}
    )
    assert (len(found.missing.names), found.missing.count) == (MAX_NAMES, MAX_COUNTED)
    assert seen(tmp_path / "x", {"model-00001-of-999999.safetensors": b""}).missing.count == MAX_COUNTED
    assert look(write(tmp_path / "y", {"global_step" + "9" * 30 + "/notes.txt": b""})).checkpoints == ()


def test_a_crowd_of_entries_is_bounded_and_said_to_be(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"file{number}").touch()
    write(tmp_path, under("global_step1", deepspeed(2)))
    tree = Scanner(entries=20).scan(str(tmp_path))
    assert tree is not None
    assert describe(tree).problem == "more entries than are looked at"
    for number in range(20):
        (tmp_path / f"folder{number}").mkdir()
    tree = Scanner(folders=10).scan(str(tmp_path))
    assert tree is not None
    assert describe(tree).problem == "more folders than are looked at"


def test_a_folder_that_may_not_be_entered_is_a_problem_and_not_an_absence(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may enter every folder")
    root = write(
        tmp_path / "root", {**under("_actor/global_step1", deepspeed(2)), **under("_critic/global_step1", deepspeed(2))}
    )
    (root / "_actor").chmod(0)
    try:
        layout = look(root)
    finally:
        (root / "_actor").chmod(0o700)
    assert "Permission" in layout.problem
    assert only(layout).role == "critic"


def test_ends_are_read_once_as_long_as_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(folder: Folder, name: str) -> Seal:
        asked.append(name)
        return seal_of(folder, name)

    monkeypatch.setattr("rlhfd_daemon.checkpoints.scan.seal_of", noted)
    root = write(tmp_path / "global_step1", deepspeed(2, 2), age_seconds=10)
    scanner = Scanner()
    first = scanner.scan(str(root))
    assert len(asked) == 3
    assert scanner.scan(str(root)) == first
    assert len(asked) == 3
    (root / "mp_rank_00_model_states.pt").write_bytes(b"PK")
    scanner.scan(str(root))
    assert asked[3:] == ["mp_rank_00_model_states.pt"]


def test_a_file_that_goes_away_between_listing_and_looking_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def gone(name: Any, **options: Any) -> os.stat_result:
        if name == "mp_rank_00_model_states.pt":
            raise FileNotFoundError(2, "gone")
        return stat(name, **options)

    root = write(tmp_path / "global_step1", deepspeed(2, 2))
    monkeypatch.setattr(os, "stat", gone)
    assert {part.file for part in only(look(root)).parts} == set(deepspeed(2, 2)) - {"mp_rank_00_model_states.pt"}


def test_scanning_survives_a_rotation_that_never_stops(tmp_path: Path) -> None:
    write(tmp_path, {**ppo(0), **under("_actor/global_step1000000", deepspeed(2, 2))})
    stop = threading.Event()
    errors: list[OSError] = []

    def rotate() -> None:
        step = 0
        try:
            while not stop.is_set():
                shutil.rmtree(tmp_path / "_actor" / f"global_step{step}")
                step += 1
                write(tmp_path, {name: content for name, content in ppo(step).items() if name.startswith("_actor")})
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=rotate)
    thread.start()
    scanner = Scanner()
    steps: set[int] = set()
    try:
        for _ in range(5000):
            tree = scanner.scan(str(tmp_path))
            assert isinstance(tree, Tree)
            found = describe(tree)
            (still,) = [one for one in found.checkpoints if one.step == 1000000]
            assert not still.missing
            steps |= {one.step or 0 for one in found.checkpoints if one.path.startswith("_actor")}
            if len(steps) > 20:
                break
    finally:
        stop.set()
        thread.join(30)
    assert not errors
    assert len(steps) > 20

"""Readers of logs: what each takes from a file, what it passes over and names, and that no bytes make it raise."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import lzma
import math
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfd_daemon.errors import TraceError
from rlhfd_daemon.traces import FORMATS, Damaged, Row, RowTrace, find
from rlhfd_daemon.traces.protobuf import WireError, fields
from rlhfd_daemon.traces.row import RowMaker, seconds
from rlhfd_daemon.traces.source import MAX_LINE_BYTES, Source
from rlhfd_daemon.traces.tensorboard import masked_crc32c

FIXTURES = Path(__file__).parents[1] / "fixtures" / "traces"
MADE = ("events.out.tfevents.1700000000.host", "run-0_31_0.wandb.gz", "run-0_13_11.wandb.gz")
NAN = math.nan


def read(path: Path) -> tuple[str, list[Row], list[str]]:
    """Format, rows and damages of the log at ``path``."""
    damages: list[Damaged] = []
    trace = find(path)
    assert isinstance(trace, RowTrace)
    rows = list(trace.rows(damages.append))
    return trace.format.name, rows, [str(one).removeprefix(f"{path}: ") for one in damages]


def written(folder: Path, content: str | bytes, name: str = "log") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def steps_of(rows: list[Row]) -> list[int | None]:
    return [row.step for row in rows]


@pytest.mark.parametrize("name", MADE)
def test_files_of_real_loggers_hold_the_run_that_was_logged(name: str) -> None:
    _, rows, damages = read(FIXTURES / name)
    assert damages == []
    assert steps_of(rows) == list(range(1, 61))
    assert {"train/policy_loss", "train/kl", "train/reward"} <= rows[0].metrics.keys()
    assert [math.isnan(row.metrics["train/reward"]) for row in rows] == [step >= 45 for step in range(1, 61)]
    times = [row.time or 0 for row in rows]
    assert times == sorted(times)
    assert times[0] > 1.7e9
    assert not any("samples" in name or "flag" in name for row in rows for name in row.metrics)


def test_scalars_as_tensors_and_nested_values_are_read() -> None:
    _, events, _ = read(FIXTURES / MADE[0])
    assert [row.metrics["train/actor_lr"] for row in events] == pytest.approx([step / 10 for step in range(1, 61)])
    _, history, _ = read(FIXTURES / MADE[1])
    assert [row.metrics["nested/value"] for row in history] == list(range(1, 61))


@pytest.mark.parametrize("name", MADE)
def test_a_file_of_a_real_logger_cut_anywhere_gives_its_beginning_and_no_damage(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    data = gzip.decompress(data) if name.endswith(".gz") else data
    whole = [str(row) for row in read(FIXTURES / name)[1]]
    for share in range(5, 100, 7):
        rows, damages = read(written(tmp_path, data[: len(data) * share // 100]))[1:]
        assert damages == []
        # The last row of an event file may have lost a scalar, which came as an event of its own.
        assert [str(row) for row in rows[:-1]] == whole[: max(0, len(rows) - 1)]


@pytest.mark.parametrize("name", MADE)
def test_a_file_of_a_real_logger_with_a_damaged_middle_says_so_and_gives_the_rest(name: str, tmp_path: Path) -> None:
    data = (FIXTURES / name).read_bytes()
    data = gzip.decompress(data) if name.endswith(".gz") else data
    middle = len(data) // 3
    rows, damages = read(written(tmp_path, data[:middle] + b"\xff" * 3 + data[middle + 3 :]))[1:]
    assert any("checksum" in damage for damage in damages)
    assert 10 < len(rows) <= 60
    if "wandb" in name:
        assert steps_of(rows)[-1] == 60


def field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
    key = number << 3 | 2
    return (bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])) + length + data


def leveldb(records: list[bytes]) -> bytes:
    """As LevelDB's log format has it, after wandb's header."""
    out = bytearray(b":W&B\xe1\xbe\x00")
    for rest in records:
        is_first, is_last = True, False
        while not is_last:
            room = 32768 - len(out) % 32768
            if room < 7:
                out += bytes(room)
                continue
            part, rest = rest[: room - 7], rest[room - 7 :]
            is_last = not rest
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[is_first, is_last]
            out += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            is_first = False
    return bytes(out)


@pytest.mark.parametrize("padding", [0, 1, 50_000])
def test_wandb_records_across_blocks_are_put_together_wherever_they_begin(padding: int, tmp_path: Path) -> None:
    def history(step: int, text: int) -> bytes:
        values = {"_step": step, "a": step / 2, "text": "x" * text}
        items = [field(2, key.encode()) + field(16, json.dumps(value).encode()) for key, value in values.items()]
        return field(2, b"".join(field(1, item) for item in items))

    # Lengths that differ by one each bring a record's beginning to every place of a block.
    count = 2000 if padding < 9 else 90
    path = written(tmp_path, leveldb([history(step, padding + step % 97) for step in range(count)]))
    _, rows, damages = read(path)
    assert damages == []
    assert steps_of(rows) == list(range(count))
    assert all(row.metrics == {"a": (row.step or 0) / 2} for row in rows)


def test_json_lines_keep_file_order_and_name_damaged_lines(tmp_path: Path) -> None:
    text = (
        '{"step": 1, "time": 1700000000, "train/kl": 0.5, "note": "x", "ok": true, "none": null, "list": [1]}\n'
        '{"step": 2, "train/kl": NaN, "time": "2023-11-14T22:13:21Z", "deep": {"a": {"b": 2}}}\n'
        "garbage\n\n[1, 2]\n"
        '{"step": 2, "train/kl": -Infinity, "metrics": {"train/reward": 1}}\n'
        '{"step": 1, "train/kl": 1e400, "epoch": 0.5}\n'
        '{"no": "number"}\n{"step": 3, "train/kl": "NaN"}\n{"step": 4, "train/k'
    )
    name, rows, damages = read(written(tmp_path, text))
    assert name == "JSON lines"
    assert steps_of(rows) == [1, 2, 2, 1, 3]
    assert [row.time for row in rows] == [1700000000, 1700000001, None, None, None]
    assert rows[0].metrics == {"train/kl": 0.5}
    assert rows[1].metrics.keys() == {"train/kl", "deep/a/b"}
    assert rows[2].metrics == {"train/kl": -math.inf, "train/reward": 1}
    assert rows[3].metrics == {"train/kl": math.inf}
    assert math.isnan(rows[4].metrics["train/kl"])
    assert damages == ["line 3: not a JSON object", "line 5: not a JSON object"]


def test_a_last_line_without_an_end_counts_if_it_is_whole(tmp_path: Path) -> None:
    assert steps_of(read(written(tmp_path, '{"step": 1, "a": 1}\n{"step": 2, "a": 1}'))[1]) == [1, 2]
    assert [row.metrics for row in read(written(tmp_path, "step,a,b\n1,5,6\n2,5,61"))[1]] == [
        {"a": 5, "b": 6},
        {"a": 5},
    ]


def test_a_line_of_many_megabytes_is_damage(tmp_path: Path) -> None:
    line = b'{"step": 1, "a": 1}\n'
    path = written(tmp_path, line + b'{"x": "' + b"x" * MAX_LINE_BYTES + b'"}\n' + line)
    _, rows, damages = read(path)
    assert len(rows) == 2
    assert damages == ["line 2: longer than 16 MiB"]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_archives_are_known_by_content_and_may_be_cut_short(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    text = "".join(f'{{"step": {step}, "a": {step / 7}}}\n' for step in range(20_000)).encode()
    packed = pack(text)
    assert len(read(written(tmp_path, packed))[1]) == 20_000
    _, rows, damages = read(written(tmp_path, packed[: len(packed) // 2]))
    assert 1000 < len(rows) < 20_000
    assert damages == []
    broken = bytearray(packed)
    broken[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    _, rows, damages = read(written(tmp_path, bytes(broken)))
    assert len(damages) >= 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_with_any_usual_delimiter(delimiter: str, tmp_path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["Step", "timestamp", "actor/entropy", "note", "a, b"])
    writer.writerow([1, "2023-11-14 22:13:20", 0.5, "x", 1])
    writer.writerow([2.0, "", "nan", "x", ""])
    writer.writerow(["Step", "timestamp", "actor/entropy", "note", "a, b"])
    writer.writerow([3, 1, 2])
    writer.writerow(["3", "", "-inf", "", "7"])
    name, rows, damages = read(written(tmp_path, out.getvalue()))
    assert name == "CSV"
    assert steps_of(rows) == [1, 2, 3]
    assert rows[0] == Row(1, 1700000000, {"actor/entropy": 0.5, "a, b": 1})
    assert math.isnan(rows[1].metrics["actor/entropy"])
    assert rows[1].metrics.keys() == {"actor/entropy"}
    assert damages == ["line 5: 3 cells under 5 names"]


def test_trainer_state_and_json_lists_are_read(tmp_path: Path) -> None:
    history = [{"epoch": 0.1, "step": 5, "loss": 0.5, "grad_norm": NAN}, "odd", {"step": 10, "eval_loss": 1.0}]
    for state in ({"best_metric": None, "global_step": 10, "log_history": history}, history):
        for indent in (None, 2):
            name, rows, damages = read(written(tmp_path, json.dumps(state, indent=indent)))
            assert name == "trainer_state.json"
            assert steps_of(rows) == [5, 10]
            assert rows[0].metrics.keys() == {"loss", "grad_norm"}
            assert damages == ["entry 2: not a JSON object"]


@pytest.mark.parametrize("text", ['{\n "log_history": 5}', '{\n "a": 1}', '{"log_history": [', "[{]"])
def test_json_that_is_no_trainer_state_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"log_history|not a whole JSON value"):
        read(written(tmp_path, text))


def test_verl_s_console_is_read_between_other_lines_with_colours_and_numpy_s_numbers(tmp_path: Path) -> None:
    text = (
        "Loading checkpoint shards: 100%\nstep: not this one\n"
        "\x1b[36m(TaskRunner pid=12)\x1b[0m step:0 - val-core/gsm8k/reward/mean@1:0.25\n"
        "(TaskRunner pid=12) step:1 - actor/pg_loss:-0.001 - critic/score/mean:np.float64(0.5) - actor/lr:1e-06\n"
        "INFO done\nstep:2 - actor/pg_loss:nan - x:text - timing_s/gen:12.5\nstep:3 - actor/pg_loss:1.5 - actor/lr:1"
    )
    name, rows, damages = read(written(tmp_path, "noise\n" * 100_000 + text))
    assert (name, damages) == ("verl console", [])
    assert steps_of(rows) == [0, 1, 2, 3]
    assert rows[0].metrics == {"val-core/gsm8k/reward/mean@1": 0.25}
    assert rows[1].metrics == {"actor/pg_loss": -0.001, "critic/score/mean": 0.5, "actor/lr": 1e-06}
    assert math.isnan(rows[2].metrics["actor/pg_loss"])
    assert rows[3].metrics == {"actor/pg_loss": 1.5}


def test_wandb_s_own_counter_is_the_step_only_where_there_is_no_other() -> None:
    maker = RowMaker()
    assert maker.make({"_step": 7, "a": 1}) == Row(7, None, {"a": 1.0})
    assert maker.make({"_step": 8, "train/global_step": 3, "a": 1}) == Row(3, None, {"a": 1.0})
    assert maker.make({"_step": 9, "a": 1}) == Row(None, None, {"a": 1.0})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.7e9, 1.7e9), (1.7e12, 1.7e9), (1.7e15, 1.7e9), (1.7e18, 1.7e9), ("1700000000.5", 1700000000.5), (0, 0),
        ("2023-11-14T22:13:20+00:00", 1.7e9), ("2023-11-14T23:13:20+01:00", 1.7e9), ("yesterday", None), (NAN, None),
        (-5, None), (1e30, None), (True, None), (None, None), ("0001-01-01T00:00:00", None),
    ],
)  # fmt: skip
def test_times_are_unix_seconds_whatever_they_were(value: object, expected: float | None) -> None:
    assert seconds(value) == expected


def test_the_checksum_is_castagnoli_s_masked() -> None:
    # RFC 3720 B.4: CRC-32C of 32 zero bytes is 0x8a9136aa; the mask is TensorFlow's.
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def garbage() -> st.SearchStrategy[bytes]:
    record = st.binary(max_size=40).map(
        lambda data: (
            struct.pack("<Q", len(data))
            + struct.pack("<I", masked_crc32c(struct.pack("<Q", len(data))))
            + data
            + struct.pack("<I", masked_crc32c(data))
        )
    )
    line = st.sampled_from([b'{"step": 1, "a": 2}', b"step:1 - a:1", b"step,a", b"1,2", b"{", b"[", b'"log_history"'])
    return st.lists(st.one_of(st.binary(max_size=60), record, line, st.just(b"\n"), st.just(b":W&B\xe1\xbe\x00"))).map(
        b"".join
    )


@settings(max_examples=150, deadline=None)
@given(garbage())
def test_no_bytes_make_a_reader_raise_anything_but_its_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), data)
        for form in FORMATS:
            form.claims(data)
            try:
                for row in form.rows(Source(path)):
                    assert row.metrics
                    assert all(isinstance(value, float) for value in row.metrics.values())
            except TraceError:
                continue
        with contextlib.suppress(TraceError):
            find(path)


@given(st.binary(max_size=200))
def test_protobuf_fields_end_or_raise_the_one_error(data: bytes) -> None:
    try:
        for number, value in fields(data):
            assert number >= 0
            assert isinstance(value, (int, bytes))
    except WireError:
        pass


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
)


@given(
    st.dictionaries(st.one_of(st.text(max_size=8), st.sampled_from(["step", "time", "_step", "metrics"])), json_values)
)
def test_any_mapping_makes_a_row_or_none(values: dict[str, object]) -> None:
    row = RowMaker().make(values)
    if row is not None:
        assert row.metrics
        assert row.time is None or math.isfinite(row.time)

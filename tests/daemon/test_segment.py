"""The record codec: what was written is read, and no damage hides what lies outside it or raises."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_daemon.errors import FrameLogError
from rlhfd_daemon.segment import (
    MAX_PAYLOAD_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER,
    TORN_TAIL,
    Damage,
    Record,
    encode_record,
    scan,
)

RECORDS = [Record(i, 1_700_000_000_000_000_000 + i, 1000 + i, 40 + i, b"payload-%d" % i * (i % 4)) for i in range(1, 9)]


def segment(records: list[Record]) -> bytes:
    return SEGMENT_HEADER + b"".join(encode_record(*record) for record in records)


def spans(records: list[Record]) -> list[tuple[int, int]]:
    found, offset = [], len(SEGMENT_HEADER)
    for record in records:
        end = offset + RECORD_HEADER_BYTES + len(record.payload)
        found.append((offset, end))
        offset = end
    return found


def readable(buf: bytes) -> list[Record]:
    return [item for item in scan(buf) if isinstance(item, Record)]


def damages(buf: bytes) -> list[Damage]:
    return [item for item in scan(buf) if isinstance(item, Damage)]


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.integers(-1, 2**32 - 2),
            st.integers(-1, 2**31 - 1),
            st.binary(max_size=200),
        ),
        max_size=20,
    )
)
def test_what_is_encoded_is_read_back(items: list[tuple[int, int, int, bytes]]) -> None:
    records = [Record(index, *item) for index, item in enumerate(items, start=1)]
    assert list(scan(segment(records))) == records


@given(st.binary(max_size=400))
def test_any_bytes_are_scanned_without_an_error_and_accounted_for(noise: bytes) -> None:
    for buf in (noise, SEGMENT_HEADER + noise):
        list(scan(buf))
    joined = segment(RECORDS[:2]) + noise
    assert readable(joined)[:2] == RECORDS[:2]


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_flip_of_any_byte_costs_at_most_the_record_it_is_in(mask: int) -> None:
    whole = segment(RECORDS)
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= mask
        expected = [
            record for record, (start, end) in zip(RECORDS, spans(RECORDS), strict=True) if not start <= position < end
        ]
        assert readable(bytes(damaged)) == expected, position
        is_reserved = 12 <= position < 16
        assert bool(damages(bytes(damaged))) != is_reserved, position


def test_a_cut_at_any_byte_costs_only_what_is_behind_it() -> None:
    whole = segment(RECORDS)
    ends = {len(SEGMENT_HEADER), *(end for _, end in spans(RECORDS))}
    for length in range(len(whole)):
        cut = whole[:length]
        expected = [record for record, (_, end) in zip(RECORDS, spans(RECORDS), strict=True) if end <= length]
        assert readable(cut) == expected, length
        reasons = [damage.reason for damage in damages(cut)]
        if length >= len(SEGMENT_HEADER):
            assert reasons == ([] if length in ends else [TORN_TAIL]), length


def test_records_behind_a_hole_of_zeros_are_found_quickly() -> None:
    last = encode_record(9, 0, 0, 0, b"after the hole")
    start = time.monotonic()
    found = list(scan(segment(RECORDS) + bytes(16 << 20) + last))
    assert time.monotonic() - start < 30  # byte by byte it takes many minutes
    assert found[:-2] == RECORDS
    assert found[-2] == Damage(len(segment(RECORDS)), 16 << 20, "corrupt record")
    assert found[-1] == Record(9, 0, 0, 0, b"after the hole")


@pytest.mark.parametrize("zeros", range(40))
def test_a_hole_of_zeros_of_any_length_hides_no_record(zeros: int) -> None:
    last = encode_record(9, 0, 0, 0, b"")
    assert readable(segment(RECORDS) + bytes(zeros) + last)[-1].id == 9


def test_an_id_that_does_not_grow_is_damage() -> None:
    buf = segment([RECORDS[1], RECORDS[0], RECORDS[2]])
    assert readable(buf) == [RECORDS[1], RECORDS[2]]
    assert len(damages(buf)) == 1


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"NOTALOG!" + SEGMENT_HEADER[8:], "bad magic"),
        (SEGMENT_HEADER[:8] + struct.pack("<HHI", 2, 0, 0), "version 2, this program reads version 1"),
        (SEGMENT_HEADER[:8] + struct.pack("<HHI", 1, 3, 0), "unknown flags 0x0003"),
    ],
)
def test_records_behind_a_damaged_segment_header_are_read(header: bytes, reason: str) -> None:
    buf = header + segment(RECORDS)[len(SEGMENT_HEADER) :]
    assert list(scan(buf)) == [Damage(0, len(header), reason), *RECORDS]


def test_a_payload_or_id_outside_the_format_is_refused() -> None:
    encode_record(1, 0, 0, 0, bytes(MAX_PAYLOAD_BYTES))
    with pytest.raises(FrameLogError, match="does not fit"):
        encode_record(1, 0, 0, 0, bytes(MAX_PAYLOAD_BYTES + 1))
    with pytest.raises(FrameLogError, match="does not fit"):
        encode_record(0, 0, 0, 0, b"")


def test_the_bytes_are_as_documented() -> None:
    assert SEGMENT_HEADER == b"RLHFDLOG\x01\x00\x00\x00\x00\x00\x00\x00"
    encoded = encode_record(258, 3, 1000, -1, b"x")
    assert encoded[:4] == b"\x01\0\0\0"
    assert encoded[8:] == b"\x02\x01" + bytes(6) + b"\x03" + bytes(7) + b"\xe8\x03\0\0" + b"\xff" * 4 + b"x"

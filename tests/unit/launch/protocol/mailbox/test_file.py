"""The files of a mailbox: names, seals, packing, what is read next, who is silent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkdl.launch.protocol.mailbox.file import (
    ALIVE,
    DRIVER,
    FRAMES,
    Name,
    pack,
    plan_reading,
    seal,
    silent_ranks,
    unpack,
    unseal,
)

KEY = b"secret"


def name(rank: int, number: int, role: str = FRAMES) -> Name:
    return Name(role=role, rank=rank, number=number)


@pytest.mark.parametrize("role", [FRAMES, ALIVE])
@pytest.mark.parametrize(("rank", "number"), [(0, 1), (7, 12), (123456, 98765432101)])
def test_a_name_is_read_back(role, rank, number):
    assert Name.parse(str(name(rank, number, role))) == name(rank, number, role)


@pytest.mark.parametrize(
    "text",
    [
        "driver",
        "",
        "rank-00001",
        "rank-1-1",
        "rank-000001-0000000001",
        "rank-00001-0000000001.aside",
        "xrank-00001-0000000001",
        "rank-00001-0000000001\n",
        "rank-٠٠٠٠١-0000000001",
    ],
)
def test_other_names_are_nobodys(text):
    assert Name.parse(text) is None


def test_names_sort_by_number():
    texts = [str(name(0, number)) for number in (9, 10, 99, 100)]
    assert texts == sorted(texts)


@pytest.mark.parametrize("content", [b"", b"\x00content"])
def test_a_sealed_file_is_opened_by_its_key(content):
    assert unseal(KEY, FRAMES, 3, seal(KEY, FRAMES, 3, 5, content)) == (5, content)


def test_a_seal_holds_for_one_key_role_rank_number_and_content():
    sealed = seal(KEY, FRAMES, 3, 5, b"content")
    assert unseal(b"other", FRAMES, 3, sealed) is None
    assert unseal(KEY, ALIVE, 3, sealed) is None
    assert unseal(KEY, DRIVER, 3, sealed) is None
    assert unseal(KEY, FRAMES, 4, sealed) is None
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert unseal(KEY, FRAMES, 3, bytes(changed)) is None
    for length in range(len(sealed)):
        assert unseal(KEY, FRAMES, 3, sealed[:length]) is None


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_frames_come_back_from_a_content(frames):
    assert unpack(pack(frames)) == frames


@pytest.mark.parametrize("content", [b"\x00", b"\x00\x00\x00\x02x", pack([b"whole"]) + b"\x00\x00\x00\x01"])
def test_a_content_that_is_cut_off_is_a_value_error(content):
    with pytest.raises(ValueError, match="ends within"):
        unpack(content)


def test_files_are_read_by_number_and_ranks_take_turns():
    found = [name(0, 5), name(0, 3), name(0, 4), name(1, 1), name(1, 2), name(0, 2)]
    reading = plan_reading([*map(str, found), "driver", "noise"], {(FRAMES, 0): 2}, size=2)
    assert reading.frames == (name(0, 3), name(1, 1), name(0, 4), name(1, 2), name(0, 5))
    assert reading.spent == (name(0, 2),)


def test_a_file_waits_for_the_one_before_it():
    found = [name(0, 1), name(0, 3), name(1, 2)]
    assert plan_reading(map(str, found), {}, size=2).frames == (name(0, 1),)


def test_signs_of_life_need_none_before_them():
    found = [name(0, 4, ALIVE), name(0, 7, ALIVE), name(0, 3, ALIVE)]
    reading = plan_reading(map(str, found), {(ALIVE, 0): 3, (FRAMES, 0): 9}, size=1)
    assert reading.alive == (name(0, 4, ALIVE), name(0, 7, ALIVE))
    assert reading.frames == ()
    assert reading.spent == (name(0, 3, ALIVE),)


def test_a_rank_that_does_not_exist_is_not_read():
    reading = plan_reading([str(name(2, 1)), str(name(2, 1, ALIVE))], {(FRAMES, 2): 5}, size=2)
    assert (reading.alive, reading.frames, reading.spent) == ((), (), ())


@given(st.permutations(range(1, 9)), st.lists(st.integers(0, 8), max_size=9))
def test_in_whatever_pieces_a_listing_comes_every_file_is_read_once_in_order(order, cuts):
    taken: dict[tuple[str, int], int] = {}
    read = []
    for cut in [*sorted(cuts), 8]:
        reading = plan_reading([str(name(0, number)) for number in order[:cut]], taken, size=1)
        read += [found.number for found in reading.frames]
        taken[FRAMES, 0] = max(read, default=0)
    assert read == list(range(1, 9))


def test_a_rank_is_silent_after_the_limit_unless_it_ended():
    heard = {0: 100.0, 1: 69.0, 2: 70.0, 3: 10.0}
    assert silent_ranks(heard, {3}, listed_at=100.0, silence_s=30.0) == [1]

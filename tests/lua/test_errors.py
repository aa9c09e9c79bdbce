"""errors.lua: what is refused, with which code, and that nothing is written then."""

import pytest

BAD = ["nan", "inf", "-inf", "0x10", " 5 ", "1e3", "5.0", "", "--5", "+5", "9" * 18, "1" * 400, "5\n", "5\0", "five"]
RANDOM = "0123456789a"


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("function", "before", "after"),
    [
        ("exchange", (), ("", "plain")),
        ("redrive_missing", (), ()),
        ("extend", (), ("id", "1-abcdefgh")),
        ("messages", ("ready",), ("", "1")),
        ("dead_letters", (), ("", "1")),
        ("configure", ("visibility_timeout",), ()),
        ("configure", ("max_retrievals",), ()),
        ("configure", ("deduplication_window",), ()),
        ("configure", ("max_size",), ()),
    ],
)
def test_only_plain_decimal_numbers_in_range_are_numbers(raw, function, before, after, bad):
    """tonumber() would take nan, inf, 0x10 and ' 5 '; the library takes digits only."""
    raw.push()
    call = raw.do if function == "exchange" else raw.call
    if function == "redrive_missing":
        with raw.refused("INVALID_OPTION"):
            raw.call("redrive", raw.client, bad, "0123456789abcdef", "", "id")
        return
    with raw.refused("INVALID_OPTION"):
        call(function, *before, bad, *after)


@pytest.mark.parametrize("bad", [value for value in BAD if value])
def test_a_visibility_timeout_is_a_number_or_empty(raw, bad):
    """'' stands for the queue's own; nothing else that is no number passes."""
    raw.push()
    with raw.refused("INVALID_OPTION"):
        raw.exchange(1, bad)


@pytest.mark.parametrize(
    "options",
    [
        "p101", "p-101", "d-1", "d315360000001", "t0", "m0", "m1000001", "r-1", "n-1", "n2", "x5", "u1", "c1", "w1",
        "p", "5", "p5p6", "p5 d6", "P5", "pnan", "d1e3", "d0x10", "p5;", "d" + "9" * 18, "p5.5", "\0", "é5", "d--5",
    ],
)  # fmt: skip
def test_options_of_a_push_are_known_letters_with_numbers_in_range(raw, options):
    """One byte of data: n2 claims more metadata than there is."""
    with raw.refused("INVALID_OPTION"):
        raw.push(b"x", options)


@pytest.mark.parametrize("verb", ["", "x", "d5", "dd1", "b1", "rd-1", "rm0", "ru2", "rx5", "rp5", "rn1", "r5", "rd5d5"])
def test_a_settlement_is_delete_release_or_bury_with_options_of_release(raw, verb):
    """And the others in the same call are not done either."""
    first, second = raw.push(), raw.push()
    held = raw.get(2)
    good = (held[0][0], held[0][1], "d", "", "", "")
    with raw.refused("INVALID_OPTION"):
        raw.settle(good, (held[1][0], held[1][1], verb, "", "", ""))
    assert {held[0][0], held[1][0]} == {first, second}


def test_a_refusal_is_its_code_then_text(raw):
    """One word alone would become an ERR; clients find the code as the first word."""
    with raw.refused("QUEUE_NOT_FOUND") as caught:
        raw.call("peek", keys=("psmq:{no-such-queue}", "psmq:{no-such-queue}:never"))
    assert len(str(caught.value).split(" ", 1)) == 2


@pytest.mark.parametrize(
    "options", ["p100d0m1", "p-100t315360000000", "d315360000000m1000000r0", "n1", "r315360000000"]
)
def test_the_ends_of_the_ranges_are_inside(raw, options):
    """100 and -100, ten years, a million deliveries, no result at all."""
    assert len(raw.push(b"x", options)) == 22

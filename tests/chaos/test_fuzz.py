"""A hundred thousand broken payloads: no crash, nothing executed, everything refused."""

from __future__ import annotations

import random

import pytest

from psmq_tasks.errors import PayloadError
from psmq_tasks.outcome import Returned
from psmq_tasks.payload import Keyring, dump_call, load_call, open_call, open_result, seal_call, seal_result

RING = Keyring([b"k" * 32])
PLACE = {"namespace": "psmq", "queue": "mail", "random": "0123456789a"}
executed = []


class Trap:
    """Whoever unpickles it has been caught."""

    def __reduce__(self):
        return executed.append, ("unpickled",)


def originals():
    """Calls and results of every kind that we write."""
    body = dump_call(None, (Trap(),), {"key": "value" * 20})[0]
    common = {"task": "shop:order", "by_value": False, "headers": {"hard": "5.0"}, "body": body}
    yield seal_call(RING, codec="pickle", **common, **PLACE)
    yield seal_call(RING, codec="pickle", **(common | {"by_value": True, "headers": {}}), **PLACE)
    yield seal_call(RING, codec="json", **(common | {"body": b'[[1, 2], {"a": 3}]'}), **PLACE)
    yield seal_result(RING, Returned(Trap()), **PLACE)


def mutations(data, dice):
    """One random change: bits, bytes, cuts, insertions, swaps, lengths, other signatures."""
    changed = bytearray(data)
    kind = dice.randrange(8)
    at = dice.randrange(len(changed))
    if kind == 0:
        changed[at] ^= 1 << dice.randrange(8)
    elif kind == 1:
        changed[at] = dice.randrange(256)
    elif kind == 2:
        del changed[at : at + dice.randrange(1, 40)]
    elif kind == 3:
        changed[at:at] = dice.randbytes(dice.randrange(1, 40))
    elif kind == 4:
        del changed[at:]
    elif kind == 5:
        other = dice.randrange(len(changed))
        changed[at], changed[other] = changed[other], changed[at]
    elif kind == 6:  # of the parts' lengths, behind the signature
        changed[38 + dice.randrange(8)] = dice.choice([0, 1, 127, 128, 255])
    else:  # says that it is not signed
        changed[4:6] = bytes([dice.randrange(3), dice.randrange(3)])
        if dice.random() < 0.5:
            del changed[6:38]
    return bytes(changed)


def test_a_hundred_thousand_mutations_are_refused_and_run_nothing():
    """Every one ends in a PayloadError, or in a plain JSON call that nobody vouches for: never in an unpickling."""
    seed = random.SystemRandom().randrange(10**9)
    print("seed", seed)
    dice = random.Random(seed)
    seeds = list(originals())
    executed.clear()
    refused = 0
    for number in range(100_000):
        original = seeds[number % len(seeds)]
        changed = mutations(original, dice)
        if changed == original:
            continue
        if number % len(seeds) == 3:
            with pytest.raises(PayloadError):
                open_result(RING, changed, **PLACE)
            refused += 1
            continue
        try:
            call = open_call(RING, changed, **PLACE)
            assert (call.codec, call.signed) == ("json", False), "a forged pickle was taken"
            load_call(call)
        except PayloadError:
            refused += 1
    assert executed == []
    assert refused > 90_000


def test_forged_messages_are_buried_and_the_next_one_runs(arena):
    """Mutated calls in a real queue: each is a dead letter with a reason, none is executed, the worker goes on."""
    arena.push(20)
    forged = []
    dice = random.Random(arena.seed)
    while message := arena.queue.pop():
        forged += [mutations(message.data, dice) for _ in range(10)]
    arena.queue.push_many(forged)
    arena.worker("-p", 1, "-t", 4)
    arena.drain(30)
    assert not [record for record in arena.history.read() if record.kind in ("start", "end")]
    letters = arena.queue.dead_letters(limit=1000)
    assert len(letters) == len(forged) > 100
    assert all("Payload" in letter.reason for letter in letters)
    arena.push(5)
    arena.drain(10)
    assert sum(record.kind == "end" for record in arena.history.read()) == 5

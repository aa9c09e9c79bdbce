"""The mutation gate: faults put into a copy of psmq, one at a time. Each loads and passes a plain push, get and delete;
each must be caught by the model or by a test that says what is promised. A test suite that lets one live is too weak."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
from chaos.copies import copy_packages, environment
from support import ROOT


class Mutant(NamedTuple):
    """``text`` in ``file`` becomes ``fault``; ``caught_by``: node ids in tests/, "model" or a probe's name."""

    name: str
    file: str
    text: str
    fault: str
    caught_by: str = "model"


QUEUE = (
    Mutant(
        "settlements do not compare receipts",
        "psmq/lua/settling.lua",
        "and length > 3 and string.sub(found, 1, length) == mark then",
        "then",
    ),
    Mutant(
        "extend does not compare receipts",
        "psmq/lua/messages.lua",
        "if not state or buried[index] or not entries.is_of(state, receipt) then",
        "if not state or buried[index] then",
    ),
    Mutant(
        "a receipt is a bare counter",
        "psmq/lua/messages.lua",
        "entries.integer(received) .. '-' .. call.nonce",
        "entries.integer(received) .. '-x'",
        "lua/test_messages.py::test_after_a_failover_that_lost_a_delivery_the_stale_holder_is_refused",
    ),
    Mutant(
        "one delivery more before a lease's end buries",
        "psmq/lua/moving.lua",
        "if entry.count >= limit then",
        "if entry.count > limit then",
    ),
    Mutant(
        "one delivery more before a release buries",
        "psmq/lua/settling.lua",
        "if entry.count >= limit then",
        "if entry.count > limit then",
        "lua/test_settling.py::test_a_release_at_the_limit_is_a_burial",
    ),
    Mutant(
        "a letter leaves though its mark was taken away",
        "psmq/lua/transferring.lua",
        "if redis.call('HGET', k.departing, id) == note and redis.call('ZREM', k.dead, id) == 1 then",
        "if redis.call('ZREM', k.dead, id) == 1 then",
        "lua/test_transferring.py::test_whatever_happens_to_a_letter_ends_its_attempt",
    ),
    Mutant(
        "an earlier attempt takes a copy over from a later one",
        "psmq/lua/transferring.lua",
        "if its_source ~= source or (number_of(its_token) or 0) >= number_of(token) then",
        "if its_source ~= source then",
        "lua/test_transferring.py::test_a_later_attempt_takes_over_and_an_earlier_one_does_not",
    ),
    Mutant(
        "who leaves some wakes nobody",
        "psmq/lua/messages.lua",
        "reply[3] == 1 or (#taken > 0 and left) then",
        "reply[3] == 1 then",
        "lua/test_calls.py::test_whoever_takes_some_and_leaves_some_wakes_the_next",
    ),
    Mutant(
        "a push wakes nobody", "psmq/lua/push.lua", "if soon and sent > 0 then", "if false then", "test_a_push_wakes"
    ),
    Mutant("a repeat is not recognised", "psmq/lua/calls.lua", "if number == last then", "if false then"),
    Mutant(
        "an older command is taken for a new one",
        "psmq/lua/calls.lua",
        "if number < last or (number == last and nonce ~= its_nonce) then",
        "if false then",
        "lua/test_calls.py::test_one_identity_in_two_processes_is_found_out",
    ),
    Mutant(
        "a client that was given up is served",
        "psmq/lua/calls.lua",
        "if string.sub(known, 1, 4) == 'gone' then",
        "if false then",
        "lua/test_calls.py::test_a_client_that_was_given_up_is_refused",
    ),
    Mutant(
        "an uncounted return counts",
        "psmq/lua/settling.lua",
        "entry.count = math.max(0, entry.count - 1)",
        "entry.count = entry.count",
    ),
    Mutant(
        "a hand-back loses its place",
        "psmq/lua/settling.lua",
        "        if not uncounted then\n            entry.place",
        "        if true then\n            entry.place",
    ),
    Mutant(
        "delayed messages stay delayed",
        "psmq/lua/moving.lua",
        "local delayed = due(call, k.delayed)",
        "local delayed = {}",
    ),
    Mutant("ended leases stay leased", "psmq/lua/moving.lua", "local ended = due(call, k.leased)", "local ended = {}"),
    Mutant("what expired stays", "psmq/lua/moving.lua", "local expired = due(call, k.expiring)", "local expired = {}"),
    Mutant(
        "what expired is delivered",
        "psmq/lua/moving.lua",
        "elseif entry.x and entry.x <= call.now then",
        "elseif false then",
        "lua/test_moving.py::test_ttl_is_asked_at_the_delivery_too",
    ),
    Mutant(
        "deduplication is ignored",
        "psmq/lua/push.lua",
        "if id and tonumber(ends) > call.now then",
        "if false then",
    ),
    Mutant(
        "priorities are reversed",
        "psmq/lua/entries.lua",
        "return -priority * entries.step + ms",
        "return priority * entries.step + ms",
    ),
    Mutant("time goes back with the clock", "psmq/lua/clock.lua", "if time < seen then", "if false then"),
    Mutant(
        "a lease begins at the raw time",
        "psmq/lua/messages.lua",
        "lease(call, taken, call.now + timeout,",
        "lease(call, taken, call.time + timeout,",
    ),
    Mutant(
        "a redrive keeps the count",
        "psmq/lua/redriving.lua",
        "receipt = '-', count = 0, first = 0, place = place,",
        "receipt = '-', count = entry.count, first = 0, place = place,",
    ),
    Mutant(
        "burying leaves the receipt",
        "psmq/lua/dead.lua",
        "if not how.keep_receipt then",
        "if false then",
    ),
    Mutant(
        "a paused queue delivers",
        "psmq/lua/messages.lua",
        "if limit > 0 and not call.queue.paused then",
        "if limit > 0 then",
        "lua/test_messages.py::test_a_paused_queue_gives_nothing_but_takes_settlements",
    ),
    Mutant(
        "leases end during an outage",
        "psmq/lua/moving.lua",
        "if entry.w and call.now < call.grace then",
        "if false then",
        "lua/test_calls.py::test_after_an_outage_leases_of_workers_are_held_back_for_a_while",
    ),
    Mutant(
        "suspects are like all others",
        "psmq/lua/moving.lua",
        "return entry.c and call.k.suspects or call.k.ready",
        "return call.k.ready",
        "lua/test_settling.py::test_what_a_worker_died_with_comes_alone",
    ),
    Mutant(
        "half a push is stored",
        "psmq/lua/push.lua",
        "        items[#items + 1] = { random",
        "        redis.call('HSET', call.k.messages, 'x', body)\n        items[#items + 1] = { random",
        "lua/test_push.py::test_one_bad_message_stores_none",
    ),
)

CLIENT = (
    Mutant(
        "a repeated command has a new number",
        "psmq/dialogue.py",
        "        delay = next(delays, None)\n",
        "        delay, body = next(delays, None), _body(identity, command, clock)\n",
        "queue/test_lost_replies.py::test_a_thousand_pushes_are_a_thousand_messages",
    ),
    Mutant(
        "an interrupted command keeps its connection",
        "psmq/connection.py",
        "            # Interrupted: nobody will read that answer, and what a get was given goes back.\n            self.close()\n",
        "",
        "chaos/test_sharing.py::test_an_answer_that_nobody_waited_for_reaches_nobody",
    ),
    Mutant(
        "an interrupted get keeps what it was given",
        "psmq/connection.py",
        "                self._hand_back(command.address, clock)\n            raise\n\n    def _drive",
        "                pass\n            raise\n\n    def _drive",
        "queue/test_interrupts.py::test_an_interrupted_get_gives_back_what_it_was_given",
    ),
    Mutant(
        "a forked child uses its parent's connections",
        "psmq/connection.py",
        "            self._pid = os.getpid()\n            self.identity.renew()\n            self.close()\n",
        "            pass\n",
        "chaos/test_sharing.py::test_a_consumer_is_another_client_in_a_forked_child",
    ),
    Mutant(
        "late answers are believed",
        "psmq/consumer.py",
        "if answer.messages and steady() - asked > seconds / 2:",
        "if False:",
        "chaos/test_network.py::test_an_answer_that_came_late_is_confirmed_before_anything_starts",
    ),
    Mutant(
        "signatures are not compared",
        "psmq_tasks/envelope.py",
        "if hmac.compare_digest(key.sign(signed), signature):",
        "if signature:",
        "tasks/test_payload.py::test_a_call_copied_elsewhere_is_a_forgery",
    ),
)

WORKER = (
    Mutant(
        "a message is marked started when it has run",
        "psmq_tasks/slot.py",
        '            table.start(held.place, held.generation)\n            passing("slot.started")\n',
        "",
        "test_killers",
    ),
    Mutant(
        "what a dead child ran is deleted",
        "psmq_tasks/estate.py",
        "    if entry.state == DONE:\n",
        "    if entry.state != HELD:\n",
        "test_a_killed_child_s_jobs_are_back_at_once",
    ),
    Mutant(
        "what a dead child held waits for its lease",
        "psmq_tasks/supervisor.py",
        "                self._dues.owe(entry, last_word(child, entry))\n",
        "",
        "test_a_killed_child_s_jobs_are_back_at_once",
    ),
    Mutant(
        "what a dead child never saw waits for its lease",
        "psmq_tasks/supervisor.py",
        "        self._dues.abandon(child.table.clients())\n",
        "",
        "test_what_a_dead_child_never_saw_is_back_at_once",
    ),
    Mutant(
        "all that has ended is deleted",
        "psmq_tasks/runner.py",
        "done=type(settlement) is Delete and settlement.result is None",
        "done=True",
        "test_what_had_not_ended_well_is_not_deleted",
    ),
    Mutant(
        "what has ended well runs again",
        "psmq_tasks/runner.py",
        "done=type(settlement) is Delete and settlement.result is None",
        "done=False",
        "test_what_had_ended_well_is_not_run_again",
    ),
    Mutant(
        "leases are not extended",
        "psmq_tasks/leases.py",
        "            if not mine or node in failed:\n                continue\n            try:\n                pairs",
        "            if True:\n                continue\n            try:\n                pairs",
        "test_leases_are_kept",
    ),
    Mutant(
        "leases are extended too late",
        "psmq_tasks/leases.py",
        "self._extended_at >= shortest / 3",
        "self._extended_at >= shortest * 1.5",
        "test_leases_are_kept",
    ),
    Mutant(
        "a stop counts what was not started",
        "psmq_tasks/leases.py",
        "                    self._dues.owe(entry, Release(count=False))\n",
        "                    self._dues.owe(entry, Release())\n",
        "test_a_stop_hands_back_uncounted",
    ),
    Mutant(
        "what a slot has not read stays where it is",
        "psmq_tasks/leases.py",
        "                self._dues.abandon_unread(answer.client_id, answer.number)\n",
        "                pass\n",
        "test_what_a_slot_has_not_read_is_given_to_others",
    ),
    Mutant(
        "the slot runs what was taken back from it unread",
        "psmq_tasks/asking.py",
        "        if self._table.read(self._number, number):\n            return held",
        "        self._table.read(self._number, number)\n        return held",
        "test_what_a_slot_has_not_read_is_given_to_others",
    ),
    Mutant(
        "crashes are not told apart",
        "psmq_tasks/estate.py",
        "        crashed=True,\n",
        "",
        "test_innocents_pay_once",
    ),
)


def nodes(mutant, plain):
    for name in (plain, "test_model" if mutant.caught_by == "model" else mutant.caught_by):
        yield f"tests/{name}" if "::" in name else f"tests/chaos/probes.py::{name}"


def judge(mutant, plain, folder):
    """Runs the plain check and what must catch it, on the copy. → the words of pytest"""
    copy = copy_packages(folder, (mutant.file, mutant.text, mutant.fault))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PSMQ_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-x", "-rA", "-p", "no:xdist", "-p", "no:cacheprovider", "--tb=line",
         "--timeout=60", *nodes(mutant, plain)],
        cwd=ROOT, env=clean | environment(copy), capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 1, f"{mutant.name} lives:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    assert re.search(rf"^PASSED .*::{plain}", done.stdout, re.MULTILINE), f"it is no subtle fault: {done.stdout}"
    assert f"{copy}/psmq" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("mutant", QUEUE, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_fault_in_the_queue_is_caught(mutant, tmp_path):
    """By the model, or by the test of that function."""
    assert "FAILED" in judge(mutant, "test_plain", tmp_path)


@pytest.mark.parametrize("mutant", CLIENT, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_fault_in_the_client_is_caught(mutant, tmp_path):
    """By a test of what is promised there."""
    assert "FAILED" in judge(mutant, "test_plain", tmp_path)


@pytest.mark.parametrize("mutant", WORKER, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_fault_in_the_worker_is_caught(mutant, tmp_path):
    """By a small piece of chaos."""
    assert "FAILED" in judge(mutant, "test_plain_worker", tmp_path)


def test_without_a_fault_nothing_is_caught(tmp_path):
    """The probes pass on a copy as it is: what they catch is the fault."""
    copy = copy_packages(tmp_path)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PSMQ_"))}
    words = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "tests/chaos/probes.py", "--deselect"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *words, "tests/chaos/probes.py::test_model"],
        cwd=ROOT, env=clean | environment(copy), capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout

"""driving.py: steps get what came of each thing they ask for, from threads and from asyncio alike."""

import asyncio

import pytest

from psmq.driving import adrive, drive
from psmq.errors import QueueFull


def drive_awaited(steps, do, *errors):
    async def awaited(wanted):
        await asyncio.sleep(0)
        return do(wanted)

    return asyncio.run(adrive(steps, awaited, *errors))


@pytest.fixture(params=[drive, drive_awaited])
def driver(request):
    return request.param


def test_steps_get_each_answer_and_their_return_comes_back(driver):
    """In the order in which they ask."""

    def steps():
        first = yield 1
        second = yield first + 1
        return [first, second]

    assert driver(steps(), lambda wanted: wanted * 10) == [10, 110]


def test_steps_get_the_errors_of_their_kind_and_may_go_on(driver):
    """What they do not catch is theirs to raise."""

    def full(wanted):
        raise QueueFull(wanted, 1)

    def steps():
        try:
            yield "q"
        except QueueFull:
            return "caught"

    assert driver(steps(), full) == "caught"
    with pytest.raises(QueueFull):
        driver((wanted for wanted in "q"), full)


def test_another_error_passes_them_by(driver):
    """An interruption is not for the steps to catch: whoever drives them decides what they do about it."""
    met = []

    def stopped(wanted):
        raise KeyboardInterrupt

    def steps():
        try:
            yield 1
        except Exception as error:
            met.append(error)

    with pytest.raises(KeyboardInterrupt):
        driver(steps(), stopped)
    assert met == []


def test_which_errors_the_steps_get_can_be_said(driver):
    """Sending tells them what reading the calls raises, too."""

    def broken(wanted):
        raise ZeroDivisionError

    def steps():
        try:
            yield 1
        except ZeroDivisionError:
            return "caught"

    with pytest.raises(ZeroDivisionError):
        driver(steps(), broken)
    assert driver(steps(), broken, Exception) == "caught"

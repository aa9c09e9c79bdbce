"""What type checkers see of psmq_tasks. Run by mypy: an ``ignore`` that is not needed is an error there too."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from tenacity import retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_exponential_jitter

from psmq import QueueManager
from psmq_tasks import AsyncTask, Call, CurrentMessage, RetryPolicy, Task, TaskApp, TaskHandle, current_message, task

app = TaskApp("mail", url="memory:", defaults={"time_limit": timedelta(minutes=1)})


@app.task
def bare(to: str, copies: int = 1) -> bool:
    return bool(to) and copies > 0


@app.task(
    queue="mail",
    stop=stop_after_attempt(5) | stop_after_delay(600),
    wait=wait_exponential_jitter(max=60),
    retry=retry_if_exception_type(OSError),
    soft_time_limit=20,
    time_limit=timedelta(seconds=30),
    result_ttl=0,
)
def with_options(to: str) -> list[int]:
    return [len(to)]


@task
async def asynchronous(url: str) -> bytes:
    return url.encode()


@task(priority=5)
async def asynchronous_with_options(url: str, *, times: int) -> bytes:
    return url.encode() * times


def plain(n: int) -> str:
    return str(n)


direct = app.task(plain, name="plain", codec="json")


def tasks_keep_their_signatures() -> None:
    assert_type(bare("a", copies=2), bool)
    assert_type(bare.delay("a", copies=2), TaskHandle[bool])
    assert_type(bare.call("a"), Call[bool])
    assert_type(bare.delay("a").result(timeout=5), bool)
    assert_type(with_options.delay("a").result(), list[int])
    assert_type(direct.using(delay=5, queue="slow").delay(1), TaskHandle[str])
    assert_type(bare.delay_many(bare.call(str(n)) for n in range(3)), list[TaskHandle[bool]])
    assert_type(bare.delay("a").exception(timedelta(seconds=1)), BaseException | None)
    assert_type(current_message(), CurrentMessage)


async def coroutines_give_what_they_return() -> None:
    assert_type(await asynchronous("a"), bytes)
    assert_type(asynchronous.delay("a"), TaskHandle[bytes])
    assert_type(await asynchronous_with_options.adelay("a", times=2), TaskHandle[bytes])
    assert_type(await asynchronous.delay("a"), bytes)
    assert_type(await bare.delay("a").aresult(timeout=5), bool)
    assert_type(await asynchronous.adelay_many([asynchronous.call("a")]), list[TaskHandle[bytes]])


def mistakes_are_found() -> None:
    bare.delay(1)  # type: ignore[arg-type]
    bare.delay("a", copy=2)  # type: ignore[call-arg]
    bare.delay()  # type: ignore[call-arg]
    asynchronous_with_options.delay("a")  # type: ignore[call-arg]
    bare.call("a", "b")  # type: ignore[arg-type]
    bare.delay_many([with_options.call("a")])  # type: ignore[list-item]
    bare.using(priority="high")  # type: ignore[arg-type]
    bare.using(colour="red")  # type: ignore[call-arg]
    app.task(colour="red")  # type: ignore[call-overload]
    RetryPolicy(stop=5)  # type: ignore[arg-type]


def handles_and_tasks_are_annotated_by_what_they_give(
    handle: TaskHandle[object], sync: Task[[int], str], coroutine: AsyncTask[[int], str]
) -> None:
    handles_and_tasks_are_annotated_by_what_they_give(bare.delay("a"), direct, app.task(_async_plain))
    assert_type(sync(1), str)
    assert_type(handle.result(), object)
    assert_type(coroutine.delay(1), TaskHandle[str])


async def _async_plain(n: int) -> str:
    return str(n)


# --- the queue

mails = QueueManager(url="memory:").get_queue("mails", visibility_timeout=timedelta(minutes=1), max_retrievals=3)
mails.configure(max_retrivals=3)  # type: ignore[call-arg]  # misspelled
mail = mails.get()
if mail is not None:
    assert_type(mail.message_id, str)
    assert_type(mail.retrieval_count, int)

"""Three ways to fail: again after a while, again when the task says so, never again.

    $ psmq-worker retries.py        # in one terminal
    $ python retries.py             # in another
    lisbon: 21 degrees, at attempt 3
    tokyo: 17 degrees, at attempt 2
    atlantis: gave up after 1 attempt, KeyError: 'no such place'

Between two attempts the call waits in the queue, not in the worker: a wait of an hour costs no thread and survives a
restart. The policy is made of tenacity's objects. Left out, it is 5 attempts, after about 1, 2, 4 and 8 s.
"""

from tenacity import retry_if_exception_type, stop_after_attempt, wait_exponential

from psmq_tasks import Retry, TaskApp, current_message

app = TaskApp("weather")


@app.task(
    stop=stop_after_attempt(5),  # counts runs, the first one too
    wait=wait_exponential(multiplier=0.2, max=60),  # 0.2 s, 0.4, 0.8 … 60
    retry=retry_if_exception_type(OSError),  # no other error gets better by waiting
)
def degrees(place: str) -> str:
    attempt = current_message().attempt
    if place == "atlantis":
        raise KeyError("no such place")
    if place == "tokyo" and attempt == 1:
        raise Retry(after=0.5, reason="the service asked for half a second")  # instead of the policy's wait
    if place == "lisbon" and attempt < 3:
        raise ConnectionError(f"connection {attempt} was cut")
    return f"{21 if place == 'lisbon' else 17} degrees, at attempt {attempt}"


if __name__ == "__main__":
    asked = {place: degrees.delay(place) for place in ("lisbon", "tokyo", "atlantis")}
    for place, answer in asked.items():
        error = answer.exception(timeout=30)
        if error is None:
            print(f"{place}: {answer.result()}")
        else:  # it is a dead letter now: psmq dead list
            print(f"{place}: gave up after 1 attempt, {type(error).__name__}: {error}")

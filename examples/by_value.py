"""Code that travels with the call: the worker has never seen this file.

    $ cd / && psmq-worker           # in one terminal, without any module
    $ python by_value.py            # in another
    a lambda: 42
    a function of this script, with what it uses: 7.2
    a closure: Dear Ada

Lambdas, closures and functions of __main__ or a notebook go by value. Functions of modules go by name: the worker
imports them, and a deploy changes what they do. Code by value only runs on the sender's Python version (3.11 to 3.11);
a worker of another version leaves it to others.
"""

from psmq_tasks import Task, task

TAX = 1.2


def with_tax(price: float) -> float:
    return price * TAX


@task
def total(prices: list[float]) -> float:
    return round(sum(map(with_tax, prices)), 2)


def letter_to(name: str) -> Task[[], str]:
    return task(lambda: f"Dear {name}")


if __name__ == "__main__":
    double = task(lambda number: 2 * number)
    print("a lambda:", double.delay(21).result(timeout=30))
    print("a function of this script, with what it uses:", total.delay([1, 2, 3]).result(timeout=30))
    print("a closure:", letter_to("Ada").delay().result(timeout=30))

"""The smallest task: a function that runs in a worker, and its result.

    $ psmq-worker hello.py          # in one terminal
    $ python hello.py               # in another
    Hello, world!

No server has to be started: the first use starts one in the background, for this user. Without a worker the call waits
in the queue, and after 5 s the script says what is missing:
``no result of … after 5 s; nothing serves queue 'default': psmq-worker hello.py``
"""

import sys

from psmq_tasks import ResultTimeout, task


@task
def greet(name: str) -> str:
    return f"Hello, {name}!"


if __name__ == "__main__":
    greeting = greet.delay("world")  # stored on the server once this returns
    try:
        print(greeting.result(timeout=5))
    except ResultTimeout as nobody:
        sys.exit(str(nobody))

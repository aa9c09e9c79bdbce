"""The limit of the design: two bare loops of FCALL exchange and pickle.loads, nothing signed, nothing watched."""

import pickle
import sys
import time

from common import URL, main, record

from psmq import Delete, QueueManager

WORKERS = [[sys.executable, "-c", "import loop_; loop_.work()"]] * 2
manager = QueueManager(url=URL)


def work():
    queue = manager.get_queue("bench-loop")
    consumer = manager.consumer()
    settled = []
    while True:
        answer = consumer.exchange(queue, settled, 64, mode="plain", wake=None if settled else 1.0)
        settled = []
        for message in answer.messages:
            record(pickle.loads(message.data))
            settled.append((message.message_id, message.receipt, Delete()))
        if not answer.messages:
            time.sleep(0)


def send():
    queue = manager.get_queue("bench-loop")
    main(
        lambda sent: queue.push(pickle.dumps(sent)),
        lambda count: queue.push_many(pickle.dumps(time.monotonic()) for _ in range(count)),
    )

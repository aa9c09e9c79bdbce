"""psmq: a message queue on Valkey/Redis that loses nothing.

Everything public is named here.
"""

from psmq import errors
from psmq.async_queue import AsyncMessage, AsyncQueue
from psmq.commands import Delivered, NewMessage, draw_randoms
from psmq.config import QueueConfig
from psmq.consumer import Consumer
from psmq.durability import Durability
from psmq.errors import PsmqError
from psmq.findings import Finding
from psmq.manager import AsyncQueueManager, QueueManager
from psmq.message import DeadLetter, MessageRecord, QueueInfo, id_random, id_time
from psmq.queue import Message, Queue
from psmq.settlement import Bury, Delete, Release, Settlement
from psmq.stats import QueueStats
from psmq.traces import Event, Trace
from psmq.transfers import Transfer

__version__ = "0.1.0"

__all__ = [
    "AsyncMessage",
    "AsyncQueue",
    "AsyncQueueManager",
    "Bury",
    "Consumer",
    "DeadLetter",
    "Delete",
    "Delivered",
    "Durability",
    "Event",
    "Finding",
    "Message",
    "MessageRecord",
    "NewMessage",
    "PsmqError",
    "Queue",
    "QueueConfig",
    "QueueInfo",
    "QueueManager",
    "QueueStats",
    "Release",
    "Settlement",
    "Trace",
    "Transfer",
    "draw_randoms",
    "errors",
    "id_random",
    "id_time",
]

for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type):
        _public.__module__ = __name__  # reprs and tracebacks say psmq.Queue
del _name, _public

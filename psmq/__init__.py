"""psmq: a message queue on Valkey/Redis that loses nothing.

Everything public is named here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from psmq import errors
from psmq.commands import Delivered, NewMessage, draw_randoms
from psmq.config import QueueConfig, QueueSettings
from psmq.consumer import Consumer
from psmq.durability import Durability
from psmq.errors import PsmqError
from psmq.findings import Finding
from psmq.manager import QueueManager
from psmq.message import DeadLetter, MessageRecord, QueueInfo, id_random, id_time, is_id
from psmq.queue import Message, Queue
from psmq.settlement import Bury, Delete, Release, Settlement
from psmq.stats import QueueStats
from psmq.traces import Event, Trace
from psmq.transfers import Transfer

if TYPE_CHECKING:
    from psmq.async_manager import AsyncQueueManager
    from psmq.async_queue import AsyncMessage, AsyncQueue

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
    "QueueSettings",
    "QueueStats",
    "Release",
    "Settlement",
    "Trace",
    "Transfer",
    "draw_randoms",
    "errors",
    "id_random",
    "id_time",
    "is_id",
]

# Imported when first asked for: asyncio takes longer than all the rest, and a shell's Tab must not wait for it.
_ASYNC = {
    "AsyncMessage": "psmq.async_queue",
    "AsyncQueue": "psmq.async_queue",
    "AsyncQueueManager": "psmq.async_manager",
}


def __getattr__(name: str) -> Any:
    if name not in _ASYNC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_ASYNC[name]), name)
    return found

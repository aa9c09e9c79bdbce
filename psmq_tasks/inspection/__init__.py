"""What is in the queues and what went wrong, as plain data; and back with it. Command line and programs use the same.

Nothing is unpickled, unless ``Calls`` is told to: a call is known by the metadata that its sender wrote, which is for
display only.
"""

from psmq_tasks.inspection.async_inspector import AsyncInspector
from psmq_tasks.inspection.calls import Calls, Change, OpenedCall, unedited
from psmq_tasks.inspection.exchange import letters_of
from psmq_tasks.inspection.inspector import Inspector
from psmq_tasks.inspection.records import (
    DeadTask,
    Filter,
    Group,
    Listing,
    Mended,
    QueuedMessage,
    WaitingRetry,
)
from psmq_tasks.inspection.tracing import Traced
from psmq_tasks.inspection.workers import Running, Worker

__all__ = [
    "AsyncInspector",
    "Calls",
    "Change",
    "DeadTask",
    "Filter",
    "Group",
    "Inspector",
    "Listing",
    "Mended",
    "OpenedCall",
    "QueuedMessage",
    "Running",
    "Traced",
    "WaitingRetry",
    "Worker",
    "letters_of",
    "unedited",
]

"""What is in the queues and what went wrong, as plain data; and back with it. Command line and programs use the same.

Nothing is unpickled here: a call is known by the metadata its sender wrote, which is for display only.
"""

from psmq_tasks.inspection.inspector import AsyncInspector, Inspector
from psmq_tasks.inspection.records import DeadTask, Filter, Listing, Mended, QueuedMessage, WaitingRetry, queue_as_dict
from psmq_tasks.inspection.workers import Running, Worker

__all__ = [
    "AsyncInspector",
    "DeadTask",
    "Filter",
    "Inspector",
    "Listing",
    "Mended",
    "QueuedMessage",
    "Running",
    "WaitingRetry",
    "Worker",
    "queue_as_dict",
]

"""psmq_tasks: functions that run later, elsewhere, and again when they fail, on psmq's queues.

Everything public is named here.
"""

from psmq_tasks import errors
from psmq_tasks.app import TaskApp, default_app
from psmq_tasks.definition import AsyncTask, Call, Task
from psmq_tasks.errors import (
    Reject,
    ResultTimeout,
    Retry,
    SoftTimeLimitExceeded,
    TaskBuried,
    TaskExpired,
    TaskFailed,
    TasksError,
    TimeLimitExceeded,
    WorkerLost,
)
from psmq_tasks.executor import CurrentMessage, current_message
from psmq_tasks.results import TaskHandle
from psmq_tasks.retry import RetryPolicy

__all__ = [
    "AsyncTask",
    "Call",
    "CurrentMessage",
    "Reject",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "SoftTimeLimitExceeded",
    "Task",
    "TaskApp",
    "TaskBuried",
    "TaskExpired",
    "TaskFailed",
    "TaskHandle",
    "TasksError",
    "TimeLimitExceeded",
    "WorkerLost",
    "current_message",
    "default_app",
    "errors",
    "task",
]

task = default_app.task

for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type) and issubclass(_public, Exception):
        _public.__module__ = __name__  # people read it: psmq_tasks.TimeLimitExceeded
del _name, _public

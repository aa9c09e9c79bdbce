"""The commands ``psmq`` and ``psmq-worker``. Nothing heavy is imported before a command needs it."""

from psmq_tasks.cli.main_group import psmq
from psmq_tasks.cli.worker_command import worker

__all__ = ["psmq", "worker"]

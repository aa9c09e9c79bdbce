"""The proof that nothing is lost: jobs that write down what they do, a history, and a checker that adds it up.

Used by the tests of psmq and by ``psmq torture``, which asks the same of a server of yours.
"""

from psmq_tasks.torture.checker import Verdict, check, percentile, places
from psmq_tasks.torture.history import History, Record

__all__ = ["History", "Record", "Verdict", "check", "percentile", "places"]

"""What can go wrong with a queue, one class per cause.

::

    PsmqError
    ├── InvalidQueueName      (ValueError)       the name breaks the alphabet or the length
    ├── InvalidOption         (ValueError)       an argument is out of range or of the wrong type
    ├── QueueNotFound         (LookupError)      no such queue, or it was deleted
    ├── QueueExists                              create_queue() of a queue that is there
    ├── QueueConfigConflict                      get_queue() with fields that differ from the stored ones
    ├── QueueFull                                max_length reached
    ├── ServerFull                               the server's maxmemory reached; draining still works
    │   └── DiskFull                             its disk takes nothing, and so it changes nothing until that does
    ├── MessageTooLarge       (ValueError)       data + metadata over max_size
    ├── NotSerializable       (TypeError)        not bytes, or the serializer raised
    ├── DeserializationError  (ValueError)       the deserializer raised; the lease is untouched
    ├── ReceiptExpired                           the message was delivered to someone else, or settled
    ├── NotLeased                                a verb of a message that came from peek, pop or a listing
    ├── MessageNotFound       (LookupError)      no message with that id in that state
    ├── ServerUnreachable     (ConnectionError)  nothing was sent, or nothing was done
    ├── OutcomeUnknown        (ConnectionError)  sent, but no answer came within the deadline
    │   └── NotReplicated                        stored, but fewer replicas have it than durability demands
    └── ServerUnsuitable                         reachable, but not fit to keep messages

An error that the server answers starts with the class's ``code``; the words after it are the class's fields.
All of them pickle, and say what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class PsmqError(Exception):
    """The root: everything that psmq raises on purpose."""

    code: ClassVar[str] = "PSMQ_ERROR"

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:
        """The error that the server's answer ``<code> <detail>`` about this queue means."""
        return cls(f"queue {queue_name!r}: {detail}" if detail else f"queue {queue_name!r}: {cls.code}")


class _AboutQueue(PsmqError):
    """An error whose only field is the queue's name."""

    _text: ClassVar[str]

    def __init__(self, queue_name: str) -> None:
        super().__init__(queue_name)
        self.queue_name = queue_name

    def __str__(self) -> str:
        return self._text.format(name=self.queue_name)

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:  # noqa: ARG003  # the name says it all
        return cls(queue_name)


class InvalidQueueName(PsmqError, ValueError):
    code = "PSMQ_INVALID_QUEUE_NAME"

    def __init__(self, name: object, what: str = "queue name") -> None:
        super().__init__(name, what)
        self.name = name
        #: what it was to be: a queue name, a namespace
        self.what = what

    def __str__(self) -> str:
        shown = repr(self.name)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return f"{shown} is no {self.what}: use 1 to 160 of A-Z a-z 0-9 . _ -"

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:  # noqa: ARG003  # the name says it all
        return cls(queue_name)


class InvalidOption(PsmqError, ValueError):
    """``option`` is the argument's name, ``problem`` what is wrong with its value."""

    code = "PSMQ_INVALID_OPTION"

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(option, problem)
        self.option = option
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.option} {self.problem}"

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:  # noqa: ARG003  # options name themselves
        option, _, problem = detail.partition(" ")
        return cls(option, problem)


class QueueNotFound(_AboutQueue, LookupError):
    code = "PSMQ_QUEUE_NOT_FOUND"
    _text = "queue {name!r} does not exist; get_queue({name!r}) creates it"


class QueueExists(_AboutQueue):
    code = "PSMQ_QUEUE_EXISTS"
    _text = "queue {name!r} exists already; get_queue({name!r}) opens it"


#: settings that the server keeps in milliseconds, and callers give in seconds
_DURATIONS = ("visibility_timeout", "delay", "ttl", "dead_retention", "deduplication_window")


class QueueConfigConflict(PsmqError):
    """``field`` is stored as ``stored`` and was asked for as ``asked``: durations in seconds, "none" for None."""

    code = "PSMQ_QUEUE_CONFIG_CONFLICT"

    def __init__(self, queue_name: str, field: str, stored: str, asked: str) -> None:
        super().__init__(queue_name, field, stored, asked)
        self.queue_name = queue_name
        self.field = field
        self.stored = stored
        self.asked = asked

    def __str__(self) -> str:
        unit = " s" if self.field in _DURATIONS else ""
        stored, asked = (text if text == "none" else text + unit for text in (self.stored, self.asked))
        return (
            f"queue {self.queue_name!r} has {self.field}={stored}, not {asked}; "
            f"queue.configure({self.field}=...) changes it, leaving {self.field} out keeps it"
        )

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:
        field, stored, asked = [*detail.split(" "), "", "", ""][:3]
        if field in _DURATIONS:
            stored, asked = (f"{int(text) / 1000:.15g}" if text.isdigit() else text for text in (stored, asked))
        return cls(queue_name, field, stored, asked)


class QueueFull(PsmqError):
    code = "PSMQ_QUEUE_FULL"

    def __init__(self, queue_name: str, max_length: int) -> None:
        super().__init__(queue_name, max_length)
        self.queue_name = queue_name
        self.max_length = max_length

    def __str__(self) -> str:
        return (
            f"queue {self.queue_name!r} holds its max_length of {self.max_length} messages and nothing was stored; "
            "push again later, or raise it with queue.configure(max_length=...)"
        )

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:
        return cls(queue_name, int(detail or 0))


class ServerFull(_AboutQueue):
    code = "PSMQ_SERVER_FULL"
    _text = (
        "the server has reached its maxmemory: nothing was stored in queue {name!r}; "
        "consumers can go on, or raise maxmemory"
    )


class DiskFull(ServerFull):
    _text = (
        "the server cannot write to its disk: it changes nothing in queue {name!r}, or any other, until it can; "
        "make space there"
    )


class MessageTooLarge(PsmqError, ValueError):
    """``size`` is data plus metadata in bytes, ``max_size`` the queue's limit."""

    code = "PSMQ_MESSAGE_TOO_LARGE"

    def __init__(self, queue_name: str, size: int, max_size: int) -> None:
        super().__init__(queue_name, size, max_size)
        self.queue_name = queue_name
        self.size = size
        self.max_size = max_size

    def __str__(self) -> str:
        return (
            f"a message of {self.size} bytes does not fit into queue {self.queue_name!r} (max_size {self.max_size}); "
            "store the data elsewhere and push a reference, or configure(max_size=...)"
        )

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:
        size, _, limit = detail.partition(" ")
        return cls(queue_name, int(size or 0), int(limit or 0))


class NotSerializable(PsmqError, TypeError):
    code = "PSMQ_NOT_SERIALIZABLE"


class DeserializationError(PsmqError, ValueError):
    code = "PSMQ_DESERIALIZATION"


class ReceiptExpired(PsmqError):
    """The receipt is not the message's latest, or the message is gone. Nothing was changed."""

    code = "PSMQ_RECEIPT_EXPIRED"

    def __init__(self, queue_name: str, message_id: str) -> None:
        super().__init__(queue_name, message_id)
        self.queue_name = queue_name
        self.message_id = message_id

    def __str__(self) -> str:
        return (
            f"the receipt for message {self.message_id} of queue {self.queue_name!r} has expired: "
            "the message was delivered again or settled meanwhile (who needs longer extends it in time), "
            "and nothing was changed"
        )


class NotLeased(PsmqError):
    code = "PSMQ_NOT_LEASED"

    def __init__(self, message_id: str) -> None:
        super().__init__(message_id)
        self.message_id = message_id

    def __str__(self) -> str:
        return f"message {self.message_id} is not held by you: only get() gives a message that can be settled"


class MessageNotFound(PsmqError, LookupError):
    code = "PSMQ_MESSAGE_NOT_FOUND"

    def __init__(self, queue_name: str, message_id: str, state: str) -> None:
        super().__init__(queue_name, message_id, state)
        self.queue_name = queue_name
        self.message_id = message_id
        self.state = state

    def __str__(self) -> str:
        return (
            f"queue {self.queue_name!r} has no {self.state} message {self.message_id}; "
            "queue.trace(id), or psmq trace ID, tells where it is"
        )

    @classmethod
    def from_wire(cls, queue_name: str, detail: str) -> PsmqError:
        message_id, _, state = detail.partition(" ")
        return cls(queue_name, message_id, state)


class ServerUnreachable(PsmqError, ConnectionError):
    """The server could not be reached; what was asked for has not been done."""

    code = "PSMQ_SERVER_UNREACHABLE"


class OutcomeUnknown(PsmqError, ConnectionError):
    """The command was sent and no answer came within the deadline: it may or may not have been done."""

    code = "PSMQ_OUTCOME_UNKNOWN"


class NotReplicated(OutcomeUnknown):
    """A push is stored, but only ``replicas`` of the ``wanted`` replicas said in time that they have it."""

    code = "PSMQ_NOT_REPLICATED"

    def __init__(self, server: str, replicas: int, wanted: int) -> None:
        super().__init__(server, replicas, wanted)
        self.server = server
        self.replicas = replicas
        self.wanted = wanted

    def __str__(self) -> str:
        return (
            f"{self.server}: stored, but only {self.replicas} of {self.wanted} replicas have it, and a failover now "
            "would lose it; with a deduplication_id it can be pushed again"
        )


class ServerUnsuitable(PsmqError):
    """The server answers, but messages would not be safe on it or its commands are missing; says what to change."""

    code = "PSMQ_SERVER_UNSUITABLE"

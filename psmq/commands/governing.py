"""The queue as a thing: made, configured, paused, deleted."""

from __future__ import annotations

from psmq.commands.request import Address, Command, fields
from psmq.config import QueueConfig


def create_queue(
    address: Address, config: QueueConfig, explicit: frozenset[str], *, must_be_new: bool
) -> Command[QueueConfig]:
    """Make or open a queue: ``explicit`` fields must agree with a stored one, the others are for a new one."""
    wire = config.wire()
    ordered = sorted(wire, key=lambda name: name not in explicit)
    args: list[bytes | str | int] = ["create" if must_be_new else "ensure", len(explicit)]
    for name in ordered:
        args += (name, wire[name])
    return Command(
        "create_queue", address, args, lambda reply: QueueConfig.from_wire(fields(reply[1:])), numbered=False
    )


def configure(address: Address, config: QueueConfig, explicit: frozenset[str]) -> Command[QueueConfig]:
    """Change the explicit fields. → the whole config"""
    args = [word for pair in config.wire(explicit).items() for word in pair]
    return Command("configure", address, args, lambda reply: QueueConfig.from_wire(fields(reply)), numbered=False)


def pause(address: Address, *, paused: bool) -> Command[int]:
    """Stop or resume deliveries; pushes and settlements go on."""
    return Command("pause", address, (int(paused),), int, numbered=False)


def wake(address: Address) -> Command[int]:
    """Let a waiting getter look again."""
    return Command("wake", address, (), int, numbered=False)


def delete_queue(address: Address, *, begin: bool) -> Command[int]:
    """Mark a queue as going and remove its keys. → results left; repeated until 0, without ``begin``"""
    return Command("delete_queue", address, (int(begin),), int, numbered=False)


def forget_queue(address: Address) -> Command[int]:
    """The last step of deleting, after the name has left the registry. → 0 when the queue was made anew meanwhile"""
    return Command("forget_queue", address, (), int, numbered=False)


def set_aside(namespace: str, key: str) -> Command[int]:
    """A key that should be a set of names, and is none, gets another name. → 0 when it is one by now"""
    # of the same slot as the key, which has no braces
    address = Address(key, key, f"{namespace}:never:{{{key}}}")
    return Command("set_aside", address, (f"{namespace}:garbage:{{{key}}}",), int, numbered=False)

"""``psmq``: look and mend."""

from __future__ import annotations

import click

from psmq_tasks.cli import dead_editing, dead_mending  # noqa: F401  # they add to the group dead
from psmq_tasks.cli.dead_commands import dead
from psmq_tasks.cli.doctor_command import doctor
from psmq_tasks.cli.message_commands import get, purge, push
from psmq_tasks.cli.queue_commands import pause, peek, queues, resume
from psmq_tasks.cli.retry_commands import retries
from psmq_tasks.cli.running import Group, version_option
from psmq_tasks.cli.sentinel_commands import check, sentinel
from psmq_tasks.cli.server_commands import server
from psmq_tasks.cli.setup_commands import configure, delete_queue
from psmq_tasks.cli.top_command import top
from psmq_tasks.cli.torture_command import torture
from psmq_tasks.cli.trace_command import trace
from psmq_tasks.cli.watch_commands import stats, workers

__all__ = ["psmq"]

_EPILOG = """\b
Exit status: 0 done, 1 failed, 2 usage, 3 no server, 4 no such queue or
message. Every option has an environment variable: --limit of psmq dead
list is PSMQ_DEAD_LIST_LIMIT."""


@click.group(
    cls=Group,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@version_option("psmq")
def psmq() -> None:
    """Look into psmq's queues, and mend what went wrong."""


_COMMANDS = (
    *(queues, workers, stats, top, check, doctor, sentinel),
    *(peek, retries, dead, trace),
    *(push, get, pause, resume, purge, configure, delete_queue),
    *(server, torture),
)
for _command in _COMMANDS:
    psmq.add_command(_command)


@psmq.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.argument("command", type=click.Choice(["psmq", "psmq-worker"]), default="psmq")
def completion(shell: str, command: str) -> None:
    """Print the completion script of SHELL.

    COMMAND is psmq (the default) or psmq-worker.

    \b
    bash:  psmq completion bash > ~/.local/share/bash-completion/completions/psmq
    zsh:   psmq completion zsh > "${fpath[1]}/_psmq"
    fish:  psmq completion fish > ~/.config/fish/completions/psmq.fish

    \b
    And so for psmq-worker, into a file of its own beside that:
    psmq completion bash psmq-worker > .../completions/psmq-worker
    """  # noqa: D301  # click wants the character itself
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    # The script knows no more of a command than its name.
    click.echo(found(psmq, {}, command, f"_{command}_COMPLETE".replace("-", "_").upper()).source())


def _name_variables(command: click.Command, prefix: str) -> None:
    """Every option can be set by a variable that is named as the option is, and not as its Python parameter."""
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None and not option.is_eager:
            long = max(option.opts, key=len)
            option.envvar = f"{prefix}_{long.lstrip('-')}".replace("-", "_").upper()
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            _name_variables(one, f"{prefix}_{name}")


_name_variables(psmq, "PSMQ")

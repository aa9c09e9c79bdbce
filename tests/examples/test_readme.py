"""Every block of the README that can be run is run, in its order, as a newcomer would: by one user, in one folder.

```python        a program, run in a process of its own; one that begins with `# name.py` is saved under that name
```text          after a program: what it shows
```console       what is typed and shown in terminals; psmq-worker goes on in the background
```sh            for people: needs a network or a server. The two lines at the top are what .ci/run and the census test run
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib

from desk import EXAMPLES, matches, transcript
from support import ROOT, wait_until

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

#: the end of a message's id, as tables show it
TAIL = re.compile(r"\b(?=[0-9a-z]*\d)(?=[0-9a-z]*[a-z])[0-9a-z]{8}\b")


def test_each_block_does_what_the_readme_shows(desk):
    """Programs, terminals and their output, from the first line to the last."""
    desk.environment["COLUMNS"] = "120"
    for name in re.findall(r"^\s*(?:from|import) (\w+)\.", README, re.MULTILINE):
        assert name in ("psmq", "psmq_tasks"), "a block imports what no block saves"
    ids: dict[str, str] = {}
    following = [*BLOCKS[1:], ("", "")]
    for number, ((kind, text), (next_kind, next_text)) in enumerate(zip(BLOCKS, following, strict=True)):
        if kind == "console":
            type_in(desk, text, ids)
        elif kind == "python":
            saved = re.match(r"# (\w+\.py)\n", text)
            name = saved[1] if saved else f"block{number}.py"
            (desk.folder / name).write_text(text)
            if not saved:
                shown = desk.run(f"python {name}")
                expected = next_text if next_kind == "text" else ""
                assert matches(expected, shown), f"{text}\nshows\n{shown}\nnot\n{expected}{desk.said()}"
    wait_until(lambda: state_of(desk, "shop") == (0, 0, 0, 2), 10)
    desk.stop_workers()


def state_of(desk, queue):
    """What of it is ready, leased and dead, and how many are done."""
    (found,) = [one for one in json.loads(desk.run("psmq queues --json"))["queues"] if one["name"] == queue]
    return found["ready"], found["leased"], found["dead"], found["counters"]["deleted"]


def type_in(desk, text, ids):
    """The lines of one or more terminals. Numbers, times, hosts and ids differ from run to run; ids are learned."""
    for command, expected in transcript(text):
        typed = TAIL.sub(lambda found: ids[found[0]] if found[0] in ids else found[0], command)
        if typed.startswith("psmq-worker"):
            desk.start(typed)
            shown = desk.workers[-1][1].read_text() if expected else ""
        else:
            shown = desk.run(typed)
        found = re.fullmatch(pattern(expected), shown)
        assert found, f"$ {typed}\n{shown}\nis not\n{expected}{desk.said()}"
        ids |= dict(zip(dict.fromkeys(TAIL.findall(expected)), found.groups(), strict=True))


def pattern(expected):
    """`…` is anything, runs of spaces and numbers are like others, an id is what it is, but the same everywhere."""
    lines, seen = [], []
    for line in expected.strip("\n").splitlines() if expected else []:
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
            continue
        words = ""
        for part in re.findall(rf"\b1k0[0-9a-z]{{19}}\b|{TAIL.pattern}|\d[\d.:-]*| +|…|.", line.rstrip()):
            if TAIL.fullmatch(part):
                words += r"(\w{8})" if part not in seen else f"\\{seen.index(part) + 1}"
                seen += [part] if part not in seen else []
            elif len(part) == 22:
                words += r"\w{22}"
            elif part[0].isdigit():
                words += r"\d[\d.:-]*"
            elif part[0] == " ":
                words += " +"
            else:
                words += ".*" if part == "…" else re.escape(part)
        words = re.sub(r"\bvm:", r"[^ ]+:", words)
        lines.append(words + r" *\n")
    return "".join(lines)


def test_the_two_lines_at_the_top_are_single_lines():
    """Each does its whole set-up; the second is the one that .ci/run runs."""
    census, tests = [text for kind, text in BLOCKS if kind == "sh"][:2]
    for line, end in ((census, "examples/census.py\n"), (tests, "pytest -n 2\n")):
        assert line.startswith("python3 -m venv .venv && ")
        assert line.endswith(end)
        assert line.count("\n") == 1


def test_the_readme_names_every_environment_variable():
    """What the code reads is in the table, with the default that the command shows."""
    from psmq_tasks.cli import worker

    table = dict(re.findall(r"^\| `(PSMQ_\w+)` \| (.*?) \|", README, re.MULTILINE))
    sources = [path.read_text() for folder in ("psmq", "psmq_tasks") for path in (ROOT / folder).rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"(?:environ\S*|envvar=|is_on)[(\[]?[\"'](PSMQ_\w+)", text)}
    options = {option.name: option for option in worker.params if getattr(option, "show_envvar", False)}
    read |= {option.envvar or f"PSMQ_WORKER_{name.upper()}" for name, option in options.items()}
    assert set(table) == read
    for name, option in options.items():
        if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
            assert float(table[option.envvar or f"PSMQ_WORKER_{name.upper()}"].strip("`")) == option.default


def test_the_readme_names_every_setting_of_a_queue():
    """The table has the fields of QueueConfig, but the one for tests."""
    from dataclasses import fields

    from psmq import QueueConfig

    part = README.partition("| setting |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == [
        f.name for f in fields(QueueConfig) if f.name != "clock"
    ]


def test_the_readme_names_every_option_of_tasks_and_apps():
    """Those that the decorator and the constructor take; numbers and words as the code has them."""
    import inspect

    from psmq_tasks import TaskApp
    from psmq_tasks.metadata import ARGUMENTS_LENGTH
    from psmq_tasks.options import SendOptions, TaskOptions, TaskSettings
    from psmq_tasks.retry import DEFAULT_ATTEMPTS, DEFAULT_LONGEST_WAIT

    table = table_of("option of a task")
    assert set(table) == {"name", *TaskSettings.__annotations__}
    for name in ("priority", "codec", "unsigned", "show_arguments"):
        assert ast.literal_eval(table[name].strip("`")) == getattr(TaskOptions(), name)
    assert table["stop"] == f"`stop_after_attempt({DEFAULT_ATTEMPTS})`"
    assert table["wait"] == f"`wait_exponential_jitter(max={DEFAULT_LONGEST_WAIT:g})`"
    assert table["result_ttl"] == f"{TaskOptions().result_ttl:g} s"
    assert set(re.findall(r"up to (\d+) characters of the\s+arguments", README)) == {str(ARGUMENTS_LENGTH)}
    (using,) = re.findall(r"`using` takes `([^`]*)`", README)
    assert set(using.split()) == set(SendOptions.__annotations__)
    table = table_of("option of `TaskApp`")
    known = inspect.signature(TaskApp).parameters
    assert set(table) == set(known)
    for name in ("name", "namespace", "allow_unsigned"):
        assert ast.literal_eval(table[name].strip("`")) == known[name].default


def test_the_readme_names_every_event():
    """Those that the code tells of, with their fields but ``app``, which all have."""
    from psmq_tasks.events import EVENTS

    table = {name: ["app", *re.findall(r"\w+", fields)] for name, fields in table_of("event").items()}
    sources = [path.read_text() for path in (ROOT / "psmq_tasks").rglob("*.py")]
    told = {name for text in sources for name in re.findall(r"\bemit\(\"(\w+)\"", text)}
    assert table == {name: list(fields) for name, fields in EVENTS.items() if name in told}


def table_of(heading):
    """The second column of a table by the names in its first."""
    part = README.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.MULTILINE))


def test_counts_are_those_of_the_code():
    """Of what grows: the library's revision, the faults of the mutation gate, what goes in one trip, the examples."""
    from chaos.test_mutants import CLIENT, QUEUE, WORKER

    from psmq import commands, library

    assert re.findall(r"psmq_v1, revision (\d+)", README) == [str(library.revision())]
    assert re.findall(r"(\d+) faults are put", README) == [str(len([*QUEUE, *CLIENT, *WORKER]))]
    assert set(re.findall(r"(\d+) (?:ahead|in\s+one trip)", README)) == {str(commands.BATCH)}
    assert re.findall(r"\(settlements: (\d+)\)", README) == [str(commands.SETTLED)]
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r"\]\(examples/(\w+\.py)\)", README))


def test_links_lead_somewhere():
    """Files that are there, and come with the source distribution, and headings of this page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    headings = re.findall(r"^##+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target
            assert any(f"/{target}/".startswith(f"{place}/") for place in packed), target


def test_the_version_shown_is_ours():
    """The banner in the README is that of this version."""
    from psmq import __version__

    assert set(re.findall(r"psmq-worker (\d\S+),", README)) == {__version__}
    assert sys.version_info >= (3, 11)

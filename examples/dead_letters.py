"""What fails for good is kept: see why, mend the cause or the call, send it again.

    $ psmq-worker dead_letters.py           # in one terminal
    $ python dead_letters.py                # in another
    EUR: 108.0
    2 x KeyError
    dead after 1 attempt: dead_letters:to_dollars('…rates.json', 'CHF', 100)
      Traceback (most recent call last):
        File "…dead_letters.py", line …, in to_dollars
      …
      KeyError: 'CHF'
    1 redriven, with the rate that was missing
    CHF: 112.0
    CHF: 112.0

The same by hand: psmq dead list --group-by error, show ID, redrive ID, edit ID --set 'currency="CHF"' --redrive.
"""

import json
import tempfile
import textwrap
from pathlib import Path

from tenacity import retry_if_not_exception_type

from psmq_tasks import TaskApp, TaskHandle
from psmq_tasks.inspection import Calls, Filter, Inspector

app = TaskApp("exchange")


@app.task(retry=retry_if_not_exception_type(KeyError))  # a rate that is missing is missing again in a second
def to_dollars(rates: str, currency: str, amount: float) -> float:
    rate: float = json.loads(Path(rates).read_text())[currency]
    return round(rate * amount, 2)


def main(rates: Path) -> None:
    rates.write_text('{"EUR": 1.08}')
    euros, francs, wrong = (to_dollars.delay(str(rates), currency, 100) for currency in ("EUR", "CHF", "SFR"))
    print(f"EUR: {euros.result(timeout=30)}")
    francs.exception(timeout=30), wrong.exception(timeout=30)  # waits, too
    inspector = Inspector(app.manager)
    for group in inspector.group_dead(Filter(queue="exchange"), by="error"):
        print(f"{group.count} x {group.key}")
    letter = inspector.find(francs.id)
    print(f"dead after {letter.attempts} attempt: {letter.task}({letter.args})")
    print(textwrap.indent(letter.failures[-1].traceback.rstrip(), "  "))  # one record per attempt

    rates.write_text('{"EUR": 1.08, "CHF": 1.12}')
    print(f"{inspector.redrive_all(Filter(error='CHF')).done} redriven, with the rate that was missing")
    letter = inspector.find(wrong.id)
    inspector.amend(letter, Calls(app.keyring).change(letter, {"currency": "CHF"}), redrive=True)
    for sent in (francs, wrong):  # they keep their ids
        print(f"CHF: {TaskHandle(app, sent.id, 'exchange', to_dollars.name).result(timeout=30)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder, "rates.json"))

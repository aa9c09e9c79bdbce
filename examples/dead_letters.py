"""What fails for good is kept: see why, mend the cause, send it again.

    $ psmq-worker dead_letters.py           # in one terminal
    $ python dead_letters.py                # in another
    EUR: 108.0
    dead after 1 attempt: dead_letters:to_dollars('…rates.json', 'CHF', 100)
      Traceback (most recent call last):
        File "…dead_letters.py", line …, in to_dollars
      …
      KeyError: 'CHF'
    1 redriven, with the rate that was missing
    CHF: 112.0

The same by hand: psmq dead list, psmq dead show ID, psmq dead redrive ID.
"""

import json
import tempfile
import textwrap
from pathlib import Path

from tenacity import retry_if_not_exception_type

from psmq_tasks import TaskApp, TaskHandle
from psmq_tasks.inspection import Filter, Inspector

app = TaskApp("exchange")


@app.task(retry=retry_if_not_exception_type(KeyError))  # a rate that is missing is missing again in a second
def to_dollars(rates: str, currency: str, amount: float) -> float:
    rate: float = json.loads(Path(rates).read_text())[currency]
    return round(rate * amount, 2)


def main(rates: Path) -> None:
    rates.write_text('{"EUR": 1.08}')
    euros, francs = (to_dollars.delay(str(rates), currency, 100) for currency in ("EUR", "CHF"))
    print(f"EUR: {euros.result(timeout=30)}")
    francs.exception(timeout=30)  # waits, too

    inspector = Inspector(app.manager)
    for letter in inspector.dead(Filter(queue="exchange", task="to_dollars", error="CHF")):
        print(f"dead after {letter.attempts} attempt: {letter.task}({letter.args})")
        print(textwrap.indent(letter.failures[-1].traceback.rstrip(), "  "))  # one record per attempt

    rates.write_text('{"EUR": 1.08, "CHF": 1.12}')
    print(f"{inspector.redrive([('exchange', francs.id)]).done} redriven, with the rate that was missing")
    again: TaskHandle[float] = TaskHandle(app, francs.id, "exchange", to_dollars.name)  # it keeps its id
    print(f"CHF: {again.result(timeout=30)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder, "rates.json"))

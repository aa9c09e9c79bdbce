from common import main
from psmq_ import WORKERS, app, bulk_of, record

WORKERS = [["psmq_results_" if word == "psmq_" else word for word in command] for command in WORKERS]


@app.task(result_ttl=3600)
def kept(sent):
    record(sent)
    return sent


def send():
    main(kept.delay, bulk_of(kept))

"""Know it before your users do: rules about queues, each change said once.

    $ python alerts.py
    queue 'orders': ALERT 'orders: ready > 2': ready is 3
    queue 'orders': fine again 'orders: ready > 2': ready is 0

The same by hand: psmq check 'orders: ready > 2' looks once (exit status 1: broken), psmq sentinel 'orders: ready > 2'
goes on looking, and hands each change to a command as JSON: psmq sentinel 'dead_rate > 5/min' -c 'curl -d @- https://…'
"""

from psmq import QueueManager
from psmq.rules import Watch, rules_of, take_samples


def main(manager: QueueManager) -> None:
    watch = Watch(rules_of(["orders: ready > 2", "orders: oldest_age > 5m"]))
    orders = manager.get_queue("orders")

    for amount in (1, 2, 3):
        orders.push(str(amount).encode())
        for alert in watch.changes(take_samples(manager)):
            print(alert)

    while message := orders.get():
        orders.delete(message)
    for alert in watch.changes(take_samples(manager)):
        print(alert)


if __name__ == "__main__":
    with QueueManager.from_env() as manager:
        main(manager)

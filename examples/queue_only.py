"""psmq without tasks: a queue of bytes, with priorities, leases and dead letters. Needs no worker.

A message that was got is hidden, not gone: it comes again unless it is deleted.

    $ python queue_only.py
    got b'glass', priority 9
    got b'plates', delivery 1
    got b'plates', delivery 2: nobody had deleted it in time
    the receipt for message … has expired: … nothing was changed
    done; next comes b'broken'
    dead: b'broken', because the box was empty
    redriven and popped: b'broken'
"""

import time

from psmq import Delete, QueueManager
from psmq.errors import ReceiptExpired

with QueueManager() as manager:  # in memory; QueueManager(db_dir=…) keeps its data, QueueManager(url=…) uses a server
    boxes = manager.get_queue("boxes", visibility_timeout=0.2)
    boxes.push(b"plates")
    boxes.push(b"glass", priority=9)

    if glass := boxes.get():  # highest priority first, then oldest; hidden from others for 0.2 s
        print(f"got {glass.data!r}, priority {glass.priority}")
        glass.delete()  # done

    late = boxes.get()
    assert late is not None
    print(f"got {late.data!r}, delivery {late.retrieval_count}")
    time.sleep(0.25)  # too long; late.extend(60) would have kept it
    plates = boxes.get(wait=5)
    assert plates is not None
    print(f"got {plates.data!r}, delivery {plates.retrieval_count}: nobody had deleted it in time")
    try:
        late.delete()  # each delivery has a receipt of its own, and only the latest one counts
    except ReceiptExpired as error:
        print(error)

    boxes.push(b"broken")
    (word,), (broken,) = boxes.exchange([(plates, Delete())], limit=1)  # delete and get, in one trip
    print(f"{word}; next comes {broken.data!r}")

    broken.bury("the box was empty")
    (letter,) = boxes.dead_letters()
    print(f"dead: {letter.message.data!r}, because {letter.reason}")
    boxes.redrive([letter.message.message_id])
    if again := boxes.pop():  # got and deleted at once
        print(f"redriven and popped: {again.data!r}")

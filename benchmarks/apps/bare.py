"""Bare Celery with the same work: the yardstick."""

import os

from celery import Celery

app = Celery("bare", broker=os.environ["BARE_URL"], backend=os.environ["BARE_URL"])
app.conf.worker_prefetch_multiplier = 4


@app.task
def nothing(n):
    return n + 1

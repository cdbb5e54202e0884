"""Celery settings of this deployment, laid over avtomatika's own. Assignments only.

What avtomatika needs (pool, transport, late acknowledgement, JSON) is set in avtomatika/celery.py; broker and state come from
BROKER_URL and REDIS_URL.
"""

# Routes of plain Celery tasks that blueprints use as steps: a name matched here goes to its fleet's own queue.
task_routes = {}

"""What the application's tasks may do at once: slots of each worker process, and limits over all of them."""

SLOTS = {"cpu": 4, "gpu": 1}
LIMITS = {"api": 3}

"""A process whose wall clock is CLOCK_SHIFT seconds ahead, where this folder is on PYTHONPATH."""

import os
import time

_real, _shift = time.time, float(os.environ["CLOCK_SHIFT"])
time.time = lambda: _real() + _shift

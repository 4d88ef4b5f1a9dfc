"""Reads TensorBoard event files with TensorBoard's own reader and prints every scalar as JSON.

    python scripts/check_tensorboard.py FOLDER

The test suite compares the output with what it wrote. Without the tensorboard package it says so and
succeeds.
"""

import json
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    print("skipped: the Python package tensorboard is not installed")
    sys.exit(0)

accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
scalars = {
    tag: [[scalar.step, scalar.value] for scalar in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()["scalars"]
}
print(json.dumps(scalars, sort_keys=True))

"""Parts of run files whose stages take seconds, to be put together by the tests of whole runs."""

from __future__ import annotations

SPACE = """\
[space]
blocks = 2
strides = [2, 2]
ops = ["dw3", "ir2", "skip"]
channels = [16, 24]
"""
# Without the steps of the supernet, which go behind.
SEARCH = """\
[search]
batch_size = 16
validation_batch_size = 16
paths = 2
candidates = 4
ranking_images = 32
semifinalists = 2
semifinal_steps = 2
finalists = 1
proxy_steps = 2
threads = 1
"""
# Without `float_epochs`, which goes behind.
TRAIN = """\
[train]
qat_epochs = 1
batch_size = 32
threads = 1
calibration_batches = 2
"""

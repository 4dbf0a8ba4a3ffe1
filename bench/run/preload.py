"""What the fork server imports once, so that each child starts in milliseconds. Imports only, but for one signal.

No tensor may be computed and no CUDA call made here: children inherit thread pools without their threads and a CUDA
context that cannot be used after a fork, and would hang or fail in their first computation.
"""

# ruff: noqa: E402
import signal

# A Ctrl-C on the terminal reaches this process, too. Until it has imported everything, that would be a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

import diffusers  # noqa: F401
import sklearn.neighbors  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401
from diffusers import StableDiffusionPipeline  # noqa: F401

from bench.plugins import registry

registry.methods()

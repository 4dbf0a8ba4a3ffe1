"""What the parent of warm runs imports once. Imports and keys only: no tensor work may happen before the fork."""

# ruff: noqa: F401
import diffusers
import imblearn.over_sampling
import matplotlib.figure
import pytorch_grad_cam
import scipy.signal
import torchmetrics.functional.classification
import transformers

import bench.classifier
import bench.cli.main
import bench.cli.session
import bench.execute.inline
import bench.execute.preload
import bench.execute.processes
import bench.fidelity
import bench.labelled
import bench.pretrain.stages
import bench.progress
import bench.results
import bench.run
import bench.track
import bench.training
import methods.fusion.cams
import methods.fusion.iterate
import reports.paper_table
from bench.matrix import load_matrix
from tests.reliability.warm import MATRIX

diffusers.DDIMScheduler, diffusers.AutoencoderKL, diffusers.UNet2DConditionModel  # noqa: B018 - loads them
transformers.CLIPTextModel, transformers.CLIPTokenizer  # noqa: B018
# keys are worked out once, so that an edit of a source file while the suite runs does not change them half-way
for _cell in load_matrix(str(MATRIX)).cells:
    _cell.key  # noqa: B018

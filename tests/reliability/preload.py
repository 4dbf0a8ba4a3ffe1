"""What the parent of warm runs imports once. Imports and keys only: no tensor work may happen before the fork."""

# ruff: noqa: F401
import diffusers
import imblearn.over_sampling
import matplotlib.figure
import pytorch_grad_cam
import scipy.signal
import torchmetrics.functional.classification
import transformers

import bench.classifier.classifier
import bench.classifier.relabelled
import bench.classifier.training
import bench.cli.main
import bench.cli.session
import bench.evaluation.fidelity
import bench.pretrain.stages
import bench.results.cells
import bench.run.inline
import bench.run.preload
import bench.run.processes
import bench.run.progress
import bench.run.run_matrix
import bench.tracking.tracker
import methods.fusion.cams
import methods.fusion.iterated_learning
import reports.paper_table
from bench.matrix.load import load_matrix
from tests.reliability.warm import MATRIX

diffusers.DDIMScheduler, diffusers.AutoencoderKL, diffusers.UNet2DConditionModel  # noqa: B018 - loads them
transformers.CLIPTextModel, transformers.CLIPTokenizer  # noqa: B018
# keys are worked out once, so that an edit of a source file while the suite runs does not change them half-way
for _cell in load_matrix(str(MATRIX)).cells:
    _cell.key  # noqa: B018

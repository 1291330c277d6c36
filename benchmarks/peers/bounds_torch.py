"""The peer's side of `benchmarks.peers.bounds`: margins bounded by auto_LiRPA.

Run by an interpreter that has torch and auto_LiRPA (and numpy below 2 for its release 0.3); it
imports nothing of jaxadv.
usage: python -m benchmarks.peers.bounds_torch FOLDER EPSILON STEPS; weights.npz and data.npz are in
FOLDER.
Writes FOLDER/auto_LiRPA-NAME.npz: lower bounds [N, 9] of the margins, processor seconds an image.
"""

import importlib.metadata
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.onnx.symbolic_helper
from torch.onnx._globals import GLOBALS

from benchmarks.torch_common import load

# auto_LiRPA 0.3 asks torch for two things that are gone since 1.13.
torch.onnx.symbolic_helper._set_opset_version = lambda version: setattr(
    GLOBALS, "export_onnx_opset_version", version
)
if not hasattr(torch._C.Node, "__getitem__"):
    torch._C.Node.__getitem__ = lambda node, name: getattr(node, node.kindOf(name))(name)

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # noqa: E402


def main() -> None:
    folder, epsilon, steps = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    model, x, labels = load(folder)
    logits = model(x)
    classes = logits.shape[1]
    others = (labels[:, None] + torch.arange(1, classes)) % classes
    eye = torch.eye(classes)
    margins = eye[labels][:, None] - eye[others]
    version = importlib.metadata.version("auto_LiRPA")
    print(f"auto_LiRPA {version}, torch {torch.__version__}", flush=True)
    for name, method in (("CROWN", "CROWN"), ("optimised", "CROWN-Optimized")):
        best = np.inf
        for size in (1, len(x)):  # images at a time
            bounded = BoundedModule(model, x[:size], verbose=False)
            bounded.set_bound_opts({"optimize_bound_args": {"ob_iteration": steps}})
            begun, lower = time.process_time(), []
            for begin in range(0, len(x), size):
                part = x[begin : begin + size]
                ends = (part - epsilon).clamp(0, 1), (part + epsilon).clamp(0, 1)
                ball = PerturbationLpNorm(norm=np.inf, eps=epsilon, x_L=ends[0], x_U=ends[1])
                found = bounded.compute_bounds(
                    x=(BoundedTensor(part, ball),),
                    C=margins[begin : begin + size],
                    method=method,
                    bound_upper=False,
                )
                lower.append(found[0].detach().numpy())
            spent = (time.process_time() - begun) / len(x)
            if spent < best:
                best, every = spent, np.concatenate(lower)
        np.savez(
            folder / f"auto_LiRPA-{name}.npz",
            lower=every,
            seconds=best,
            logits=logits[:8].numpy(),
        )


if __name__ == "__main__":
    main()

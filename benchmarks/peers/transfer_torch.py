"""The peers' side of `benchmarks.peers.transfer`: the attacks of torchattacks.

Run by an interpreter that has torch and torchattacks; it imports nothing of jaxadv.
usage: python -m benchmarks.peers.transfer_torch FOLDER; settings.json, weights.npz and data.npz are
in FOLDER. Writes FOLDER/ATTACK.npz for each: the images that it made, and the seconds.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.torch_common import load, stand_in


def main() -> None:
    folder = Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    stand_in("torchvision", "torchvision.transforms", "requests", "tqdm")
    import torchattacks

    model, x, y = load(folder)
    schedule = {"eps": settings["epsilon"], "alpha": settings["step"], "steps": settings["steps"]}
    for name, (kind, given) in settings["attacks"].items():
        torch.manual_seed(settings["seed"])
        attack = getattr(torchattacks, kind)(model, **schedule, **given)
        begin = time.perf_counter()
        made = [attack(a, b).detach() for a, b in zip(x.split(100), y.split(100), strict=True)]
        seconds = time.perf_counter() - begin
        images = torch.cat(made).permute(0, 2, 3, 1).contiguous().numpy()
        np.savez(folder / f"{name}.npz", images=images, seconds=seconds)


if __name__ == "__main__":
    main()

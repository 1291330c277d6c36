"""pyautoattack's side of `benchmarks.quality.verdict`: its standard version on some images, once.

Run by an interpreter that has torch and pyautoattack; it imports nothing of jaxadv.
usage: python -m benchmarks.quality.verdict_torch FOLDER VERSION PART PARTS; weights.npz, data.npz
and settings.json are in FOLDER. Writes FOLDER/verdict-PART.json: which images are robust, passes,
seconds.
"""

import json
import sys
import time
from pathlib import Path

import torch
from pyautoattack import AutoAttack

from benchmarks.torch_common import Counting, load


def main() -> None:
    folder, version = Path(sys.argv[1]), sys.argv[2]
    part, parts = int(sys.argv[3]), int(sys.argv[4])
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    model, x, y = load(folder, slice(part, None, parts))
    order = torch.channels_last if settings["channels_last"] else torch.contiguous_format
    model = Counting(model).eval().to(memory_format=order)
    x = x.contiguous(memory_format=order)
    attack = AutoAttack(
        model,
        norm=settings["norm"],
        eps=settings["epsilon"],
        version=version,
        seed=settings["seed"],
    )
    model(x)
    model.counted.update(forward=0, backward=0)
    begin = time.perf_counter()
    found = attack.run_standard_evaluation(x, y, batch_size=250)
    seconds = time.perf_counter() - begin
    passes = dict(model.counted)
    adversarial = found[0] if isinstance(found, tuple) else found
    robust = (model(adversarial).argmax(1) == y).tolist()
    written = {"robust": robust, "seconds": seconds, "logits": model(x[:8]).tolist(), **passes}
    (folder / f"verdict-{part}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main()

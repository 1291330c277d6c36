"""The peer's side of `benchmarks.peers.training`: the same loop in torch.

Run by an interpreter that has torch; it imports nothing of jaxadv.
usage: python -m benchmarks.peers.training_torch BATCHES THREADS; for every line that it is sent it
takes BATCHES steps and prints the seconds.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


def main() -> None:
    batches, threads = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    net = nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(3136, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    ).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    images = torch.rand(64, 1, 28, 28).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (64,))

    def step() -> None:
        for p in net.parameters():
            p.requires_grad_(False)
        x = (images + torch.empty_like(images).uniform_(-0.3, 0.3)).clamp(0, 1)
        for _ in range(7):
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(F.cross_entropy(net(x), labels), x)
            x = x.detach() + 0.075 * slope.sign()
            x = torch.min(torch.max(x, images - 0.3), images + 0.3).clamp(0, 1)
        for p in net.parameters():
            p.requires_grad_(True)
        adam.zero_grad()
        F.cross_entropy(net(x.detach()), labels).backward()
        adam.step()

    step()
    print("ready", torch.__version__, flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(batches):
            step()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()

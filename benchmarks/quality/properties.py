"""`python -m benchmarks.quality.properties`: instances of the verification competition, decided.

For the instances of VNN-COMP 2022 in the shared data (JAXADV_SHARED, or ../shared) whose answer is
known ("sat": a counterexample was validated; "unsat": two tools or more proved that there is none),
`ja.prove_property` reads the network and the VNN-LIB file and answers within `--seconds` each,
compilation included; a later answer counts as none. A witness counts only if onnxruntime, too,
finds that it fulfils the property. A wrong answer: exit status 1. Each answer is printed as it
comes, and what `--store` holds is not done again.
"""

import collections
import json
import sys
import time
from pathlib import Path

import numpy as np

import jaxadv as ja
from benchmarks.common import SHARED, arguments, show
from benchmarks.quality.instances import Instance, read_instances, runs_in_onnxruntime

BUDGET = 10**6  # subproblems of a case: the seconds decide


def decide(instance: Instance, folder: Path, seconds: float) -> tuple[str, float, float]:
    """The answer, its seconds, and the mean number of subproblems of a case.

    "wrong witness" if onnxruntime does not confirm one.
    """
    begun = time.perf_counter()
    wanted = ja.read_vnnlib(folder / "vnnlib" / f"{instance.name}.gz")
    model = ja.from_onnx(instance.network, layout="NHWC")
    shape = runs_in_onnxruntime(instance.network).get_inputs()[0].shape[1:]
    found = ja.prove_property(
        model, wanted, tuple(shape), budget=BUDGET, seconds=seconds, arithmetic="real"
    )
    answer = found.answer
    if found.inputs is not None:
        inputs = found.inputs.astype(np.float64).ravel()
        inside = (inputs >= instance.lower).all() and (inputs <= instance.upper).all()
        run = runs_in_onnxruntime(instance.network)
        (entry,) = run.get_inputs()
        (logits,) = run.run(None, {entry.name: found.inputs.reshape(entry.shape)})[0]
        others = np.delete(logits, instance.label).max()
        answer = "sat" if inside and others >= logits[instance.label] else "wrong witness"
    parts = [proof.subproblems.mean() for proof in found.proofs]
    took = time.perf_counter() - begun
    late = took > seconds and answer in ("sat", "unsat")  # a step is not ended in its middle
    return "unknown" if late else answer, took, float(np.mean(parts)) if parts else 0.0


def main() -> None:
    parser = arguments(__doc__, names="of folders (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="for each instance")
    parser.add_argument("--networks", default="", help="only those whose name contains this")
    parser.add_argument("--store", type=Path, help="a JSON file of the answers so far")
    options = parser.parse_args()
    ja.use_cpu_cores()
    stored = {}
    if options.store is not None and options.store.is_file():
        stored = json.loads(options.store.read_text())
    table: dict[tuple[str, str], list[tuple[str, str, float]]] = collections.defaultdict(list)
    for folder in sorted((SHARED / "vnncomp").iterdir()):
        if options.names and folder.name not in options.names:
            continue
        for instance in read_instances(folder):
            network = instance.network.stem
            if instance.consensus not in ("sat", "unsat") or options.networks not in network:
                continue
            name = f"{network} {instance.name}"
            if name not in stored:
                stored[name] = decide(instance, folder, options.seconds)
                answer, took, parts = stored[name]
                print(f"{name}: {answer} ({instance.consensus}), {took:.1f} s, {parts:.0f}")
                sys.stdout.flush()
                if options.store is not None:
                    options.store.write_text(json.dumps(stored))
            table[folder.name, network].append((instance.consensus, *stored[name][:2]))
    rows, wrong = [], 0
    for (folder_name, network), answers in table.items():
        counts = []
        for known in ("sat", "unsat"):
            own = [answer for consensus, answer, _ in answers if consensus == known]
            counts.append(f"{own.count(known)}/{len(own)}")
            wrong += len(own) - own.count(known) - own.count("unknown")
        took = [seconds for _, _, seconds in answers]
        rows.append([folder_name, network, *counts, f"{np.median(took):.1f}", f"{sum(took):.0f}"])
    show(
        f"VNN-COMP instances decided within {options.seconds:g} s, {wrong} wrong",
        ["folder", "network", "sat", "unsat", "s (median)", "s (all)"],
        rows,
    )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()

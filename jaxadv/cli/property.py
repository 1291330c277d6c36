"""`jaxadv prove --property`: a property of the verification competition, VNN-LIB."""

import math
from pathlib import Path
from typing import Any

from jaxadv.cli.options import Proving
from jaxadv.cli.progress import Bars
from jaxadv.cli.run import command
from jaxadv.cli.subject import Subject
from jaxadv.core.files import write_atomically


def decide(
    subject: Subject,
    file: Path,
    proving: Proving,
    output: Path,
    json_file: Path | None,
    fresh: bool,
) -> None:
    """Decide a property of a network of ONNX, and print "sat" with a witness, "unsat" or "unknown".

    Args:
        subject: The options of the model; it must be an .onnx file.
        file: The property.
        proving: How it is proved.
        output: Folder of report.json, and of result.txt in the form of the competition.
        json_file: File of --json, or None.
        fresh: Whether to start over.

    Raises:
        ValueError: The model or the property has another form.
    """
    spec = str(subject.model or "")
    if not spec.endswith(".onnx"):
        raise ValueError(f"--property is for ONNX: pass --model net.onnx, not {spec!r}")
    with command(output, json_file, fresh=fresh, pages=False) as run:
        import jax

        import jaxadv as ja
        from jaxadv.cli.setting import forget
        from jaxadv.models.onnx.model import with_input_shape

        wanted = ja.read_vnnlib(file)
        model, shape = with_input_shape(spec, wanted.inputs)
        if fresh:
            forget(run.state)
        with Bars() as bars:
            decision = ja.prove_property(
                model,
                wanted,
                shape,
                effort=proving.effort,
                budget=proving.budget,
                seconds=math.inf if proving.seconds is None else proving.seconds,
                arithmetic=proving.arithmetic,
                attacks=proving.attacks,
                key=jax.random.key(subject.seed),
                store=run.state / "property",
                progress=bars.attack,
            )
        data: dict[str, Any] = {
            "model": Path(spec).stem,
            "property": file.name,
            "effort": proving.effort,
            "arithmetic": proving.arithmetic,
            "answer": decision.answer,
            "cases": len(wanted.cases),
            "subproblems": sum(int(proof.subproblems.sum()) for proof in decision.proofs),
            "seconds": sum(proof.cost.seconds for proof in decision.proofs),
        }
        for name, values in (("inputs", decision.inputs), ("outputs", decision.outputs)):
            data[name] = None if values is None else [float(value) for value in values]
        run.write(data)
        result = write_atomically(output / "result.txt", decision.text())
        run.print(decision.text().partition("\n")[0])
        run.print(f"result: {result}\ndata:   {output / 'report.json'}")

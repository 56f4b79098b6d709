"""sampling/cases.json: what HF transformers' warpers leave of fp32 logits, in generate()'s order, with probabilities.

Draws are such that no threshold falls within 1e-4 of a case's probabilities, where rounding would decide.
"""
import os

import torch
import transformers
from transformers.generation.logits_process import (LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper,
                                                    TopKLogitsWarper, TopPLogitsWarper)

from common import arguments, numpy_rng, write_json


def warpers(o):
    out = LogitsProcessorList()
    if o["temperature"] != 1.0:
        out.append(TemperatureLogitsWarper(o["temperature"]))
    if "top_k" in o:
        out.append(TopKLogitsWarper(o["top_k"]))
    if "top_p" in o:
        out.append(TopPLogitsWarper(o["top_p"]))
    if "min_p" in o:
        out.append(MinPLogitsWarper(o["min_p"]))
    return out


def decided(logits, o):
    """Whether a threshold a little lower or higher leaves the same tokens."""
    kept = None
    for change in (0.9999, 1.0, 1.0001):
        near = {k: min(v * change, 1.0) if k in ("top_p", "min_p") else v for k, v in o.items()}
        tokens = torch.isfinite(warpers(near)(None, logits)[0]).tolist()
        if kept is not None and tokens != kept:
            return False
        kept = tokens
    return True


def main():
    args = arguments(__doc__)
    spec, cases = args.spec["sampling"], []
    for number, o in enumerate(spec["options"]):
        for spread in spec["spreads"]:
            rng = numpy_rng(args.seed, "sampling", number, spread)
            while True:
                logits = torch.from_numpy(rng.normal(0, spread, (1, spec["vocabulary"])).astype("float32"))
                if decided(logits, o):
                    break
            probabilities = torch.softmax(warpers(o)(None, logits)[0].double(), -1).tolist()
            cases.append({"options": o, "logits": logits[0].tolist(),
                          "left": [[i, p] for i, p in enumerate(probabilities) if p > 0]})
            print(o, spread, len(cases[-1]["left"]), "tokens left")
    write_json(os.path.join(args.out, "sampling", "cases.json"), {"transformers": transformers.__version__, "cases": cases})


if __name__ == "__main__":
    main()

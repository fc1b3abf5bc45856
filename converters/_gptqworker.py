"""What quantizes, in a process of its own; its order comes as JSON on standard input."""

from __future__ import annotations

import json
import sys
from typing import Any


class _Heard:
    """gptqmodel calls it after each layer."""

    def layer_complete(self, *_: Any, **arguments: Any) -> None:
        if arguments.get("submodule_finalized"):
            print(f"\nedgekit: layer {arguments.get('layer_idx')}", flush=True)


def main() -> None:
    """Quantize and save; what goes wrong is told as Python does."""
    job = json.load(sys.stdin)
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    cuda = torch.cuda.is_available()
    awq = job["method"] == "awq"
    torch.manual_seed(0)
    config = QuantizeConfig(
        bits=job["bits"], group_size=job["group_size"], desc_act=job["act_order"], sym=job["symmetric"],
        method=METHOD.AWQ if awq else METHOD.GPTQ, format=FORMAT.GEMM if awq else FORMAT.GPTQ,
    )  # fmt: skip
    model = GPTQModel.load(job["checkpoint"], config, device="cuda:0" if cuda else "cpu")
    model.layer_callback = _Heard()
    data = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in job["sequences"]]
    # AWQ's own choice of a kernel to pack with asks for CUDA.
    packing = {"backend": BACKEND.AWQ_TORCH} if awq and not cuda else {}
    model.quantize(data, batch_size=1, **packing)
    model.save(job["out"])


if __name__ == "__main__":
    main()

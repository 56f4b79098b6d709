"""Loads an adapter directory with HF PEFT over a small Llama and compares every module's update with the factors in the file."""

import json
import os
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

directory, expected_file = sys.argv[1:]
expected = json.load(open(expected_file))
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=12,
                                    num_attention_heads=4, num_key_value_heads=2))
names = dict(base.named_modules())
model = PeftModel.from_pretrained(base, directory)
stored = load_file(os.path.join(directory, "adapter_model.safetensors"))
seen = {}
for name, layer in model.base_model.model.named_modules():
    if hasattr(layer, "lora_A") and "default" in layer.lora_A:
        assert layer.scaling["default"] == expected[name]["scaling"], (name, layer.scaling, expected[name])
        assert layer.r["default"] == expected[name]["rank"], (name, layer.r, expected[name])
        prefix = f"base_model.model.{name}."
        wanted = expected[name]["scaling"] * stored[prefix + "lora_B.weight"].double() @ stored[prefix + "lora_A.weight"].double()
        found = layer.get_delta_weight("default").double()
        assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6), name
        seen[name] = True
assert seen.keys() == expected.keys(), (sorted(seen), sorted(expected))
print("loaded", len(seen), "modules")

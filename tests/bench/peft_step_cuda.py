"""Peer baseline for the LoRA training step on a CUDA device: Hugging Face PEFT. Prints one line of JSON; the keys are those of
strata-bench train.

    python3 peft_step_cuda.py --shapes 8b|tinyllama|smollm2|gemma2 [--write DIR]
        [--rows 1 --seq 2048] [--dtype bf16|fp16] [--base-dtype nf4] [--lora bf16|fp32] [--dropout P] [--compile] [--checkpointing] [--steps 6] [--warmup 3]

Random weights of the named shapes (--write DIR writes them as a Hugging Face directory, for strata-bench, and ends).
A step is forward, backward, fused AdamW and zero_grad over random tokens; LoRA r=16 alpha=32 on all linear modules, base in
bfloat16 (or float16, without a scaler), or its linear modules but the head in bitsandbytes' NF4 with double quantisation.
tok_s is the median over the timed steps. Needs torch, transformers and peft, for NF4 bitsandbytes.
"""
import argparse
import json
import os
import statistics
import time

SHAPES = {
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, vocab_size=128256, rope_theta=500000.0, max_position_embeddings=8192),
    "tinyllama": dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
                      num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048),
    "smollm2": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                    num_key_value_heads=3, vocab_size=49152, rope_theta=100000.0, max_position_embeddings=8192,
                    tie_word_embeddings=True),
    "gemma2": dict(hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
                   num_key_value_heads=4, head_dim=256, vocab_size=256000, max_position_embeddings=8192,
                   query_pre_attn_scalar=256, sliding_window=4096),
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def since_exec():
    with open("/proc/self/stat") as f:
        ticks = int(f.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def quantise(model, compute_dtype):
    import torch
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        new = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=compute_dtype,
                                compress_statistics=True, quant_type="nf4", device="meta")
        new.weight = bnb.nn.Params4bit(module.weight.data.cpu(), requires_grad=False, compress_statistics=True,
                                       quant_type="nf4")
        device = module.weight.device
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new.to(device))
    model.is_loaded_in_4bit = True


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shapes", choices=list(SHAPES), required=True)
    p.add_argument("--write", help="a directory for the model's files; nothing is timed")
    p.add_argument("--rows", type=int, default=1)
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--lora", choices=["bf16", "fp32"], default="bf16", help="type of the adapters; PEFT's default is fp32")
    p.add_argument("--dtype", choices=["bf16", "fp16"], default="bf16")
    p.add_argument("--base-dtype", choices=["nf4"], help="default: as --dtype")
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--attn", help="default: sdpa, for Gemma 2 eager, which alone has its cap")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--device", default="cuda")
    a = p.parse_args()
    import torch
    import transformers

    torch.manual_seed(0)
    family = "Gemma2" if a.shapes == "gemma2" else "Llama"
    a.attn = a.attn or ("eager" if family == "Gemma2" else "sdpa")
    config = getattr(transformers, family + "Config")(attn_implementation=a.attn, **SHAPES[a.shapes])
    torch.set_default_dtype(torch.bfloat16 if a.dtype == "bf16" else torch.float16)
    with torch.device("meta"):
        model = getattr(transformers, family + "ForCausalLM")(config)
    torch.set_default_dtype(torch.float32)
    model = model.to_empty(device=a.device)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.fill_(0 if family == "Gemma2" else 1) if "norm" in name else value.normal_(0, 0.02)
        model.tie_weights()
        rotary = model.model.rotary_emb
        with torch.device(a.device):
            fresh = type(rotary)(config)
        rotary.inv_freq = fresh.inv_freq
        if hasattr(rotary, "original_inv_freq"):
            rotary.original_inv_freq = fresh.inv_freq
    if a.write:
        model.save_pretrained(a.write)
        print(json.dumps({"bench": "write", "shapes": a.shapes}))
        return
    from peft import LoraConfig, get_peft_model

    model.config.use_cache = False
    if a.base_dtype:
        quantise(model, model.dtype)
    if a.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=a.dropout, target_modules=MODULES,
                                             task_type="CAUSAL_LM"),
                           autocast_adapter_dtype=a.lora == "fp32")
    model.train()
    trained = [q for q in model.parameters() if q.requires_grad]
    if a.base_dtype and a.lora == "bf16":  # over quantised weights PEFT leaves them in fp32
        for q in trained:
            q.data = q.data.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0, fused=True)
    net = torch.compile(model) if a.compile else model
    generator = torch.Generator().manual_seed(0)
    cuda = a.device == "cuda"
    seconds, losses, first = [], [], 0.0
    for step in range(a.warmup + a.steps):
        ids = torch.randint(3, config.vocab_size, (a.rows, a.seq), generator=generator).to(a.device)
        if cuda:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        loss = net(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(round(loss.item(), 4))
        if cuda:
            torch.cuda.synchronize()
        if step == 0:
            first = since_exec()
        if step >= a.warmup:
            seconds.append(time.perf_counter() - begin)
    took = statistics.median(seconds)
    print(json.dumps({
        "bench": "peft_step_cuda", "shapes": a.shapes, "dtype": a.dtype, "base_dtype": a.base_dtype or a.dtype,
        "dropout": a.dropout, "lora": a.lora, "compile": a.compile, "attn": a.attn, "checkpointing": a.checkpointing,
        "batch": a.rows, "seq": a.seq,
        "ms_step": round(took * 1e3, 2), "tok_s": round(a.rows * a.seq / took, 1), "first_step_s": round(first, 2),
        "peak_device_mb": torch.cuda.max_memory_allocated() >> 20 if cuda else None,
        "trainable": sum(q.numel() for q in trained), "losses": losses,
    }))


if __name__ == "__main__":
    main()

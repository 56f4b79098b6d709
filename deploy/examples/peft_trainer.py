#!/usr/bin/env python3
"""Trains a site's adapter with Hugging Face PEFT, in place of Strata's own trainer.

In client.yaml:

    trainer: {command: [python3, deploy/examples/peft_trainer.py]}

Takes the arguments of `strata-client train` and --base-adapter, --eval-data, --eval-only (client/train/command_trainer.h
says what they mean). Needs torch, transformers, peft and PyYAML. The model is an HF directory or org/name; adapt this
script freely, it runs with the site's own rights on the site's own data.
"""
import argparse
import json
import os
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
import transformers
import yaml


def say(**fields):
    print(json.dumps(fields), flush=True)


def read_rows(path, tokenizer, max_length):
    """(ids, labels) of each row; -100 = no target."""
    eos = tokenizer.eos_token_id if tokenizer is not None else None
    rows = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            row = json.loads(line)
            if "input_ids" in row:
                ids = list(row["input_ids"])
                labels = list(row.get("labels", ids))
            elif "prompt" in row:
                prompt = tokenizer(row["prompt"])["input_ids"]
                ids = prompt + tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
                ids += [eos] if eos is not None else []
                labels = [-100] * len(prompt) + ids[len(prompt):]
            else:
                ids = tokenizer(row["text"])["input_ids"]
                if eos is not None and (not ids or ids[-1] != eos):
                    ids.append(eos)
                labels = list(ids)
            ids, labels = ids[:max_length], labels[:max_length]
            if any(label != -100 for label in labels[1:]):
                rows.append((ids, labels))
    return rows


def make_batch(rows, device):
    """Pads on the right. The first token of a row is never a target, as the loss shifts the labels."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, (row_ids, row_labels) in enumerate(rows):
        ids[i, :len(row_ids)] = torch.tensor(row_ids)
        labels[i, :len(row_labels)] = torch.tensor(row_labels)
        mask[i, :len(row_ids)] = 1
    return ids.to(device), labels.to(device), mask.to(device)


def loss_sum(model, rows, device):
    """Negative log-likelihood summed over the targets, and their number."""
    ids, labels, mask = make_batch(rows, device)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    targets = labels[:, 1:]
    total = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1),
                                              ignore_index=-100, reduction="sum")
    return total, int((targets != -100).sum())


@torch.no_grad()
def evaluate(model, rows, batch_size, device, when):
    model.eval()
    total, count = 0.0, 0
    for i in range(0, len(rows), batch_size):
        loss, targets = loss_sum(model, rows[i:i + batch_size], device)
        total, count = total + float(loss), count + targets
    if count:
        say(eval=when, loss=total / count, tokens=count)


def lora_config(adapter):
    def selector(key):
        value = adapter.get(key)
        return "all-linear" if value in ("all-linear", ["all-linear"]) else value
    return peft.LoraConfig(
        task_type="CAUSAL_LM", r=adapter.get("rank", 8), lora_alpha=adapter.get("alpha", 8),
        target_modules=selector("target_modules") or "all-linear", exclude_modules=selector("exclude_modules") or None,
        layers_to_transform=adapter.get("layers_to_transform") or None, rank_pattern=adapter.get("rank_pattern") or {},
        alpha_pattern=adapter.get("alpha_pattern") or {}, use_rslora=bool(adapter.get("use_rslora")),
        lora_dropout=float(adapter.get("dropout") or 0))


def build_model(args, config, device):
    """The base with C_t frozen as adapter "base" and a fresh trainable adapter "default", both active."""
    dtype = torch.bfloat16 if config.get("dtype") == "bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(device)
    model = peft.get_peft_model(model, lora_config(config.get("adapter") or {}), autocast_adapter_dtype=True)
    active = ["default"]
    if args.base_adapter:
        model.load_adapter(args.base_adapter, adapter_name="base")
        active = ["base", "default"]
    model.base_model.set_adapter(active)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".default." in name
    return model


def batches(rows, config, seed):
    """Rows of each step: epoch after epoch, shuffled unless told otherwise."""
    size = config.get("batch_size", 8) * config.get("gradient_accumulation_steps", 1)
    generator = torch.Generator().manual_seed(seed)
    per_epoch = -(-len(rows) // size)
    steps = config["steps"] if config.get("steps") is not None else max(1, round(config.get("epochs", 3) * per_epoch))
    done = 0
    while done < steps:
        order = torch.randperm(len(rows), generator=generator) if config.get("shuffle", True) else range(len(rows))
        order = [int(i) for i in order]
        for i in range(0, len(order), size):
            if done == steps:
                return
            done += 1
            yield done, steps, [rows[j] for j in order[i:i + size]]


def train(model, rows, config, device):
    optimizer_config = config.get("optimizer") or {}
    trainable = [p for p in model.parameters() if p.requires_grad]
    # PyYAML reads 1e-08 as a string (it wants 1.0e-8), hence float().
    optimizer = torch.optim.AdamW(trainable, lr=float(optimizer_config.get("learning_rate", 5e-5)),
                                  betas=tuple(float(b) for b in optimizer_config.get("betas") or (0.9, 0.999)),
                                  eps=float(optimizer_config.get("epsilon", 1e-8)),
                                  weight_decay=float(optimizer_config.get("weight_decay", 0)))
    clip = float(optimizer_config.get("max_grad_norm", 1))
    scheduler = None
    speeds = []
    model.train()
    for step, steps, batch in batches(rows, config, config.get("seed", 42)):
        if scheduler is None:
            scheduler = transformers.get_scheduler(optimizer_config.get("schedule", "linear"), optimizer,
                                                   optimizer_config.get("warmup_steps", 0), steps)
        start = time.monotonic()
        # The mean is over the whole step's targets, however it is cut up.
        targets = max(sum(label != -100 for _, labels in batch for label in labels[1:]), 1)
        loss = 0.0
        for i in range(0, len(batch), config.get("batch_size", 8)):
            part = loss_sum(model, batch[i:i + config.get("batch_size", 8)], device)[0] / targets
            part.backward()
            loss += float(part.detach())
        norm = torch.nn.utils.clip_grad_norm_(trainable, clip if clip else float("inf"))
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        tokens = sum(len(ids) for ids, _ in batch)
        speeds.append(tokens / (time.monotonic() - start))
        say(step=step, loss=loss, grad_norm=float(norm.detach()), learning_rate=rate, tokens=tokens)
    return statistics.median(speeds[1:] or speeds or [0.0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--config")
    parser.add_argument("--base-adapter")
    parser.add_argument("--eval-data")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--format", default="json", choices=["json", "text"])
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    start = time.monotonic()
    config = {}
    if args.config:
        with open(args.config, encoding="utf-8") as file:
            config = yaml.safe_load(file) or {}
    if args.threads:
        torch.set_num_threads(args.threads)
    device = config.get("device", "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.get("seed", 42) % 2**63)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    model = build_model(args, config, device)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    except (OSError, ValueError):
        tokenizer = None  # enough for rows of input_ids
    max_length = config.get("max_length", 1024)
    held_out = read_rows(args.eval_data, tokenizer, max_length) if args.eval_data else []
    evaluate(model, held_out, config.get("batch_size", 8), device, "before")
    speed, rows = 0.0, []
    if not args.eval_only:
        rows = read_rows(args.data, tokenizer, max_length)
        if not rows:
            raise SystemExit(f"{args.data}: no row with a target")
        speed = train(model, rows, config, device)
        evaluate(model, held_out, config.get("batch_size", 8), device, "after")
        model.save_pretrained(args.out, selected_adapters=["default"])
    say(done=True, tokens_per_second=speed, seconds=time.monotonic() - start, num_examples=len(rows))


if __name__ == "__main__":
    main()

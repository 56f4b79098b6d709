#!/usr/bin/env python3
"""Turns the manual pages of one language into the demo's rows: {"text", "page"}, one JSON object a line.

Pages are rendered to plain text, and split by a hash of their name into train (90 %), dev and test (5 % each); dev serves to
choose learning rates, test to report. What repeats is removed, so that held-out text was never trained on:
  - sections that every page carries (copyright, reporting bugs, authors, see also, colophon of the translation);
  - paragraphs that were left in English (an eighth of their words are English function words);
  - a paragraph whose normalised form was seen before, in any page;
  - a held-out paragraph that shares a fifth or more of its runs of 8 words with the training text.
Same packages, same bytes. Standard library only; needs groff.
"""
import argparse
import concurrent.futures
import glob
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys

BOILERPLATE = re.compile(
    r"copyright|lizenz|licen[cs]|fehler melden|bug|signaler|informar|autor|auteur|siehe auch|voir aussi|v[eé]ase|"
    r"übersetzung|traduc|kolophon|colophon|colof[oó]n|maintainer|betreuer|reporting", re.IGNORECASE)
ENGLISH = frozenset("the of and to is for with that be this are as it or by not from which if when you can".split())
OVERSTRIKE = re.compile(".\b")
ESCAPE = re.compile("\x1b\\[[0-9;]*m")


def render(path):
    with gzip.open(path, "rb") as f:
        source = f.read()
    if source.lstrip().startswith(b".so "):
        return ""
    run = subprocess.run(["groff", "-man", "-Tutf8", "-Kutf8", "-t", "-rHY=0", "-rLL=120n", "-P-c"], input=source,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    text = run.stdout.decode("utf-8", "replace")
    return ESCAPE.sub("", OVERSTRIKE.sub("", text))


def paragraphs(text):
    """Flowing paragraphs of the page, without headings, header and footer lines and boilerplate sections."""
    skip, block = False, []
    for line in text.split("\n") + [""]:
        bare = line.strip()
        if bare and not line.startswith(" "):
            skip = bool(BOILERPLATE.search(bare))
            continue
        if bare:
            block.append(bare)
            continue
        joined = re.sub(r"\s+", " ", " ".join(block)).replace("\u2010 ", "")
        block = []
        if not skip and len(joined) >= 120 and sum(c.isalpha() for c in joined) >= 0.7 * len(joined):
            yield joined


def words(paragraph):
    return re.findall(r"[^\W\d_]+", paragraph.lower())


def shingles(tokens):
    return {hash_text(" ".join(tokens[i:i + 8])) for i in range(max(1, len(tokens) - 7))}


def hash_text(text):
    return hashlib.sha256(text.encode()).digest()[:8]


def part_of(page):
    bucket = hashlib.sha256(("split:" + page).encode()).digest()[0] * 100 // 256
    return "train" if bucket < 90 else "dev" if bucket < 95 else "test"


def rows(items, page, limit):
    """Paragraphs joined to rows of at most `limit` characters."""
    text = ""
    for item in items:
        if text and len(text) + 1 + len(item) > limit:
            yield {"text": text, "page": page}
            text = ""
        text = (text + "\n" + item).strip()[:limit]
    if len(text) >= limit // 3:
        yield {"text": text, "page": page}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pages", required=True, help="folder with man1, man5, .. of one language")
    p.add_argument("--out", required=True, help="folder for train.jsonl, dev.jsonl and test.jsonl")
    p.add_argument("--train-bytes", type=int, default=120_000)
    p.add_argument("--dev-bytes", type=int, default=6_000)
    p.add_argument("--test-bytes", type=int, default=12_000)
    p.add_argument("--rows-per-page", type=int, default=8, help="so that no long page rules a part")
    p.add_argument("--rows-per-heldout-page", type=int, default=4)
    p.add_argument("--row-characters", type=int, default=640)
    a = p.parse_args()
    want = {"train": a.train_bytes, "dev": a.dev_bytes, "test": a.test_bytes}
    pages = sorted(glob.glob(os.path.join(a.pages, "man[1-8]", "*.gz")), key=lambda f: hash_text(os.path.basename(f)))
    if not pages:
        sys.exit(f"make_corpus.py: no manual pages in {a.pages}; run deploy/setup.sh")
    os.makedirs(a.out, exist_ok=True)
    seen, trained, got = set(), set(), {k: [] for k in want}
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for kind in ("train", "dev", "test"):  # training text first: the others are compared with it
            size, batch = 0, [f for f in pages if part_of(os.path.basename(f)) == kind]
            for start in range(0, len(batch), 16):
                if size >= want[kind]:
                    break
                names = batch[start:start + 16]
                for name, text in zip(names, pool.map(render, names)):
                    kept = []
                    for item in paragraphs(text):
                        tokens = words(item)
                        key = hash_text(" ".join(tokens))
                        runs = shingles(tokens)
                        if 8 * sum(t in ENGLISH for t in tokens) >= len(tokens):
                            continue
                        if key in seen or (kind != "train" and 5 * len(runs & trained) >= len(runs)):
                            continue
                        seen.add(key)
                        trained |= runs
                        kept.append(item)
                    for row in list(rows(kept, os.path.basename(name)[:-3], a.row_characters))[:a.rows_per_page if kind == "train" else a.rows_per_heldout_page]:
                        if size < want[kind]:
                            got[kind].append(row)
                            size += len(row["text"].encode())
    for kind, out in got.items():
        with open(os.path.join(a.out, kind + ".jsonl"), "w", encoding="utf-8") as f:
            f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in out)
    print(" ".join(f"{kind} {len(out)} rows of {len({r['page'] for r in out})} pages," for kind, out in got.items()).rstrip(","))


if __name__ == "__main__":
    main()

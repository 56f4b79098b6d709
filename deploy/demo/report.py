#!/usr/bin/env python3
"""The demo's evaluation and report: which adapters are scored, on what, and what the figures say.

  report.py plan   --out OUT            writes OUT/eval/adapters.jsonl: every distinct adapter, once
  report.py table  --out OUT            reads OUT/eval/losses.jsonl and the job's report, prints the table, writes OUT/report.json
  report.py choose --losses FILE        the best learning rate of each contender on the development split, as JSON

Losses are mean negative log-likelihoods per token (natural logarithm) of held-out rows. Standard library only.
"""
import argparse
import json
import math
import os
import sys


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def adapters(out, recipe):
    """(name, adapter directories that add up) of everything that is scored."""
    yield "base", []
    rounds = sorted((int(n) for n in os.listdir(os.path.join(out, "rounds"))), key=int)
    for t in rounds:
        before = [os.path.join(out, "versions", str(t - 1))] if t > 1 else []
        for site in recipe["sites"]:
            folder = os.path.join(out, "rounds", str(t), site["name"])
            if os.path.isdir(folder):
                yield f"round {t} {site['name']}", before + [folder]
        yield f"version {t}", [os.path.join(out, "versions", str(t))]
    for site in recipe["sites"]:
        yield f"single {site['name']}", [os.path.join(out, "single", site["name"])]


def plan(out, recipe):
    os.makedirs(os.path.join(out, "eval"), exist_ok=True)
    with open(os.path.join(out, "eval", "adapters.jsonl"), "w", encoding="utf-8") as f:
        for name, folders in adapters(out, recipe):
            f.write(json.dumps({"name": name, "adapters": folders}) + "\n")


def losses(out, lines, sites):
    """{adapter: {site: loss}} and {adapter: {site: [(page, nll, tokens)]}}."""
    pages = {s: [r["page"] for r in read_lines(os.path.join(out, "data", s, "test.jsonl"))] for s in sites}
    mean, rows = {}, {}
    for line in lines:
        site = os.path.basename(os.path.dirname(line["data"]))
        mean.setdefault(line["name"], {})[site] = line["loss"]
        if len(line["rows"]) != len(pages[site]):
            sys.exit(f"report.py: {line['name']} on {site}: {len(line['rows'])} rows scored, {len(pages[site])} in the file")
        rows.setdefault(line["name"], {})[site] = [
            (page, r["loss"] * r["tokens"], r["tokens"]) for page, r in zip(pages[site], line["rows"])]
    return mean, rows


def paired(a, b):
    """Mean difference of loss a - b and its standard error, rows of one page counted as one draw."""
    by_page = {}
    for (page, nll_a, tokens), (_, nll_b, _) in zip(a, b):
        d, t = by_page.get(page, (0.0, 0))
        by_page[page] = (d + nll_a - nll_b, t + tokens)
    total = sum(t for _, t in by_page.values())
    mean = sum(d for d, _ in by_page.values()) / total
    n = len(by_page)
    variance = n / (n - 1) * sum((d - mean * t) ** 2 for d, t in by_page.values()) / total ** 2 if n > 1 else math.inf
    return mean, variance


def difference(rows_a, rows_b, sites):
    """Of the mean over sites: (a - b, standard error)."""
    each = [paired(rows_a[s], rows_b[s]) for s in sites]
    return sum(m for m, _ in each) / len(each), math.sqrt(sum(v for _, v in each)) / len(each)


def average(by_site):
    return sum(by_site.values()) / len(by_site)


def metric(site, name):
    return next((m["value"] for m in site.get("metrics", []) if m["name"] == name), None)


def build(out, recipe, job, mean, rows):
    sites = [s["name"] for s in recipe["sites"]]
    committed = [r for r in job["rounds"] if r["state"] == "committed"]
    report = {"rounds": [], "tuning": recipe["tuning"], "recipe": {k: v for k, v in recipe.items() if k != "tuning"}}
    for r in committed:
        t = r["round"]
        before = mean["base"] if t == 1 else mean[f"version {t - 1}"]
        entry = {"round": t, "sites": [], "loss": mean[f"version {t}"]}
        for s in r["sites"]:
            if s["state"] != "accepted":
                continue
            entry["sites"].append({
                "name": s["site"], "rank": s["rank"], "num_examples": s.get("num_examples"), "weight": s.get("weight"),
                "loss_before": before, "loss_after": mean[f"round {t} {s['site']}"],
                "tokens_per_second": metric(s, "tokens_per_second"),
                "bytes_up": int(s["bytes_up"]), "bytes_down": int(s.get("bytes_down", 0))})
        entry["server"] = {
            "rank_in": r["max_rank_in"], "rank_out": r["max_rank_out"], "error": r.get("error", 0), "bound": r.get("bound", 0),
            "learning_rate": r.get("learning_rate"), "seconds": r["seconds"],
            "fedit_distance": r.get("fedit_distance"), "zero_pad_distance": r.get("zero_pad_distance")}
        report["rounds"].append(entry)
    best = min(sites, key=lambda s: average(mean[f"single {s}"]))
    last = f"version {committed[-1]['round']}"
    delta, error = difference(rows[last], rows[f"single {best}"], sites)
    report["final"] = {"base": mean["base"], "federated": mean[last], "best_single_site": mean[f"single {best}"],
                       "single_sites": {s: mean[f"single {s}"] for s in sites}, "best_single_site_name": best,
                       "mean": {"base": average(mean["base"]), "federated": average(mean[last]),
                                "best_single_site": average(mean[f"single {best}"])},
                       "difference": delta, "standard_error": error}
    return report


def size(n):
    return f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


def show(report, sites):
    head = "".join(f"{'on ' + s:>19}" for s in sites)
    print(f"\nHeld-out loss of each site before -> after its local training, per language\n{'round':<6}{'site':<9}{'rank':>4} {head}"
          f"{'tokens/s':>10}{'up':>10}{'down':>10}")
    for r in report["rounds"]:
        for s in r["sites"]:
            cells = "".join(f"{s['loss_before'][x]:>11.3f} ->{s['loss_after'][x]:>5.3f}" for x in sites)
            speed = f"{s['tokens_per_second']:.0f}" if s["tokens_per_second"] else "-"
            print(f"{r['round']:<6}{s['name']:<9}{s['rank']:>4} {cells}{speed:>10}{size(s['bytes_up']):>10}{size(s['bytes_down']):>10}")
        v = r["server"]
        cells = "".join(f"{r['loss'][x]:>19.3f}" for x in sites)
        print(f"{r['round']:<6}{'server':<13} {cells}   stack rank {v['rank_in']} -> {v['rank_out']}, relative error {v['error']:.1e}, "
              f"{v['seconds']:.2f} s")
    final = report["final"]
    print(f"\nAt the end (mean over {len(sites)} languages; test split)\n{'':<28}{''.join(f'{s:>9}' for s in sites)}{'mean':>9}")
    shown = [("base model", final["base"])] + [(f"{s} alone", final["single_sites"][s]) for s in sites] + [("federated", final["federated"])]
    for name, by_site in shown:
        print(f"{name:<28}{''.join(f'{by_site[s]:>9.3f}' for s in sites)}{average(by_site):>9.3f}")
    delta, error, best = final["difference"], final["standard_error"], final["best_single_site_name"]
    a, b = final["mean"]["federated"], final["mean"]["best_single_site"]
    if delta < -2 * error:
        verdict = f"The federated adapter is better than the best single site's ({best}): "
    elif delta > 2 * error:
        verdict = f"The federated adapter is WORSE than the best single site's ({best}): "
    else:
        verdict = f"The federated adapter and the best single site's ({best}) cannot be told apart: "
    print(f"\n{verdict}mean held-out loss over all languages {a:.3f} against {b:.3f}, "
          f"difference {delta:+.3f} (paired standard error {error:.3f}), perplexity {100 * (math.exp(delta) - 1):+.1f} %.")


def choose(lines):
    """From eval lines named `federated RATE` and `single SITE RATE`: the rate with the least mean loss over the languages."""
    mean = {}
    for line in lines:
        mean.setdefault(line["name"], {})[os.path.basename(os.path.dirname(line["data"]))] = line["loss"]
    best = {}
    for name, by_site in mean.items():
        contender, rate = name.rsplit(" ", 1)
        best.setdefault(contender, []).append((average(by_site), float(rate), by_site))
    return {c: {"chosen": min(v)[1], "tried": [{"learning_rate": r, "mean": m, "loss": l} for m, r, l in sorted(v, key=lambda x: x[1])]}
            for c, v in best.items()}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", choices=["plan", "table", "choose"])
    p.add_argument("--out")
    p.add_argument("--losses")
    p.add_argument("--recipe", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipe.json"))
    a = p.parse_args()
    if a.verb == "choose":
        print(json.dumps(choose(read_lines(a.losses)), indent=1))
        return
    recipe = read_json(a.recipe)
    if a.verb == "plan":
        plan(a.out, recipe)
        return
    sites = [s["name"] for s in recipe["sites"]]
    mean, rows = losses(a.out, read_lines(os.path.join(a.out, "eval", "losses.jsonl")), sites)
    report = build(a.out, recipe, read_json(os.path.join(a.out, "job.json")), mean, rows)
    with open(os.path.join(a.out, "report.json"), "w", encoding="utf-8") as f:
        json.dump(report, f, indent=1)
        f.write("\n")
    show(report, sites)


if __name__ == "__main__":
    main()

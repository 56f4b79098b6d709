// The exact text of every kind of fault.
#include "common/config/faults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/config/config.h"
#include "tests/testing/status_matchers.h"

namespace strata::config {
namespace {

template <typename T>
std::string Message(const absl::StatusOr<T>& result) {
  EXPECT_EQ(result.status().code(), result.ok() ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument);
  return std::string(result.status().message());
}
std::string Train(std::string_view text) { return Message(ParseTrain(text, "t.yaml")); }
std::string Job(std::string_view text) { return Message(ParseJob(text, "j.yaml")); }
std::string Server(std::string_view text) { return Message(ParseServer(text, "s.yaml")); }
std::string Client(std::string_view text) { return Message(ParseClient(text, "c.yaml")); }
std::string Sim(std::string_view text) { return Message(ParseSim(text, "sim.yaml")); }

TEST(FaultsTest, UnknownKeysNameTheNearest) {
  EXPECT_EQ(Client("server: localhost:1\nstate_dir: /s\nmodls: {}\n"),
            "c.yaml:3: unknown key `modls`; did you mean `models`?");
  EXPECT_EQ(Train("adapter:\n  rnak: 3\n"), "t.yaml:2: unknown key `rnak`; did you mean `rank`?");
  EXPECT_EQ(Train("learning_rate: 1\n"),
            "t.yaml:1: unknown key `learning_rate`; did you mean `optimizer.learning_rate`?");
  EXPECT_EQ(Train("adapter:\n  r: 3\n  lora_alpha: 1\n"),
            "t.yaml:2: unknown key `r`; did you mean `rank`?\n"
            "t.yaml:3: unknown key `lora_alpha`; did you mean `alpha`?");
  EXPECT_EQ(Train("lr: 1\n"), "t.yaml:1: unknown key `lr`; did you mean `optimizer.learning_rate`?");
  EXPECT_EQ(Train("adapter: {target_is_expression: true}"),
            "t.yaml:1: unknown key `target_is_expression`; did you mean `target_modules`?");
  EXPECT_EQ(Train("learning_rat: 1\n"),
            "t.yaml:1: unknown key `learning_rat`; did you mean `optimizer.learning_rate`?");
  EXPECT_EQ(Train("optimizer: {batch_sise: 1}\n"), "t.yaml:1: unknown key `batch_sise`; did you mean `batch_size`?");
}

TEST(FaultsTest, AllAtOnceByLine) {
  EXPECT_EQ(Train("batch_size: 0\n"
                  "epochs: 1\n"
                  "stepz: 3\n"
                  "steps: 010\n"
                  "optimizer:\n"
                  "  learning_rate: fast\n"
                  "  schedule: cosin\n"
                  "  betas: [0.9]\n"
                  "batch_size: 3\n"
                  "dtype: fp17\n"),
            "t.yaml:1: `batch_size` is 0; expected at least 1\n"
            "t.yaml:3: unknown key `stepz`; did you mean `steps`?\n"
            "t.yaml:4: `steps` expects a whole number from 0 to 4294967295, without leading zeros, found `010`\n"
            "t.yaml:6: `learning_rate` expects a number, found `fast`\n"
            "t.yaml:7: `schedule` expects one of constant, linear, cosine, found `cosin`; did you mean `cosine`?\n"
            "t.yaml:8: `betas` has 1 numbers; expected two such as [0.9, 0.999]\n"
            "t.yaml:9: duplicate key `batch_size`; it stands on line 1 already\n"
            "t.yaml:10: `dtype` is `fp17`; expected one of fp32, bf16, fp16; did you mean `fp16`?");
}

TEST(FaultsTest, WrongTypes) {
  EXPECT_EQ(Train("steps: [1]\n"),
            "t.yaml:1: `steps` expects a whole number from 0 to 4294967295, without leading zeros, found a list");
  EXPECT_EQ(
      Train("steps: \"5\"\n"),
      "t.yaml:1: `steps` expects a whole number from 0 to 4294967295, without leading zeros, found the string \"5\"");
  EXPECT_EQ(Train("steps: 4294967296\n"),
            "t.yaml:1: `steps` expects a whole number from 0 to 4294967295, without leading zeros, found `4294967296`");
  EXPECT_EQ(
      Train("seed: -1\n"),
      "t.yaml:1: `seed` expects a whole number from 0 to 18446744073709551615, without leading zeros, found `-1`");
  EXPECT_EQ(Train("pack: yes\n"), "t.yaml:1: `pack` expects `true` or `false`, found `yes`");
  EXPECT_EQ(Train("\nsteps:\n"),
            "t.yaml:2: `steps` expects a whole number from 0 to 4294967295, without leading zeros, found nothing");
  EXPECT_EQ(Train("dtype: {a: 1}\n"), "t.yaml:1: `dtype` expects a string, found a map");
  EXPECT_EQ(
      Train("optimizer: 3\n"),
      "t.yaml:1: `optimizer` expects keys and values (learning_rate, betas, epsilon, weight_decay, max_grad_norm, "
      "schedule, warmup_steps), found `3`");
  EXPECT_EQ(Train("adapter:\n  rank_pattern: {q_proj: big}\n"),
            "t.yaml:2: `q_proj` expects a whole number from 0 to 4294967295, without leading zeros, found `big`");
  EXPECT_EQ(Train("adapter:\n  target_modules: {a: 1}\n"),
            "t.yaml:2: `target_modules` expects a string or a list of strings, found a map");
  EXPECT_EQ(Train("adapter:\n  layers_to_transform: [1, x]\n"),
            "t.yaml:2: `layers_to_transform[1]` expects a whole number from 0 to 4294967295, without leading zeros, "
            "found `x`");
  EXPECT_EQ(Client("server: localhost:1\nstate_dir: /s\ntrainer: {command: python3 x.py}\nmodels: [a]\n"),
            "c.yaml:3: `command` expects a list of strings, found `python3 x.py`\n"
            "c.yaml:4: `models` expects a map of strings (`label: value`), found a list");
  EXPECT_EQ(Server("state_dir: /s\nmax_update_bytes: 8 gigs\n"),
            "s.yaml:2: `max_update_bytes` expects a size such as `8GiB`, found `8 gigs`");
  EXPECT_EQ(Server("state_dir: /s\nprogress_interval: 10\n"),
            "s.yaml:2: `progress_interval` is `10`; expected a duration such as `30s`, `5m` or `1h30m`");
}

TEST(FaultsTest, BaseDType) {
  EXPECT_EQ(Train("base_dtype: nf5\n"),
            "t.yaml:1: `base_dtype` is `nf5`; expected one of fp32, bf16, fp16, int8, nf4; did you mean `nf4`?");
  EXPECT_EQ(Train("dtype: bf16\nbase_dtype: fp32\n"),
            "t.yaml:2: `base_dtype` fp32 contradicts `dtype` bf16: leave base_dtype out, or change dtype");
  EXPECT_EQ(Train("base_dtype: fp16\n"),
            "t.yaml:1: `base_dtype` fp16 contradicts `dtype` fp32: leave base_dtype out, or change dtype");
  EXPECT_EQ(Train("dtype: fp16\nbase_dtype: nf4\ndevice: cuda\nhost_layers: 3\n"), "");
  EXPECT_EQ(Train("device: cpu\ndtype: fp16\nhost_layers: 3\n"),
            "t.yaml:2: `dtype` fp16 is for CUDA devices: take bf16 or fp32, or set device: cuda\n"
            "t.yaml:3: `host_layers` is for CUDA devices: leave it out, or set device: cuda");
}

TEST(FaultsTest, Syntax) {
  EXPECT_EQ(Train("a: [1\nb: 2\n"), "t.yaml:2: not valid YAML: end of sequence flow not found");
  EXPECT_EQ(Train("- 1\n- 2\n"), "t.yaml:1: expected keys and values (`key: value`)");
  EXPECT_EQ(Train("just words\n"), "t.yaml:1: expected keys and values (`key: value`)");
  EXPECT_EQ(Train("steps: 1\n---\nsteps: 2\n"), "t.yaml:2: expected one document, found a second one (`---`)");
  EXPECT_EQ(Train("steps: &a 1\nseed: *a\n"), "t.yaml:1: anchors and aliases are not supported; write the value out");
  EXPECT_EQ(Train("steps: !!int 1\n"), "t.yaml:1: tags are not supported, found `tag:yaml.org,2002:int`");
  EXPECT_EQ(Train("? [a]\n: 1\n"), "t.yaml:1: expected a key, found a list or a map");
  EXPECT_EQ(Train("{\"steps\": 1,\n \"seed\" 2}"),
            "t.yaml:2: not valid JSON: syntax error while parsing object separator - unexpected number literal; "
            "expected ':'");
  EXPECT_EQ(Train("{\"steps\": 1}\n}"),
            "t.yaml:2: not valid JSON: syntax error while parsing value - unexpected '}'; expected end of input");
}

TEST(FaultsTest, DeepNestingIsRefused) {
  const std::string yaml = "a: " + std::string(2000, '[') + std::string(2000, ']');
  EXPECT_EQ(Train(yaml), "t.yaml:1: nested more than 32 levels deep");
  const std::string json = "{\"a\": " + std::string(200000, '[');
  EXPECT_EQ(Train(json), "t.yaml:1: nested more than 32 levels deep");
}

TEST(FaultsTest, JsonCarriesLines) {
  EXPECT_EQ(
      Train("{\n\"steps\": \"x\",\n\"seed\": -5\n,\"steps\":\n2, \"packk\": true,\n\"optimizer\":{\n\"epsilon\":0}}"),
      "t.yaml:2: `steps` expects a whole number from 0 to 4294967295, without leading zeros, found the string \"x\"\n"
      "t.yaml:3: `seed` expects a whole number from 0 to 18446744073709551615, without leading zeros, found `-5`\n"
      "t.yaml:4: duplicate key `steps`; it stands on line 2 already\n"
      "t.yaml:5: unknown key `packk`; did you mean `pack`?\n"
      "t.yaml:7: `epsilon` is 0; expected a number greater than 0");
}

TEST(FaultsTest, ImpossibleTraining) {
  EXPECT_EQ(Train("steps: 3\nepochs: 1\n"), "t.yaml:2: `epochs` contradicts `steps`; keep one of them");
  EXPECT_EQ(Train("adapter: {rank: 0, alpha: -1, dropout: 1}\n"),
            "t.yaml:1: `rank` is 0; expected at least 1\n"
            "t.yaml:1: `alpha` is -1; expected a number greater than 0\n"
            "t.yaml:1: `dropout` is 1; expected a number from 0 to below 1");
  EXPECT_EQ(
      Train("adapter:\n  target_modules: .*q_proj\n  layers_to_transform: [1]\n"),
      "t.yaml:3: `layers_to_transform` contradicts a regular expression in `target_modules`: name the layers in the "
      "expression, or list the modules");
  EXPECT_EQ(
      Train("adapter:\n  target_modules: []\n  rank_pattern:\n    q_proj: 0\n"),
      "t.yaml:2: `target_modules` is an empty list; expected `all-linear`, a regular expression, or names of modules\n"
      "t.yaml:4: `q_proj` has rank 0; expected at least 1");
  EXPECT_EQ(Train("device: gpu\nmax_length: 1\n"),
            "t.yaml:1: `device` is `gpu`; expected auto, cpu, cuda or cuda:N\n"
            "t.yaml:2: `max_length` is 1; expected at least 2");
  EXPECT_EQ(Train("batch_size: 65536\ngradient_accumulation_steps: 65536\non_non_finite: skipp\nmax_memory: 0\n"),
            "t.yaml:2: `gradient_accumulation_steps` is 65536; expected at most 4294967295 rows a step together with "
            "batch_size\n"
            "t.yaml:3: `on_non_finite` is `skipp`; expected one of stop, skip, halve_scale; did you mean `skip`?\n"
            "t.yaml:4: `max_memory` is 0; expected at least 1");
  EXPECT_EQ(
      Train("on_non_finite: halve\nchat_template: chatlm\n"),
      "t.yaml:1: `on_non_finite` is `halve`; expected one of stop, skip, halve_scale; did you mean `halve_scale`?\n"
      "t.yaml:2: `chat_template` is `chatlm`; expected Jinja, or one of alpaca, chatml, gemma, llama2, llama3, "
      "mistral, phi3; did you mean `chatml`?");
  EXPECT_EQ(Train("adapter: {rank: 99999999, rank_pattern: {q_proj: 1048577}}\nchat_template: '{# none #}'\n"),
            "t.yaml:1: `rank` is 99999999; expected at most 1048576\n"
            "t.yaml:1: `q_proj` has rank 1048577; expected at most 1048576");
  EXPECT_EQ(Train("gradient_accumulation_steps: 0\nmax_memory: lots\n"),
            "t.yaml:1: `gradient_accumulation_steps` is 0; expected at least 1\n"
            "t.yaml:2: `max_memory` expects a size such as `8GiB`, found `lots`");
}

TEST(FaultsTest, ImpossibleJobs) {
  EXPECT_EQ(Job(""),
            "j.yaml:1: missing key `name`: what the job is called\n"
            "j.yaml:1: missing key `data`: the label under which each site's own config names its data\n"
            "j.yaml:1: missing key `rounds`: expected at least `rounds: {count: N}`");
  const std::string head = "name: j\ndata: d\n";
  EXPECT_EQ(Job(head + "sites: [a, b, a]\nrounds:\n  count: 0\n  min_sites: 4\n  report_goal: 2\n  timeout: 0s\n"),
            "j.yaml:3: site `a` is listed twice\n"
            "j.yaml:5: `count` is 0; expected at least 1\n"
            "j.yaml:6: `min_sites` is 4; expected at most 3, the number of `sites`\n"
            "j.yaml:7: `report_goal` is 2; expected at least 4\n"
            "j.yaml:8: `timeout` is `0s`; expected a duration such as `30s`, `5m` or `1h30m`");
  EXPECT_EQ(Job(head + "sites: [a, b]\nrounds: {count: 1}\n"),
            "j.yaml:4: `min_sites` is 3 (the default); expected at most 2, the number of `sites`");
  EXPECT_EQ(Job(head + "sites: some\nrounds: {count: many}\n"),
            "j.yaml:3: `sites` expects `all` or a list of site names, found `some`\n"
            "j.yaml:4: `count` expects a whole number from 0 to 4294967295, without leading zeros, found `many`");
  EXPECT_EQ(
      Job(head + "rounds: {count: 1}\naggregation:\n  energy: 0.9\n  max_rank: 8\n  exact: true\n  raw_stack: true\n  "
                 "method: fedit\n"),
      "j.yaml:6: `max_rank` contradicts `energy`; keep one of them\n"
      "j.yaml:7: `exact: true` contradicts `energy`; keep one of them\n"
      "j.yaml:8: `raw_stack: true` contradicts `energy`, `max_rank` and `exact`: a raw stack is not re-factorised\n"
      "j.yaml:8: `raw_stack: true` needs `method: stack`: the other methods make no stack");
  EXPECT_EQ(
      Job(head +
          "rounds: {count: 1}\nmax_rank: 8\ntraining:\n  adapter:\n    rank: 9\n    rank_pattern: {q_proj: 10}\n"),
      "j.yaml:7: `rank` is 9; expected at most 8, the job's `max_rank`\n"
      "j.yaml:8: `q_proj` has rank 10; expected at most 8, the job's `max_rank`");
  EXPECT_THAT(Job(head + "rounds: {count: 1}\ntraining:\n  adapter:\n    use_dora: true\n"),
              ::testing::AllOf(::testing::HasSubstr("j.yaml:6: `use_dora` in a job: "),
                               ::testing::HasSubstr("strata-client train")));
  EXPECT_EQ(Job(head + "rounds: {count: 1}\nmodel:\n  digests:\n    - abc\nevaluation: {holdout: 1}\n"),
            "j.yaml:6: digest `abc`; expected WEIGHTS:SEMANTICS, 64 hexadecimal digits each, as `strata-client digest` "
            "prints it\n"
            "j.yaml:7: `holdout` is 1; expected a number from 0 to below 1");
}

TEST(FaultsTest, ImpossiblePrograms) {
  EXPECT_EQ(Server("listen: 0.0.0.0:7433\n"),
            "s.yaml:1: missing key `state_dir`: the folder of the server's database and blobs\n"
            "s.yaml:1: `listen` is `0.0.0.0:7433`, which is not a loopback address; other addresses need `tls: {cert, "
            "key, ca}`");
  EXPECT_EQ(Server("state_dir: /s\nlisten: 0.0.0.0:7433\ntls:\n  cert: a\n  ca:\n"),
            "s.yaml:3: missing key `tls.key`: the PEM file of this process's private key\n"
            "s.yaml:5: `ca` expects a string, found nothing");
  EXPECT_EQ(Server("state_dir: /s\nliveness_timeout: 5s\nlog_level: verbose\nlisten: localhost\n"),
            "s.yaml:2: `liveness_timeout` (5s) must be longer than `progress_interval` (10s)\n"
            "s.yaml:3: `log_level` is `verbose`; expected one of debug, info, warning, error; did you mean `error`?\n"
            "s.yaml:4: `listen` is `localhost`; expected HOST:PORT, such as `127.0.0.1:7433`");
  EXPECT_EQ(Server("state_dir: /" + std::string(120, 'x') + "\n").substr(0, 26), "s.yaml:1: `admin_socket` i");
  EXPECT_EQ(Client("server: 10.0.0.1:1\nstate_dir: /s\nrank: 8\nmax_rank: 4\nalpha: 0\n"),
            "c.yaml:1: `server` is `10.0.0.1:1`, which is not a loopback address; other addresses need `tls: {cert, "
            "key, ca}`\n"
            "c.yaml:3: `rank` is 8; expected at most 4, this site's `max_rank`\n"
            "c.yaml:5: `alpha` is 0; expected a number greater than 0");
  EXPECT_EQ(Client("server: localhost:1\nstate_dir: /s\nalpha: 3\nname: x\ntls: {cert: a, key: b, ca: c}\n"),
            "c.yaml:3: `alpha` needs `rank` beside it\n"
            "c.yaml:4: `name` contradicts `tls`: a site's name is its certificate's");
}

TEST(FaultsTest, ImpossibleSimulations) {
  EXPECT_EQ(Sim("rounds: {count: 1}\n"),
            "sim.yaml:1: missing key `sites`: expected at least `sites: {count: N, data: FILE}`\n"
            "sim.yaml:1: missing key `model`: a HF directory, org/name or GGUF file");
  EXPECT_EQ(Sim("model: m\nsites:\n  count: 2\n  data: d\n  partition: keys\n  ranks: [4, 8]\nrounds:\n  count: 1\n  "
                "min_sites: 5\n"
                "aggregation: {method: fedit}\n"),
            "sim.yaml:5: `partition` is `keys`; expected one of iid, dirichlet, key; did you mean `key`?\n"
            "sim.yaml:6: different `ranks` contradict `method: fedit`, which averages factors of equal ranks\n"
            "sim.yaml:9: `min_sites` is 5; expected at most 2, the `count` of sites");
  EXPECT_EQ(Sim("model: m\nsites: {count: 2, data: d, partition: key}\nrounds: {count: 1}\njob: {max_rank: 16}\n"),
            "sim.yaml:2: missing key `sites.key`: the row field that `partition: key` goes by\n"
            "sim.yaml:3: `rounds` stands beside `job`; move it into `job`");
  EXPECT_EQ(Sim("modell: m\nsites: {count: 2, data: d}\ntraning: {steps: 1}\nrounds: {count: 1}\nsingle_sites: true\n"),
            "sim.yaml:1: unknown key `modell`; did you mean `model`?\n"
            "sim.yaml:1: missing key `model`: a HF directory, org/name or GGUF file\n"
            "sim.yaml:3: unknown key `traning`; did you mean `training`?\n"
            "sim.yaml:5: `single_sites` needs rows to score on; set `evaluation: {holdout: 0.1}` or the like");
}

}  // namespace
}  // namespace strata::config

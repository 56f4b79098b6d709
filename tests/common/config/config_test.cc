#include "common/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/config/convert.h"
#include "common/config/units.h"
#include "tests/testing/status_matchers.h"

namespace strata::config {
namespace {

using ::strata::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr char kDigest[] =
    "1111111111111111111111111111111111111111111111111111111111111111:"
    "abcdef1111111111111111111111111111111111111111111111111111111111";

TEST(ConfigTest, AnEmptyTrainFileMeansTheDefaults) {
  ASSERT_OK_AND_ASSIGN(const TrainOptions options, ParseTrain("", "t"));
  EXPECT_EQ(options.adapter.rank, 8U);
  EXPECT_FALSE(options.adapter.specified);
  EXPECT_TRUE(options.adapter.target_modules.all_linear);
  EXPECT_EQ(options.optimizer.schedule, Schedule::kLinear);
  EXPECT_FALSE(options.steps.has_value());
  EXPECT_EQ(options.epochs, 3);
  EXPECT_EQ(options.seed, 42U);
  EXPECT_OK(ParseTrain("# nothing but a comment\n", "t"));
}

constexpr char kTrain[] = R"(
adapter:
  rank: 4
  alpha: 2.5
  target_modules: [q_proj, v_proj]
  exclude_modules: '.*\.layers\.0\..*'
  layers_to_transform: [1, 2]
  rank_pattern: {z_proj: 16, a_proj: 2}
  alpha_pattern:
    q_proj: 1e1
  use_rslora: true
  use_dora: true
  dropout: 0.1
optimizer:
  learning_rate: 3e-4
  betas: [0.8, 0.95]
  epsilon: 1e-6
  weight_decay: 0.01
  max_grad_norm: 0
  schedule: cosine
  warmup_steps: 7
steps: 12
batch_size: 3
max_length: 77
pack: true
shuffle: false
seed: 18446744073709551615
dtype: bf16
base_dtype: bf16
on_bad_row: skip
on_long_row: split
chat_template: "{% for m in messages %}\n{{ m.content }}: #\n{% endfor %}"
device: cuda:1
gradient_accumulation_steps: 4
gradient_checkpointing: true
checkpoint_steps: 0
on_non_finite: halve_scale
max_memory: 3GiB
)";

void ExpectTrain(const TrainOptions& o) {
  EXPECT_TRUE(o.adapter.specified);
  EXPECT_EQ(o.adapter.rank, 4U);
  EXPECT_EQ(o.adapter.alpha, 2.5);
  EXPECT_FALSE(o.adapter.target_modules.all_linear);
  EXPECT_THAT(o.adapter.target_modules.suffixes, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(o.adapter.exclude_modules.expression, R"(.*\.layers\.0\..*)");
  EXPECT_THAT(o.adapter.layers_to_transform, ElementsAre(1, 2));
  EXPECT_THAT(o.adapter.rank_pattern, ElementsAre(Pair("z_proj", 16), Pair("a_proj", 2)));  // the file's order
  EXPECT_THAT(o.adapter.alpha_pattern, ElementsAre(Pair("q_proj", 10.0)));
  EXPECT_TRUE(o.adapter.use_rslora);
  EXPECT_TRUE(o.adapter.use_dora);
  EXPECT_EQ(o.adapter.dropout, 0.1);
  EXPECT_EQ(o.optimizer.learning_rate, 3e-4);
  EXPECT_EQ(o.optimizer.beta1, 0.8);
  EXPECT_EQ(o.optimizer.beta2, 0.95);
  EXPECT_EQ(o.optimizer.epsilon, 1e-6);
  EXPECT_EQ(o.optimizer.weight_decay, 0.01);
  EXPECT_EQ(o.optimizer.max_grad_norm, 0);
  EXPECT_EQ(o.optimizer.schedule, Schedule::kCosine);
  EXPECT_EQ(o.optimizer.warmup_steps, 7U);
  EXPECT_EQ(o.steps, 12U);
  EXPECT_EQ(o.batch_size, 3U);
  EXPECT_EQ(o.max_length, 77U);
  EXPECT_TRUE(o.pack);
  EXPECT_FALSE(o.shuffle);
  EXPECT_EQ(o.seed, ~uint64_t{0});
  EXPECT_EQ(o.dtype, ComputeDType::kBf16);
  EXPECT_EQ(o.base_dtype, BaseDType::kBf16);
  EXPECT_TRUE(o.skip_bad_rows);
  EXPECT_TRUE(o.split_long_rows);
  EXPECT_EQ(o.chat_template, "{% for m in messages %}\n{{ m.content }}: #\n{% endfor %}");
  EXPECT_EQ(o.device, "cuda:1");
  EXPECT_EQ(o.gradient_accumulation_steps, 4U);
  EXPECT_TRUE(o.gradient_checkpointing);
  EXPECT_EQ(o.checkpoint_steps, 0U);
  EXPECT_EQ(o.on_non_finite, NonFinitePolicy::kHalveScale);
  EXPECT_EQ(o.max_memory, uint64_t{3} << 30);
}

TEST(ConfigTest, TrainRoundTripsThroughTextAndWire) {
  ASSERT_OK_AND_ASSIGN(const TrainOptions options, ParseTrain(kTrain, "t"));
  ExpectTrain(options);
  ASSERT_OK_AND_ASSIGN(const TrainOptions printed, ParseTrain(PrintTrain(options), "t"));
  ExpectTrain(printed);
  ASSERT_OK_AND_ASSIGN(const TrainOptions sent, FromProto(ToProto(options)));
  ExpectTrain(sent);
}

TEST(ConfigTest, AnUnspecifiedAdapterStaysUnspecified) {
  const std::string text = PrintTrain(TrainOptions());
  EXPECT_THAT(text, HasSubstr("# adapter:  (not specified)\n#   rank: 8\n"));
  ASSERT_OK_AND_ASSIGN(const TrainOptions printed, ParseTrain(text, "t"));
  EXPECT_FALSE(printed.adapter.specified);
  EXPECT_EQ(PrintTrain(printed), text);
  ASSERT_OK_AND_ASSIGN(const TrainOptions sent, FromProto(ToProto(TrainOptions())));
  EXPECT_FALSE(sent.adapter.specified);
}

TEST(ConfigTest, JsonSaysTheSame) {
  ASSERT_OK_AND_ASSIGN(const TrainOptions yaml, ParseTrain("steps: 5\noptimizer: {betas: [0.5, 0.25]}\n", "t"));
  ASSERT_OK_AND_ASSIGN(const TrainOptions json,
                       ParseTrain("\n {\"steps\": 5,\n \"optimizer\": {\"betas\": [0.5, 2.5e-1]}}", "t"));
  EXPECT_EQ(PrintTrain(yaml), PrintTrain(json));
  ASSERT_OK_AND_ASSIGN(const ClientOptions client,
                       ParseClient(R"({"server":"localhost:1","state_dir":"/s","data":{"\ud83d\ude00":"/d"}})", "c"));
  EXPECT_THAT(client.data, ElementsAre(Pair("\xF0\x9F\x98\x80", "/d")));  // a surrogate pair
}

TEST(ConfigTest, OneNumberAndOneStringForms) {
  ASSERT_OK_AND_ASSIGN(const TrainOptions options,
                       ParseTrain("adapter: {target_modules: all-linear, layers_to_transform: 3}", "t"));
  EXPECT_TRUE(options.adapter.target_modules.all_linear);
  EXPECT_THAT(options.adapter.layers_to_transform, ElementsAre(3));
  ASSERT_OK_AND_ASSIGN(const TrainOptions regex, ParseTrain("adapter: {target_modules: '.*(q|v)_proj'}", "t"));
  EXPECT_EQ(regex.adapter.target_modules.expression, ".*(q|v)_proj");
  EXPECT_THAT(regex.adapter.target_modules.suffixes, IsEmpty());
}

TEST(ConfigTest, JobRoundTrips) {
  const std::string text = std::string("name: j\nmodel: {digests: [\"") + kDigest + R"("]}
data: 7
sites: [a, b, c]
rounds: {count: 4, report_goal: 3, min_sites: 2, timeout: 1h30m, start: warm, max_attempts: 9}
training: {steps: 3}
aggregation: {method: zero_pad, max_rank: 12, server_learning_rate: 0.5, max_blobs: 2, absent_modules: renormalise,
              compaction_max_rank: 6}
evaluation: {holdout: 0.25, every: 0}
max_rank: 32
modules: [{name: m.q, out: 8, in: 4}]
)";
  ASSERT_OK_AND_ASSIGN(const JobOptions job, ParseJob(text, "j"));
  EXPECT_EQ(job.data, "7");
  EXPECT_THAT(job.sites, ElementsAre("a", "b", "c"));
  EXPECT_EQ(job.rounds.timeout, absl::Minutes(90));
  EXPECT_EQ(job.rounds.start, Start::kWarm);
  EXPECT_EQ(job.rounds.report_goal, 3U);
  EXPECT_EQ(job.aggregation.method, AggregationMethod::kZeroPad);
  EXPECT_EQ(job.aggregation.max_rank, 12U);
  EXPECT_TRUE(job.aggregation.renormalise_absent);
  EXPECT_EQ(job.aggregation.compaction_max_rank, 6U);
  EXPECT_EQ(job.evaluation.every, 0U);
  EXPECT_THAT(job.modules, ElementsAre(ModuleShape{.name = "m.q", .out = 8, .in = 4}));
  const std::string printed = PrintJob(job);
  ASSERT_OK_AND_ASSIGN(const JobOptions again, ParseJob(printed, "j"));
  EXPECT_EQ(PrintJob(again), printed);
  ASSERT_OK_AND_ASSIGN(const JobOptions sent, FromProto(ToProto(job)));
  EXPECT_EQ(PrintJob(sent), printed);
}

TEST(ConfigTest, AllSites) {
  ASSERT_OK_AND_ASSIGN(const JobOptions job,
                       ParseJob("{\"name\":\"j\",\"data\":\"d\",\"sites\":\"all\",\"rounds\":{\"count\":1}}", "j"));
  EXPECT_THAT(job.sites, IsEmpty());
  EXPECT_THAT(PrintJob(job), HasSubstr("sites: all\n"));
  EXPECT_THAT(PrintJob(job), HasSubstr("exact: true\n"));
}

TEST(ConfigTest, ServerAndClientRoundTrip) {
  ASSERT_OK_AND_ASSIGN(
      const ServerOptions server,
      ParseServer("state_dir: /s\nlisten: '[::1]:0'\nmax_update_bytes: 512MB\nprogress_interval: 500ms\n", "s"));
  EXPECT_EQ(server.admin_socket, "/s/admin.sock");
  EXPECT_EQ(server.max_update_bytes, 512'000'000U);
  EXPECT_EQ(server.progress_interval, absl::Milliseconds(500));
  const std::string server_text = PrintServer(server);
  ASSERT_OK_AND_ASSIGN(const ServerOptions server_again, ParseServer(server_text, "s"));
  EXPECT_EQ(PrintServer(server_again), server_text);

  ASSERT_OK_AND_ASSIGN(const ClientOptions client, ParseClient(R"(
server: example.org:1
tls: {cert: c, key: k, ca: a}
state_dir: "/a b/\"q\""
models: {"a:b": /m, t: org/name}
data: {d: "010"}
trainer: {command: [python3, -c, "print(1)\n"]}
rank: 4
alpha: 8
max_rank: 16
max_rounds: 2
)",
                                                               "c"));
  EXPECT_EQ(client.state_dir, "/a b/\"q\"");
  EXPECT_THAT(client.models, ElementsAre(Pair("a:b", "/m"), Pair("t", "org/name")));
  EXPECT_THAT(client.trainer_command, ElementsAre("python3", "-c", "print(1)\n"));
  const std::string text = PrintClient(client);
  ASSERT_OK_AND_ASSIGN(const ClientOptions again, ParseClient(text, "c"));
  EXPECT_EQ(PrintClient(again), text);
  EXPECT_EQ(again.trainer_command, client.trainer_command);
  EXPECT_EQ(again.data, client.data);
}

TEST(ConfigTest, SimTakesTheJobsKeysFlatOrNested) {
  ASSERT_OK_AND_ASSIGN(const SimOptions flat, ParseSim(R"(
model: /m
sites: {count: 2, ranks: [4, 8], data: f.jsonl, partition: key, key: language}
rounds: {count: 5}
training: {steps: 2}
)",
                                                       "s"));
  EXPECT_EQ(flat.job.name, "sim");
  EXPECT_EQ(flat.job.rounds.count, 5U);
  EXPECT_EQ(flat.job.rounds.min_sites, 2U);
  EXPECT_EQ(flat.job.training.steps, 2U);
  EXPECT_EQ(flat.out, "out");
  EXPECT_THAT(flat.sites.ranks, ElementsAre(4, 8));
  const std::string text = PrintSim(flat);
  EXPECT_THAT(text, HasSubstr("job:\n"));
  ASSERT_OK_AND_ASSIGN(const SimOptions nested, ParseSim(text, "s"));
  EXPECT_EQ(PrintSim(nested), text);
}

// Sites take turns, so no round is too slow; one seed rules, where the training names none of its own.
TEST(ConfigTest, SimHasDefaultsOfItsOwn) {
  const std::string rest = "model: m\nsites: {count: 2, data: d}\nseed: 7\n";
  ASSERT_OK_AND_ASSIGN(const SimOptions plain, ParseSim(rest + "rounds: {count: 1}\n", "s"));
  EXPECT_EQ(plain.job.rounds.timeout, absl::Hours(720));
  EXPECT_EQ(plain.job.training.seed, 7U);
  EXPECT_FALSE(plain.single_sites);
  ASSERT_OK_AND_ASSIGN(const SimOptions own,
                       ParseSim(rest + "rounds: {count: 1, timeout: 5m}\ntraining: {seed: 3}\n", "s"));
  EXPECT_EQ(own.job.rounds.timeout, absl::Minutes(5));
  EXPECT_EQ(own.job.training.seed, 3U);
  EXPECT_EQ(own.seed, 7U);
}

TEST(UnitsTest, Durations) {
  EXPECT_EQ(ParseDuration("30s"), absl::Seconds(30));
  EXPECT_EQ(ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(ParseDuration("1.5s"), absl::Milliseconds(1500));
  for (const char* text : {"", "30", "0", "-1s", "inf", "1d", "s", "1 s", "1us", "1s2", "99999999999999999999h"}) {
    EXPECT_EQ(ParseDuration(text), std::nullopt) << text;
  }
  for (const absl::Duration d : {absl::ZeroDuration(), absl::Milliseconds(1), absl::Seconds(90), absl::Hours(1000)}) {
    EXPECT_EQ(ParseDuration(config::FormatDuration(d)), d);
  }
}

TEST(UnitsTest, Sizes) {
  EXPECT_EQ(ParseSize("8GiB"), uint64_t{8} << 30);
  EXPECT_EQ(ParseSize("512MB"), 512'000'000U);
  EXPECT_EQ(ParseSize("1 KiB"), 1024U);
  EXPECT_EQ(ParseSize("77"), 77U);
  EXPECT_EQ(ParseSize("0"), 0U);
  for (const char* text :
       {"", "GiB", "8 Gi", "-1", "1.5GiB", "010MB", "8gib", "99999999999TiB", "18446744073709551616"}) {
    EXPECT_EQ(ParseSize(text), std::nullopt) << text;
  }
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{1}, uint64_t{1000}, uint64_t{1536}, uint64_t{2} << 30, ~uint64_t{0}}) {
    EXPECT_EQ(ParseSize(FormatSize(size)), size);
  }
}

TEST(UnitsTest, Numbers) {
  EXPECT_EQ(ParseNumber("5e-5"), 5e-5);
  EXPECT_EQ(ParseNumber("+2"), 2);
  EXPECT_EQ(ParseNumber("-0.5"), -0.5);
  EXPECT_EQ(ParseNumber(".5"), 0.5);
  for (const char* text : {"", "nan", ".inf", "0x10", "010", "1e999", "1,5", "1_000", "--1", "+-1", "1e"}) {
    EXPECT_EQ(ParseNumber(text), std::nullopt) << text;
  }
  for (const double value : {0.1, 5e-5, 1e300, 12345678.9, 3.0}) EXPECT_EQ(ParseNumber(FormatNumber(value)), value);
  EXPECT_EQ(ParseUnsigned("10"), 10U);
  for (const char* text : {"010", "0x10", "1e3", "-1", "+1", "1.0", "", " 1"})
    EXPECT_EQ(ParseUnsigned(text), std::nullopt);
}

TEST(ConvertTest, FaultsOfAMessageNameTheirPath) {
  v1::JobConfig job;
  job.set_name("x/y");
  job.mutable_rounds()->set_min_sites(0);
  job.mutable_training()->mutable_optimizer()->set_learning_rate(-1);
  EXPECT_THAT(FromProto(job),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "name: `name` is `x/y`; expected up to 64 letters, digits, `.`, `_`, `-`\n"
                       "data: missing key `data`: the label under which each site's own config names its data\n"
                       "rounds.count: missing key `rounds.count`: how many rounds to run\n"
                       "rounds.min_sites: `min_sites` is 0; expected at least 1\n"
                       "training.optimizer.learning_rate: `learning_rate` is -1; expected a number greater than 0"));
}

}  // namespace
}  // namespace strata::config

#include "client/client.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/format/safetensors.h"
#include "common/secure/digest.h"
#include "tests/testing/fake_trainer.h"
#include "tests/testing/faulty_link.h"
#include "tests/testing/sim_runtime.h"

namespace strata {
namespace {

using testing::FakeTrainer;
using testing::FaultyLink;
using testing::SimRuntime;

// A server in one class: hands out the assignments it is given and takes what comes back.
class FakeServer : public link::FederationLink {
 public:
  explicit FakeServer(runtime::Runtime runtime) : runtime_(runtime) {}

  std::deque<link::Assignment> assignments;     // each stays until its submission
  std::map<std::string, std::string> blobs;     // by digest
  std::map<std::string, link::Update> updates;  // by assignment
  std::vector<struct link::CheckIn> check_ins;
  std::vector<std::string> released;  // reasons
  int fetches = 0, evaluations = 0;

  link::BlobRef AddBlob(const std::string& bytes) {
    const std::string digest = secure::Sha256(bytes);
    blobs[digest] = bytes;
    return {.sha256 = digest, .size = bytes.size()};
  }

  void CheckIn(const struct link::CheckIn& request, link::Callback<link::CheckInAnswer> done) override {
    check_ins.push_back(request);
    link::CheckInAnswer answer = link::ComeBack{.after = absl::Seconds(5), .reason = {}};
    if (!assignments.empty()) answer = assignments.front();
    Answer<link::CheckInAnswer>(std::move(answer), std::move(done));
  }
  void Fetch(const link::BlobRef& blob, const std::string& path, link::Callback<uint64_t> done) override {
    ++fetches;
    const std::string& bytes = blobs.at(blob.sha256);
    const absl::Status written = runtime_.files.WriteFile(path, bytes);
    absl::StatusOr<uint64_t> answer = static_cast<uint64_t>(bytes.size());
    if (!written.ok()) answer = written;
    Answer<uint64_t>(answer, std::move(done));
  }
  void Submit(const std::string& assignment, link::Update update, link::Callback<link::Receipt> done) override {
    updates[assignment] = std::move(update);
    Done(assignment);
    Answer<link::Receipt>(link::Receipt{.assignment = assignment, .tensors_sha256 = {}, .note = {}}, std::move(done));
  }
  void SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                        link::Callback<link::Receipt> done) override {
    EXPECT_FALSE(metrics.empty());
    ++evaluations;
    Done(assignment);
    Answer<link::Receipt>(link::Receipt{.assignment = assignment, .tensors_sha256 = {}, .note = {}}, std::move(done));
  }
  void Report(const link::Progress&, link::Callback<link::ProgressAnswer> done) override {
    Answer<link::ProgressAnswer>(link::ProgressAnswer{}, std::move(done));
  }
  void Release(const std::string& assignment, const std::string& reason, link::Callback<bool> done) override {
    released.push_back(reason);
    Done(assignment);
    Answer<bool>(true, std::move(done));
  }
  void Shutdown() override {}

 private:
  void Done(const std::string& id) {
    if (!assignments.empty() && assignments.front().id == id) assignments.pop_front();
  }
  template <typename T>
  void Answer(absl::StatusOr<T> value, link::Callback<T> done) {
    runtime_.executor.Run(
        [value = std::move(value), done = std::move(done)]() mutable { std::move(done)(std::move(value)); });
  }
  runtime::Runtime runtime_;
};

link::Assignment MakeAssignment(char id, std::vector<link::BlobRef> blobs = {}) {
  link::Assignment assignment;
  assignment.id = std::string(16, id);
  assignment.job = "job";
  assignment.site = "hospital";
  assignment.model_label = "base";
  assignment.data_label = "notes";
  assignment.round = 3;
  assignment.version = static_cast<uint32_t>(blobs.size());
  assignment.blobs = std::move(blobs);
  assignment.targets = {{.module = "layers.0.q", .out = 4, .in = 6, .rank = 2, .alpha = 4, .scaling = 2},
                        {.module = "layers.1.q", .out = 5, .in = 3, .rank = 1, .alpha = 4, .scaling = 4}};
  assignment.seed = 99;
  return assignment;
}

std::string MakeBlob(uint64_t seed) {
  adapter::AdapterBuilder builder;
  for (const train::Target& target : MakeAssignment('x').targets) {
    auto factors = testing::MakeFakeFactors(seed, 0, "server", target);
    builder.Add(target.module, target.rank, target.out, target.in, static_cast<double>(target.rank), 1,
                std::move(factors.a), std::move(factors.b));
  }
  return adapter::PeftTensorBytes(std::move(builder).Build(), {});
}

class ClientTest : public ::testing::Test {
 protected:
  ClientSetup MakeSetup() {
    ClientSetup setup;
    setup.options.state_dir = "/state";
    setup.options.models = {{"base", "/models/base"}};
    setup.options.data = {{"notes", "/data/notes.jsonl"}};
    setup.options.device = "cpu";
    link::ModelOffer offer;
    offer.label = "base";
    offer.identity = {.weights = std::string(32, 'w'), .semantics = std::string(32, 's'), .encoding = "fp32"};
    setup.offers = {offer};
    return setup;
  }
  void Begin(ClientSetup setup) {
    auto opened = Client::Open({.runtime = sim_.get(), .training = sim_.executor(), .link = link_, .trainer = trainer_},
                               std::move(setup));
    ASSERT_TRUE(opened.ok()) << opened.status();
    client_ = *std::move(opened);
    client_->Start([this](const absl::Status& status) { finished_ = status; });
  }
  // The process dies; what was not synced is lost.
  void Crash() {
    client_.reset();
    sim_.executor().Clear();
    sim_.files().Crash();
  }

  SimRuntime sim_;
  FakeServer server_{sim_.get()};
  FaultyLink link_{sim_.get(), 1, {}};
  FakeTrainer trainer_;
  std::unique_ptr<Client> client_;
  std::optional<absl::Status> finished_;

  void SetUp() override { link_.set_target(&server_); }
};

TEST_F(ClientTest, SubmitsWhatTheTrainerMade) {
  server_.assignments = {MakeAssignment('a')};
  ClientSetup setup = MakeSetup();
  setup.options.max_rounds = 1;
  setup.options.rank = 2;
  Begin(setup);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return finished_.has_value(); }));
  EXPECT_TRUE(finished_->ok());
  EXPECT_EQ(server_.check_ins[0].rank, 2);
  EXPECT_EQ(server_.check_ins[0].data_labels, std::vector<std::string>{"notes"});

  const link::Update& update = server_.updates.at(std::string(16, 'a'));
  const auto manifest = adapter::ParseManifest(update.manifest);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->assignment, std::string(16, 'a'));
  EXPECT_EQ(manifest->base.weights, std::string(32, 'w'));
  EXPECT_EQ(manifest->num_examples, testing::FakeNumExamples("hospital"));
  auto tensors = format::Safetensors::Parse(update.tensors->bytes(), "update");
  ASSERT_TRUE(tensors.ok());
  const auto opened = adapter::OpenUpdate(*manifest, *std::move(tensors));
  ASSERT_TRUE(opened.ok()) << opened.status();
  for (const train::Target& target : MakeAssignment('a').targets) {
    const adapter::Factors* factors = opened->Find(target.module);
    ASSERT_NE(factors, nullptr);
    EXPECT_EQ(factors->scaling, target.scaling);
    std::vector<float> a(static_cast<size_t>(target.rank * target.in));
    ASSERT_TRUE(format::ToFloat(factors->a, a).ok());
    EXPECT_EQ(a, testing::MakeFakeFactors(99, 3, "hospital", target).a);
  }
  ASSERT_EQ(trainer_.requests().size(), 1);
  EXPECT_EQ(trainer_.requests()[0].model_path, "/models/base");
  EXPECT_EQ(trainer_.requests()[0].data_path, "/data/notes.jsonl");
  EXPECT_EQ(trainer_.requests()[0].options.device, "cpu");
  sim_.executor().RunUntilIdle();
  EXPECT_TRUE(sim_.files().List("/state/updates")->empty());
}

TEST_F(ClientTest, FetchesOnlyWhatItLacksAndDropsWhatNoVersionNeeds) {
  const link::BlobRef one = server_.AddBlob(MakeBlob(1));
  const link::BlobRef two = server_.AddBlob(MakeBlob(2));
  const link::BlobRef merged = server_.AddBlob(MakeBlob(3));
  server_.assignments = {MakeAssignment('a', {one}), MakeAssignment('b', {one, two}), MakeAssignment('c', {merged})};
  ClientSetup setup = MakeSetup();
  setup.options.max_rounds = 2;
  Begin(setup);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return finished_.has_value(); }));
  EXPECT_EQ(server_.fetches, 2);
  EXPECT_EQ(sim_.files().List("/state/blobs")->size(), 2);
  ASSERT_EQ(trainer_.requests().size(), 2);
  ASSERT_EQ(trainer_.requests()[1].base.size(), 2);
  const adapter::Factors* factors = trainer_.requests()[1].base[1]->Find("layers.0.q");
  ASSERT_NE(factors, nullptr);
  EXPECT_EQ(factors->scaling, 1);

  finished_.reset();
  setup.options.max_rounds = 1;
  Begin(setup);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return finished_.has_value(); }));
  EXPECT_EQ(server_.fetches, 3);
  EXPECT_EQ(sim_.files().List("/state/blobs")->size(), 1);
}

TEST_F(ClientTest, ABlobThatRottedOnDiskIsFetchedAgain) {
  const link::BlobRef blob = server_.AddBlob(MakeBlob(1));
  server_.assignments = {MakeAssignment('a', {blob})};
  ASSERT_TRUE(sim_.files().MakeDirectories("/state/blobs").ok());
  const std::string path = "/state/blobs/" + secure::ToHex(blob.sha256);
  std::string rotten = MakeBlob(1);
  rotten[rotten.size() / 2] ^= 1;
  ASSERT_TRUE(sim_.files().WriteFile(path, rotten).ok());
  ClientSetup setup = MakeSetup();
  setup.options.max_rounds = 1;
  Begin(setup);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return finished_.has_value(); }));
  EXPECT_EQ(server_.fetches, 1);
  EXPECT_EQ(*sim_.files().ReadFile(path), MakeBlob(1));
}

TEST_F(ClientTest, ATrainedUpdateSurvivesACrashAndIsHandedIn) {
  server_.assignments = {MakeAssignment('a')};
  Begin(MakeSetup());
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return trainer_.num_runs() == 1; }));
  link_.set_target(nullptr);  // the server goes away while the client trains
  sim_.executor().RunFor(absl::Minutes(5));
  EXPECT_EQ(sim_.files().List("/state/updates")->size(), 1);
  Crash();

  link_.set_target(&server_);
  ClientSetup setup = MakeSetup();
  setup.options.max_rounds = 1;
  Begin(setup);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return finished_.has_value(); }));
  EXPECT_EQ(trainer_.num_runs(), 1);  // not trained again
  EXPECT_EQ(server_.check_ins.back().holding, std::string(16, 'a'));
  EXPECT_TRUE(server_.updates.contains(std::string(16, 'a')));
}

TEST_F(ClientTest, AFullDiskGivesTheAssignmentBack) {
  server_.assignments = {MakeAssignment('a')};
  ClientSetup setup = MakeSetup();
  Begin(setup);
  sim_.files().SetCapacity(100);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return !server_.released.empty(); }));
  EXPECT_EQ(server_.released[0], "training failed: RESOURCE_EXHAUSTED");
  EXPECT_TRUE(server_.updates.empty());
}

TEST_F(ClientTest, AnUnknownLabelGivesTheAssignmentBack) {
  link::Assignment assignment = MakeAssignment('a');
  assignment.data_label = "somebody-elses";
  server_.assignments = {assignment};
  Begin(MakeSetup());
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return !server_.released.empty(); }));
  EXPECT_EQ(server_.released[0], "training failed: NOT_FOUND");
  EXPECT_EQ(trainer_.num_runs(), 0);
}

// Whatever server asks for it: an update has no place for magnitudes.
TEST_F(ClientTest, AJobWithDoraIsGivenBack) {
  link::Assignment assignment = MakeAssignment('a');
  assignment.training.adapter.use_dora = true;
  server_.assignments = {assignment};
  Begin(MakeSetup());
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return !server_.released.empty(); }));
  EXPECT_EQ(server_.released[0], "training failed: UNIMPLEMENTED");
  EXPECT_EQ(trainer_.num_runs(), 0);
}

TEST_F(ClientTest, EvaluatesOnly) {
  link::Assignment assignment = MakeAssignment('a', {server_.AddBlob(MakeBlob(1))});
  assignment.train = false;
  server_.assignments = {assignment};
  Begin(MakeSetup());
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return server_.evaluations == 1; }));
  EXPECT_TRUE(server_.updates.empty());
}

TEST_F(ClientTest, StopsWhenAsked) {
  Begin(MakeSetup());
  sim_.executor().RunFor(absl::Minutes(1));
  client_->Stop();
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return finished_.has_value(); }, absl::Seconds(10)));
  EXPECT_TRUE(finished_->ok());
}

TEST_F(ClientTest, GetsThroughABadNetwork) {
  link_.set_faults({.unavailable = 0.2,
                    .lose_request = 0.1,
                    .lose_answer = 0.1,
                    .duplicate = 0.1,
                    .corrupt = 0.1,
                    .timeout = absl::Seconds(30),
                    .max_delay = absl::Seconds(2)});
  ClientSetup setup = MakeSetup();
  for (char id = 'a'; id < 'u'; ++id) {
    server_.assignments.push_back(MakeAssignment(id, {server_.AddBlob(MakeBlob(static_cast<uint64_t>(id)))}));
  }
  Begin(setup);
  ASSERT_TRUE(sim_.executor().RunUntil([&] { return server_.assignments.empty(); }));
  EXPECT_EQ(server_.updates.size(), 20);
}

}  // namespace
}  // namespace strata

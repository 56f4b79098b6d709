#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/format/safetensors.h"
#include "tests/server/server_fixture.h"

namespace strata::server {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

class FederationServerTest : public ServerFixture {
 protected:
  FederationServerTest() { Start(); }

  // What a version's blobs decode to: dense [out, in] of one module.
  std::vector<double> Decode(const v1::VersionInfo& version, const config::ModuleShape& module) {
    std::vector<std::shared_ptr<const runtime::Mapping>> mappings;
    std::vector<std::unique_ptr<adapter::Adapter>> adapters;
    std::vector<aggregate::Member> members;
    for (const std::string& sha256 : version.blobs()) {
      const auto mapping = OpenBlob({"", true}, sha256);
      const auto manifest = Call<std::string>([&](auto reply) { server_->ReadManifest(sha256, std::move(reply)); });
      EXPECT_THAT(mapping, IsOk());
      EXPECT_THAT(manifest, IsOk());
      mappings.push_back(*mapping);
      auto tensors = format::Safetensors::Parse((*mapping)->bytes(), "blob");
      auto update = adapter::OpenUpdate(*adapter::ParseManifest(*manifest), *std::move(tensors));
      EXPECT_THAT(update, IsOk());
      adapters.push_back(std::make_unique<adapter::Adapter>(*std::move(update)));
      members.push_back({sha256, 1, adapters.back().get()});
    }
    return aggregate::DenseSum(members, module.name, module.out, module.in);
  }
};

// sum over rounds of sum_j p_j s_j B_j A_j, from what the sites sent.
std::vector<double> Expected(const std::vector<std::vector<std::pair<double, const adapter::Adapter*>>>& rounds,
                             const config::ModuleShape& module) {
  std::vector<aggregate::Member> members;
  for (const auto& round : rounds) {
    double total = 0;
    for (const auto& [n, adapter] : round) total += n;
    for (const auto& [n, adapter] : round) members.push_back({absl::StrCat(members.size()), n / total, adapter});
  }
  return aggregate::DenseSum(members, module.name, module.out, module.in);
}

double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

TEST_F(FederationServerTest, RoundsRunToTheEndAndTheSumIsExact) {
  v1::JobConfig job = Job(2);
  job.mutable_evaluation()->set_holdout(0.1);
  const std::string id = SubmitJob(job);
  std::vector<std::unique_ptr<adapter::Adapter>> sent;
  std::vector<std::vector<std::pair<double, const adapter::Adapter*>>> rounds(2);
  for (int round = 0; round < 2; ++round) {
    for (const std::string site : {"c", "a", "b"}) {
      const v1::Assignment assignment = Assigned(site, RankOf(site));
      ASSERT_EQ(assignment.round(), round + 1u);
      EXPECT_EQ(assignment.blobs_size(), round);
      for (const v1::BlobRef& blob : assignment.blobs()) EXPECT_THAT(OpenBlob({site, false}, blob.sha256()), IsOk());
      sent.push_back(std::make_unique<adapter::Adapter>(Factors(assignment)));
      rounds[static_cast<size_t>(round)].emplace_back(NumExamples(site), sent.back().get());
      ASSERT_THAT(Submit(site, assignment.id(), UpdateOf(assignment)), IsOk());
    }
  }
  for (const std::string site : {"a", "b", "c"}) {
    const v1::Assignment assignment = Assigned(site, RankOf(site));
    EXPECT_EQ(assignment.task(), v1::EVALUATE);
    ASSERT_THAT(Evaluate(assignment), IsOk());
  }
  const v1::JobReport report = Show(id);
  EXPECT_EQ(report.summary().state(), v1::DONE);
  ASSERT_EQ(report.rounds_size(), 2);
  EXPECT_EQ(report.rounds(0).state(), "committed");
  EXPECT_EQ(report.rounds(0).sites_size(), 3);
  EXPECT_DOUBLE_EQ(report.rounds(0).sites(2).weight(), 0.5);
  EXPECT_EQ(report.rounds(0).max_rank_in(), 9u);
  EXPECT_LT(report.rounds(0).error(), 1e-6);
  EXPECT_GT(report.rounds(0).zero_pad_distance(), 0.01);
  EXPECT_EQ(report.rounds(0).evaluation(0).name(), "loss");
  EXPECT_DOUBLE_EQ(report.rounds(0).evaluation(0).value(), 4);
  EXPECT_GT(report.rounds(1).sites(0).bytes_down(), 0u);
  EXPECT_DOUBLE_EQ(report.final_evaluation(0).value(), 2);
  EXPECT_EQ(report.best_version(), 2u);
  const std::vector<v1::VersionInfo> versions = Versions(id);
  ASSERT_EQ(versions.size(), 3u);
  EXPECT_EQ(versions[2].blobs_size(), 2);
  EXPECT_TRUE(versions[2].best());
  for (const config::ModuleShape& module : kModules) {
    EXPECT_LT(Distance(Decode(versions[2], module), Expected(rounds, module)), 1e-6) << module.name;
  }
}

TEST_F(FederationServerTest, ALongListIsCompactedAndStaysExact) {
  v1::JobConfig job = Job(4);
  job.mutable_aggregation()->set_max_blobs(2);
  const std::string id = SubmitJob(job);
  std::vector<std::unique_ptr<adapter::Adapter>> sent;
  std::vector<std::vector<std::pair<double, const adapter::Adapter*>>> rounds(4);
  for (auto& round : rounds) {
    for (const std::string site : {"a", "b", "c"}) {
      const v1::Assignment assignment = Assigned(site, 0);
      sent.push_back(std::make_unique<adapter::Adapter>(Factors(assignment)));
      round.emplace_back(NumExamples(site), sent.back().get());
      ASSERT_THAT(Submit(site, assignment.id(), UpdateOf(assignment)), IsOk());
    }
  }
  const std::vector<v1::VersionInfo> versions = Versions(id);
  ASSERT_EQ(versions.size(), 5u);
  EXPECT_EQ(versions[2].blobs_size(), 2);
  EXPECT_EQ(versions[3].blobs_size(), 1);
  EXPECT_EQ(versions[4].blobs_size(), 2);
  for (const config::ModuleShape& module : kModules) {
    EXPECT_LT(Distance(Decode(versions[4], module), Expected(rounds, module)), 1e-6) << module.name;
  }
}

TEST_F(FederationServerTest, BadUpdatesAreRefusedWithTheReasonAndTheRoundGoesOn) {
  using Change = std::function<void(Update&, const v1::Assignment&)>;
  const auto with_rank = [](int64_t rank, const std::string& module, int64_t out) {
    return [=](Update& update, const v1::Assignment&) {
      adapter::AdapterBuilder builder;
      builder.Add(module, rank, out, 8, 1, 1, std::vector<float>(static_cast<size_t>(rank) * 8, 0.5F),
                  std::vector<float>(static_cast<size_t>(out * rank), 0.5F));
      const adapter::Adapter factors = std::move(builder).Build();
      update.tensors = adapter::PeftTensorBytes(factors, {});
      update.manifest.blocks = adapter::BlocksOf(factors);
    };
  };
  const std::vector<std::pair<std::string, Change>> cases = {
      {"base model", [](Update& update, const v1::Assignment&) { update.manifest.base.weights[0] = 'x'; }},
      {"was not assigned", with_rank(2, "model.layers.9.mlp.up_proj", 12)},
      {"rank 5", with_rank(5, kModules[0].name, 12)},
      {"shape", with_rank(2, kModules[0].name, 13)},
      {"a.weight",
       [](Update& update, const v1::Assignment& assignment) {
         std::vector<float> b(12 * 2, 0.1F);
         b[7] = std::numeric_limits<float>::quiet_NaN();
         adapter::AdapterBuilder builder;
         builder.Add(kModules[0].name, 2, 12, 8, 1, 1, std::vector<float>(16, 0.1F), std::move(b));
         update = UpdateOf(assignment, std::move(builder).Build());
       }},
      {"update of", [](Update& update, const v1::Assignment&) { update.tensors.resize(20); }},
      {"expected 1 to", [](Update& update, const v1::Assignment&) { update.tensors.resize(2 << 20); }},
  };
  for (const auto& [reason, change] : cases) {
    const std::string id = SubmitJob(Job(1));
    RunRound({"a", "b"});
    const v1::Assignment assignment = Assigned("c");
    Update update = UpdateOf(assignment);
    change(update, assignment);
    update = std::move(update).Sealed();
    const auto receipt = Submit("c", assignment.id(), update);
    EXPECT_THAT(receipt, StatusIs(absl::StatusCode::kInvalidArgument)) << reason;
    const v1::JobReport report = Show(id);
    EXPECT_EQ(report.summary().state(), v1::DONE) << reason;
    ASSERT_EQ(report.rounds(0).sites_size(), 3);
    EXPECT_EQ(report.rounds(0).sites(2).state(), "refused");
    if (reason != "a.weight" && reason != "shape") {
      EXPECT_THAT(std::string(receipt.status().message()), HasSubstr(reason));
    }
    EXPECT_FALSE(report.rounds(0).sites(2).reason().empty());
    // The same update again meets the same refusal.
    EXPECT_THAT(Submit("c", assignment.id(), update), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(FederationServerTest, RepeatedAndStaleSubmits) {
  const std::string id = SubmitJob(Job(2));
  const v1::Assignment a = Assigned("a");
  const Update update = UpdateOf(a);
  ASSERT_OK_AND_ASSIGN(const v1::Receipt first, Submit("a", a.id(), update));
  EXPECT_EQ(first.tensors_sha256(), update.manifest.tensors_sha256);
  ASSERT_OK_AND_ASSIGN(const v1::Receipt again, Submit("a", a.id(), update));
  EXPECT_EQ(again.tensors_sha256(), first.tensors_sha256());
  v1::Assignment other = a;
  other.set_round(99);
  EXPECT_THAT(Submit("a", a.id(), UpdateOf(a, Factors(other))),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr(secure::ToHex(first.tensors_sha256()))));
  EXPECT_THAT(Submit("b", a.id(), update), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Submit("a", std::string(16, 'z'), update), StatusIs(absl::StatusCode::kFailedPrecondition));
  const v1::Assignment b = Assigned("b", 3);
  Update stale = UpdateOf(b);
  stale.manifest.parent_version = 7;
  EXPECT_THAT(Submit("b", b.id(), stale), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("version 7")));
  EXPECT_THAT(Submit("b", b.id(), update), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("assignment")));
  ASSERT_THAT(Submit("b", b.id(), UpdateOf(b)), IsOk());  // nothing was lost by that
  RunRound({"c"});
  ASSERT_EQ(Show(id).summary().version(), 1u);
  // After the round the receipt still stands.
  EXPECT_THAT(Submit("a", a.id(), update), IsOk());
}

TEST_F(FederationServerTest, AnUploadIsResumedWhereItWasDurable) {
  SubmitJob(Job(1));
  const v1::Assignment a = Assigned("a");
  const Update update = UpdateOf(a);
  const size_t half = update.tensors.size() / 2;
  ASSERT_THAT(Begin("a", a.id(), update), IsOk());
  {
    ASSERT_OK_AND_ASSIGN(auto sink, Open("a", a.id()));
    EXPECT_EQ(sink->expected_offset(), 0u);
    ASSERT_OK(sink->WriteChunk(std::string_view(update.tensors).substr(0, half)));
  }
  machine_.executor().RunUntilIdle();
  CrashAndStart();
  ASSERT_OK_AND_ASSIGN(const v1::BeginSubmitResponse begun, Begin("a", a.id(), update));
  EXPECT_EQ(begun.offset(), half);
  ASSERT_OK_AND_ASSIGN(auto sink, Open("a", a.id()));
  EXPECT_EQ(sink->expected_offset(), half);
  EXPECT_THAT(sink->WriteChunk(update.tensors), StatusIs(absl::StatusCode::kInvalidArgument));
  ASSERT_OK(sink->WriteChunk(std::string_view(update.tensors).substr(half)));
  EXPECT_OK(Call<v1::Receipt>([&](auto reply) { sink->Finish(std::move(reply)); }));
}

TEST_F(FederationServerTest, ANewerStreamTakesOverAndWrongBytesAreSentAgain) {
  SubmitJob(Job(1));
  const v1::Assignment a = Assigned("a");
  const Update update = UpdateOf(a);
  ASSERT_THAT(Begin("a", a.id(), update), IsOk());
  ASSERT_OK_AND_ASSIGN(auto old_sink, Open("a", a.id()));
  ASSERT_OK_AND_ASSIGN(auto sink, Open("a", a.id()));
  EXPECT_THAT(old_sink->WriteChunk("x"), StatusIs(absl::StatusCode::kAborted));
  std::string wrong = update.tensors;
  wrong.back() ^= 1;
  ASSERT_OK(sink->WriteChunk(wrong));
  EXPECT_THAT(Call<v1::Receipt>([&](auto reply) { sink->Finish(std::move(reply)); }),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_OK(Submit("a", a.id(), update));
}

TEST_F(FederationServerTest, AFullDiskFailsTheRequestNotTheServer) {
  const std::string id = SubmitJob(Job(1));
  RunRound({"a", "b"});
  const v1::Assignment c = Assigned("c", 4);
  const Update update = UpdateOf(c);
  machine_.files().SetCapacity(machine_.files().used_bytes());
  EXPECT_THAT(Submit("c", c.id(), update), StatusIs(absl::StatusCode::kResourceExhausted));
  v1::SubmitJobRequest request;
  *request.mutable_job() = Job(1);
  EXPECT_THAT(Call<v1::SubmitJobResponse>([&](auto reply) { server_->SubmitJob(request, std::move(reply)); }),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(Show(id).summary().state(), v1::RUNNING);
  machine_.files().SetCapacity(uint64_t{1} << 40);
  machine_.executor().RunFor(absl::Seconds(10));
  EXPECT_OK(Submit("c", c.id(), update));
  EXPECT_EQ(Show(id).summary().state(), v1::DONE);
}

TEST_F(FederationServerTest, AnAggregationWaitsForRoomOnTheDisk) {
  const std::string id = SubmitJob(Job(1));
  RunRound({"a", "b"});
  const v1::Assignment c = Assigned("c", 4);
  const Update update = UpdateOf(c);
  ASSERT_THAT(Begin("c", c.id(), update), IsOk());
  ASSERT_OK_AND_ASSIGN(auto sink, Open("c", c.id()));
  ASSERT_OK(sink->WriteChunk(update.tensors));
  machine_.files().SetCapacity(machine_.files().used_bytes());
  Call<v1::Receipt>([&](auto reply) { sink->Finish(std::move(reply)); }).IgnoreError();
  machine_.files().SetCapacity(uint64_t{1} << 40);
  machine_.executor().RunFor(absl::Minutes(1));
  EXPECT_OK(Submit("c", c.id(), update));
  machine_.executor().RunFor(absl::Minutes(1));
  EXPECT_EQ(Show(id).summary().state(), v1::DONE);
}

TEST_F(FederationServerTest, BlobsAreForThoseWhoTakePart) {
  const std::string id = SubmitJob(Job(2));
  RunRound();
  const std::string blob = Versions(id)[1].blobs(0);
  EXPECT_OK(OpenBlob({"a", false}, blob));
  EXPECT_THAT(OpenBlob({"stranger", false}, blob), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(OpenBlob({"a", false}, std::string(32, 'q')), StatusIs(absl::StatusCode::kNotFound));
  const std::string update = Show(id).rounds(0).sites(0).update_sha256();
  EXPECT_OK(OpenBlob({"", true}, update));
  EXPECT_THAT(OpenBlob({"b", false}, update), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_OK(Call<std::string>([&](auto reply) { server_->ReadManifest(update, std::move(reply)); }));
}

TEST_F(FederationServerTest, ParkedSitesWakeAndStopAnswersThem) {
  absl::StatusOr<v1::CheckInResponse> woken = absl::CancelledError("parked");
  absl::StatusOr<v1::CheckInResponse> stopped = absl::CancelledError("parked");
  server_->CheckIn({"a", false}, CheckInOf(0, absl::Minutes(1)), [&](auto answer) { woken = answer; });
  machine_.executor().RunUntilIdle();
  EXPECT_THAT(woken, StatusIs(absl::StatusCode::kCancelled));
  SubmitJob(Job(1));
  ASSERT_OK(woken);
  EXPECT_TRUE(woken->has_assignment());
  RunRound({"a"});
  server_->CheckIn({"a", false}, CheckInOf(0, absl::Minutes(1)), [&](auto answer) { stopped = answer; });
  const auto sites = Call<v1::ListSitesResponse>([&](auto reply) { server_->ListSites(std::move(reply)); });
  ASSERT_OK(sites);
  EXPECT_EQ(sites->sites(0).state(), "parked");
  bool done = false;
  server_->Stop([&] { done = true; });
  machine_.executor().RunUntilIdle();
  EXPECT_TRUE(done);
  EXPECT_THAT(stopped, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(CheckIn("b"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(FederationServerTest, WatchTellsEachChange) {
  const std::string id = SubmitJob(Job(1));
  using Revision = std::pair<uint64_t, v1::JobReport>;
  const auto now = Call<Revision>([&](auto reply) { server_->WatchJob(id, 0, std::move(reply)); });
  ASSERT_OK(now);
  absl::StatusOr<Revision> next = absl::CancelledError("waits");
  server_->WatchJob(id, now->first, [&](auto answer) { next = std::move(answer); });
  machine_.executor().RunUntilIdle();
  EXPECT_THAT(next, StatusIs(absl::StatusCode::kCancelled));
  Assigned("a");
  ASSERT_OK(next);
  EXPECT_GT(next->first, now->first);
  EXPECT_EQ(next->second.rounds(0).sites(0).state(), "assigned");
  const auto gone = Call<Revision>([&](auto reply) { server_->WatchJob("none", 0, std::move(reply)); });
  EXPECT_THAT(gone, StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FederationServerTest, NotEligibleSitesAreToldAndListed) {
  SubmitJob(Job(1));
  v1::CheckInRequest request = CheckInOf();
  request.mutable_models(0)->mutable_identity()->set_weights(std::string(32, 'x'));
  ASSERT_OK_AND_ASSIGN(const v1::CheckInResponse answer, CheckIn("a", request));
  ASSERT_TRUE(answer.has_not_eligible());
  EXPECT_EQ(answer.not_eligible().reasons(0).what(), "base model");
  const auto sites = Call<v1::ListSitesResponse>([&](auto reply) { server_->ListSites(std::move(reply)); });
  ASSERT_OK(sites);
  EXPECT_EQ(sites->sites(0).state(), "not eligible");
  EXPECT_THAT(sites->sites(0).detail(), HasSubstr("base model"));
}

TEST_F(FederationServerTest, AKilledSiteDoesNotHoldTheJobUp) {
  v1::JobConfig job = Job(2);
  job.mutable_rounds()->set_timeout("120s");
  const std::string id = SubmitJob(job);
  RunRound({"a", "b"});
  Assigned("c");  // and is never heard of again
  machine_.executor().RunFor(absl::Minutes(3));
  EXPECT_EQ(Show(id).summary().version(), 1u);
  RunRound({"a", "b"});
  machine_.executor().RunFor(absl::Minutes(3));
  const v1::JobReport report = Show(id);
  EXPECT_EQ(report.summary().state(), v1::DONE);
  EXPECT_EQ(report.rounds(0).sites(2).state(), "released");
}

TEST_F(FederationServerTest, ADamagedBlobIsNotServedAndNamed) {
  const std::string id = SubmitJob(Job(2));
  RunRound();
  const std::string blob = Versions(id)[1].blobs(0);
  CrashAndStart();
  const std::string path = absl::StrCat("/var/strata/blobs/", secure::ToHex(blob));
  machine_.clock().Advance(absl::Seconds(1));
  ASSERT_OK(machine_.files().WriteFile(path, "rot"));
  EXPECT_THAT(OpenBlob({"a", false}, blob), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path)));
}

}  // namespace
}  // namespace strata::server

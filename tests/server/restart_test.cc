// The server is stopped at every change of the disk; what it acknowledged must be there, and the job must come to the
// same end.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/telemetry/log.h"
#include "tests/server/server_fixture.h"

namespace strata::server {
namespace {

using testing::IsOk;

class RestartTest : public ServerFixture {
 protected:
  // Sites that do what a client does, over and over, until the job has ended. Each power loss is followed by a restart.
  void Drive() {
    for (int turn = 0; turn < 200; ++turn) {
      if (server_ == nullptr || machine_.files().halted()) {
        Crash();
        ++restarts_;
        ASSERT_THAT(TryStart(), IsOk());
      }
      if (job_.empty()) {
        TrySubmitJob();
        continue;
      }
      if (Call<v1::JobReport>([&](auto reply) { server_->ShowJob(job_, std::move(reply)); })
              .value()
              .summary()
              .state() == v1::DONE) {
        return;
      }
      for (const std::string site : {"a", "b"}) Work(site);
      machine_.executor().RunFor(absl::Seconds(6));
    }
    FAIL() << "the job did not end";
  }

  void TrySubmitJob() {
    v1::SubmitJobRequest request;
    *request.mutable_job() = Job(2);
    request.mutable_job()->clear_sites();
    request.mutable_job()->set_all_sites(true);
    request.mutable_job()->mutable_evaluation()->set_holdout(0.1);
    const auto response =
        Call<v1::SubmitJobResponse>([&](auto reply) { server_->SubmitJob(request, std::move(reply)); });
    if (response.ok()) job_ = response->id();
  }

  void Work(const std::string& site) {
    const auto response = CheckIn(site, RankOf(site));
    if (!response.ok() || !response->has_assignment()) return;
    const v1::Assignment& assignment = response->assignment();
    if (assignment.task() == v1::EVALUATE) {
      Evaluate(assignment).IgnoreError();
      return;
    }
    const Update update = UpdateOf(assignment);
    const auto receipt = Submit(site, assignment.id(), update);
    if (!receipt.ok()) return;
    const auto known = receipts_.emplace(assignment.id(), std::pair(site, update));
    EXPECT_EQ(known.first->second.second.tensors, update.tensors);
    // One receipt a site and round, however often the server was killed.
    std::set<std::string>& reported = rounds_reported_[{site, assignment.round()}];
    reported.insert(assignment.id());
    EXPECT_EQ(reported.size(), 1u);
  }

  void Check() {
    for (const auto& [id, sent] : receipts_) {
      const auto receipt = Begin(sent.first, id, sent.second);
      ASSERT_THAT(receipt, IsOk());
      EXPECT_TRUE(receipt->has_receipt());
    }
    EXPECT_LE(receipts_.size(), 4u);  // an answer may have been lost
  }

  std::vector<std::string> FinalBlobs() {
    const std::vector<v1::VersionInfo> versions = Versions(job_);
    return {versions.back().blobs().begin(), versions.back().blobs().end()};
  }

  void Forget() {
    server_.reset();
    job_.clear();
    receipts_.clear();
    rounds_reported_.clear();
    restarts_ = 0;
  }

  std::string job_;
  std::map<std::string, std::pair<std::string, Update>> receipts_;
  std::map<std::pair<std::string, uint32_t>, std::set<std::string>> rounds_reported_;
  int restarts_ = 0;
};

TEST_F(RestartTest, AtEveryStopOfTheDisk) {
  telemetry::SetLogLevel("error");
  ASSERT_THAT(TryStart(), IsOk());
  Drive();
  Check();
  const std::vector<std::string> expected = FinalBlobs();
  ASSERT_EQ(expected.size(), 2u);
  const uint64_t stops = machine_.files().num_changes();
  ASSERT_GT(stops, 50u);
  for (uint64_t stop = 0; stop < stops; ++stop) {
    SCOPED_TRACE(absl::StrCat("stop ", stop));
    Forget();
    machine_.executor().Clear();
    machine_.files().Crash();
    ASSERT_THAT(machine_.files().RemoveAll("/var"), IsOk());
    machine_.files().SyncAll();
    machine_.files().HaltAfter(stop);
    if (!TryStart().ok()) server_ = nullptr;
    Drive();
    if (HasFatalFailure()) return;
    Check();
    EXPECT_EQ(FinalBlobs(), expected);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace strata::server

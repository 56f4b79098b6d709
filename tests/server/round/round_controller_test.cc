#include "server/round/round_controller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/round/eligibility.h"
#include "tests/testing/status_matchers.h"

namespace strata::round {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

const adapter::BaseIdentity kBase{std::string(32, 'w'), std::string(32, 's'), "fp32"};

config::JobOptions Job(uint32_t rounds = 2) {
  config::JobOptions job;
  job.name = "demo";
  job.model_digests = {kBase.Digest()};
  job.data = "text";
  job.rounds.count = rounds;
  job.rounds.min_sites = 2;
  job.rounds.timeout = absl::Minutes(10);
  return job;
}

// A controller with a clock that the test moves.
class RoundControllerTest : public ::testing::Test {
 protected:
  RoundControllerTest() { Restart(); }

  // What a restart of the server does: everything from the records.
  void Restart() {
    std::vector<JobRecord> records;
    if (controller_ != nullptr) {
      for (const auto& [id, job] : controller_->jobs()) records.push_back(job);
    }
    ControllerOptions options;
    options.liveness_timeout = absl::Minutes(1);
    controller_ = std::make_unique<RoundController>(
        options, [this] { return absl::StrCat("assignment-", absl::Dec(++ids_, absl::kZeroPad5)); },
        std::move(records));
    Do(Restarted{});
  }

  void Do(const Event& event) {
    actions_ = controller_->Handle(event, now_);
    for (const Action& action : actions_) {
      if (const auto* answer = std::get_if<Answer>(&action)) answers_[answer->token] = *answer;
      if (const auto* start = std::get_if<StartAggregation>(&action)) starts_.push_back(*start);
      if (const auto* fact = std::get_if<Fact>(&action)) facts_.push_back(*fact);
    }
  }

  void Advance(absl::Duration by) {
    now_ += by;
    Do(Ticked{});
  }

  CheckedIn From(const std::string& site, absl::Duration wait = absl::ZeroDuration()) {
    CheckedIn event;
    event.token = ++token_;
    event.site = site;
    event.offers = {{"base", kBase, {{"m.layers.0.q_proj", 8, 8}, {"m.layers.1.q_proj", 8, 8}, {"lm_head", 16, 8}}}};
    event.data_labels = {"text"};
    event.max_wait = wait;
    return event;
  }

  // The assignment that a check-in is answered with; without one, its id is empty.
  Assignment CheckIn(const std::string& site) {
    const CheckedIn event = From(site);
    Do(event);
    return AssignmentOf(event.token);
  }
  Assignment AssignmentOf(uint64_t token) {
    const auto* assignment = std::get_if<Assignment>(&answers_[token].value);
    return assignment == nullptr ? Assignment() : *assignment;
  }

  absl::Status Submit(const std::string& site, const std::string& assignment, const std::string& sha256 = "") {
    const uint64_t token = ++token_;
    Do(UpdateStored{token, site, assignment, {sha256.empty() ? "sha-" + site : sha256, 100, 10, {}}});
    return answers_[token].status;
  }
  ProgressAnswer Report(const std::string& site, const std::string& assignment) {
    const uint64_t token = ++token_;
    Do(ProgressMade{token, site, assignment, {"training", 1, 10, 2.5, 100}});
    return std::get<ProgressAnswer>(answers_[token].value);
  }
  void TrainAndSubmit(const std::vector<std::string>& sites) {
    std::vector<Assignment> assignments;
    for (const std::string& site : sites) assignments.push_back(CheckIn(site));
    for (size_t i = 0; i < sites.size(); ++i) ASSERT_THAT(Submit(sites[i], assignments[i].id), IsOk());
  }
  void Aggregate() {
    ASSERT_FALSE(starts_.empty());
    const StartAggregation start = starts_.back();
    std::vector<BlobRef> blobs = start.blobs;
    blobs.push_back({absl::StrCat("blob-", start.round), 10});
    Do(Aggregated{start.job, start.round, start.attempt, blobs});
  }
  const JobRecord& Record(const std::string& id = "job") { return controller_->jobs().at(id); }
  int Count(Fact::Kind kind) {
    return static_cast<int>(std::ranges::count_if(facts_, [&](const Fact& fact) { return fact.kind == kind; }));
  }

  std::unique_ptr<RoundController> controller_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  uint64_t token_ = 0;
  int ids_ = 0;
  std::vector<Action> actions_;
  std::map<uint64_t, Answer> answers_;
  std::vector<StartAggregation> starts_;
  std::vector<Fact> facts_;
};

TEST_F(RoundControllerTest, NamedSitesRunRoundAfterRoundToTheEnd) {
  config::JobOptions options = Job(2);
  options.sites = {"a", "b", "c"};
  Do(JobSubmitted{"job", options});
  TrainAndSubmit({"a", "b"});
  EXPECT_TRUE(starts_.empty());  // c is still missing
  TrainAndSubmit({"c"});
  ASSERT_EQ(starts_.size(), 1u);
  ASSERT_EQ(starts_[0].members.size(), 3u);
  EXPECT_EQ(starts_[0].members[0].site, "a");
  EXPECT_EQ(starts_[0].version, 0u);
  Aggregate();
  EXPECT_EQ(Record().version, 1u);
  const Assignment second = CheckIn("a");
  EXPECT_EQ(second.round, 2u);
  EXPECT_EQ(second.version, 1u);
  ASSERT_EQ(second.blobs.size(), 1u);
  ASSERT_THAT(Submit("a", second.id), IsOk());
  TrainAndSubmit({"b", "c"});
  Aggregate();
  EXPECT_EQ(Record().state, JobState::kDone);
  EXPECT_EQ(Record().version, 2u);
}

TEST_F(RoundControllerTest, AllSitesCloseWhenNobodyWorksAndEnoughReported) {
  Do(JobSubmitted{"job", Job(1)});
  const Assignment a = CheckIn("a");
  ASSERT_THAT(Submit("a", a.id), IsOk());
  EXPECT_TRUE(starts_.empty());  // one of at least two
  const Assignment b = CheckIn("b");
  const Assignment c = CheckIn("c");
  ASSERT_THAT(Submit("b", b.id), IsOk());
  EXPECT_TRUE(starts_.empty());  // c works
  ASSERT_THAT(Submit("c", c.id), IsOk());
  EXPECT_EQ(starts_.size(), 1u);
}

TEST_F(RoundControllerTest, ReportGoalClosesAtOnceAndStopsTheOthers) {
  config::JobOptions options = Job(1);
  options.rounds.report_goal = 2;
  Do(JobSubmitted{"job", options});
  const Assignment a = CheckIn("a");
  const Assignment b = CheckIn("b");
  const Assignment c = CheckIn("c");
  ASSERT_THAT(Submit("a", a.id), IsOk());
  ASSERT_THAT(Submit("b", b.id), IsOk());
  ASSERT_EQ(starts_.size(), 1u);
  EXPECT_TRUE(Report("c", c.id).stop);
  EXPECT_THAT(Submit("c", c.id), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(RoundControllerTest, DeadlineTakesTwoOfThree) {
  config::JobOptions options = Job(1);
  options.sites = {"a", "b", "c"};
  Do(JobSubmitted{"job", options});
  TrainAndSubmit({"a", "b"});
  CheckIn("c");
  Advance(absl::Minutes(2));
  EXPECT_EQ(Count(Fact::Kind::kLost), 1);
  EXPECT_TRUE(starts_.empty());
  EXPECT_EQ(controller_->NextDeadline(), absl::FromUnixSeconds(1000) + absl::Minutes(10));
  Advance(absl::Minutes(8));
  ASSERT_EQ(starts_.size(), 1u);
  EXPECT_EQ(starts_[0].members.size(), 2u);
  Aggregate();
  EXPECT_EQ(Record().state, JobState::kDone);
}

TEST_F(RoundControllerTest, ShortOfSitesIsRetriedWithTheReportsThereAreThenFails) {
  config::JobOptions options = Job(1);
  options.rounds.max_attempts = 2;
  options.sites = {"a", "b"};
  Do(JobSubmitted{"job", options});
  TrainAndSubmit({"a"});
  Advance(absl::Minutes(10));
  EXPECT_EQ(Record().attempt, 2u);
  EXPECT_THAT(Record().reason, HasSubstr("1 of at least 2"));
  EXPECT_THAT(Record().reason, HasSubstr("b did not check in"));
  EXPECT_TRUE(CheckIn("a").id.empty());  // its report is kept
  Advance(absl::Minutes(10));
  EXPECT_EQ(Record().state, JobState::kFailed);
}

TEST_F(RoundControllerTest, KeptReportsCountInTheNextAttempt) {
  config::JobOptions options = Job(1);
  options.sites = {"a", "b"};
  Do(JobSubmitted{"job", options});
  TrainAndSubmit({"a"});
  Advance(absl::Minutes(10));
  TrainAndSubmit({"b"});
  ASSERT_EQ(starts_.size(), 1u);
  EXPECT_EQ(starts_[0].members.size(), 2u);
  EXPECT_EQ(starts_[0].attempt, 2u);
}

TEST_F(RoundControllerTest, RefusedSitesDoNotHoldTheRoundUp) {
  config::JobOptions options = Job(1);
  options.sites = {"a", "b", "c"};
  Do(JobSubmitted{"job", options});
  TrainAndSubmit({"a", "b"});
  const Assignment c = CheckIn("c");
  Do(UpdateRefused{"c", c.id, "NaN in layer 3"});
  ASSERT_EQ(starts_.size(), 1u);
  EXPECT_EQ(starts_[0].members.size(), 2u);
  EXPECT_THAT(Submit("c", c.id), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("NaN in layer 3")));
}

TEST_F(RoundControllerTest, AllNamedSitesSettledButTooFewRetriesAtOnce) {
  config::JobOptions options = Job(1);
  options.sites = {"a", "b"};
  Do(JobSubmitted{"job", options});
  TrainAndSubmit({"a"});
  const Assignment b = CheckIn("b");
  Do(UpdateRefused{"b", b.id, "wrong shape"});
  EXPECT_EQ(Record().attempt, 2u);
  EXPECT_THAT(Record().reason, HasSubstr("b was refused (wrong shape)"));
}

TEST_F(RoundControllerTest, SilentSiteIsLostAndTakenBackWhenHeardOf) {
  Do(JobSubmitted{"job", Job(1)});
  const Assignment a = CheckIn("a");
  Advance(absl::Seconds(50));
  EXPECT_FALSE(Report("a", a.id).stop);
  Advance(absl::Seconds(50));
  EXPECT_EQ(Count(Fact::Kind::kLost), 0);
  Advance(absl::Seconds(20));
  EXPECT_EQ(Count(Fact::Kind::kLost), 1);
  EXPECT_FALSE(Report("a", a.id).stop);
  EXPECT_THAT(Submit("a", a.id), IsOk());
}

TEST_F(RoundControllerTest, CheckInAgainGetsTheSameAssignment) {
  Do(JobSubmitted{"job", Job(1)});
  const Assignment a = CheckIn("a");
  EXPECT_EQ(CheckIn("a").id, a.id);
  Advance(absl::Minutes(2));  // lost
  EXPECT_EQ(CheckIn("a").id, a.id);
}

TEST_F(RoundControllerTest, GivenBackIsAssignedAnewButNotForEver) {
  Do(JobSubmitted{"job", Job(1)});
  const Assignment first = CheckIn("a");
  Do(GivenBack{++token_, "a", first.id, "out of memory"});
  const Assignment second = CheckIn("a");
  EXPECT_NE(second.id, first.id);
  EXPECT_FALSE(second.id.empty());
  EXPECT_THAT(Submit("a", first.id), StatusIs(absl::StatusCode::kAborted, HasSubstr("out of memory")));
  Do(GivenBack{++token_, "a", second.id, "out of memory"});
  EXPECT_TRUE(CheckIn("a").id.empty());
}

TEST_F(RoundControllerTest, RepeatedSubmitIsTheFirstAnswerAnotherDigestIsNot) {
  Do(JobSubmitted{"job", Job(1)});
  const Assignment a = CheckIn("a");
  ASSERT_THAT(Submit("a", a.id, "one"), IsOk());
  ASSERT_THAT(Submit("a", a.id, "one"), IsOk());
  EXPECT_THAT(Submit("a", a.id, "two"), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("6f6e65")));
  EXPECT_THAT(Submit("b", a.id, "one"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Submit("a", "no such id", "one"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(Count(Fact::Kind::kAccepted), 1);
}

TEST_F(RoundControllerTest, ParkedSitesWakeWhenAJobArrives) {
  const CheckedIn a = From("a", absl::Minutes(1));
  Do(a);
  EXPECT_FALSE(answers_.contains(a.token));
  EXPECT_EQ(controller_->NextDeadline(), now_ + absl::Minutes(1));
  Do(JobSubmitted{"job", Job(1)});
  EXPECT_FALSE(AssignmentOf(a.token).id.empty());
  EXPECT_EQ(controller_->num_parked(), 0u);
}

TEST_F(RoundControllerTest, ParkedSitesWakeForTheNextRoundAndTimeOut) {
  Do(JobSubmitted{"job", Job(2)});
  TrainAndSubmit({"a"});
  const CheckedIn waiting = From("a", absl::Minutes(1));
  Do(waiting);
  EXPECT_FALSE(answers_.contains(waiting.token));
  TrainAndSubmit({"b"});
  Aggregate();
  EXPECT_EQ(AssignmentOf(waiting.token).round, 2u);
  const CheckedIn idle = From("c", absl::Seconds(30));
  Do(JobAborted{++token_, "job", "enough"});
  Do(idle);
  Advance(absl::Seconds(30));
  ASSERT_TRUE(answers_.contains(idle.token));
  EXPECT_TRUE(std::get<ComeBack>(answers_[idle.token].value).no_open_job);
}

TEST_F(RoundControllerTest, ANewerCheckInReplacesTheParkedOne) {
  const CheckedIn first = From("a", absl::Minutes(1));
  Do(first);
  const CheckedIn second = From("a", absl::Minutes(1));
  Do(second);
  EXPECT_TRUE(std::holds_alternative<ComeBack>(answers_[first.token].value));
  Do(CheckInCancelled{second.token});
  EXPECT_EQ(controller_->num_parked(), 0u);
}

TEST_F(RoundControllerTest, NotEligibleSaysWhatWasExpectedAndFound) {
  config::JobOptions options = Job(1);
  options.sites = {"a", "b"};
  Do(JobSubmitted{"job", options});
  CheckedIn stranger = From("x");
  Do(stranger);
  const auto reason = [&](uint64_t token) { return std::get<NotEligible>(answers_[token].value).reasons.at(0); };
  EXPECT_EQ(reason(stranger.token).what, "site");
  EXPECT_EQ(reason(stranger.token).expected, "a, b");
  CheckedIn other_base = From("a");
  other_base.offers[0].identity.weights = std::string(32, 'x');
  Do(other_base);
  EXPECT_EQ(reason(other_base.token).what, "base model");
  EXPECT_THAT(reason(other_base.token).found, HasSubstr(other_base.offers[0].identity.Digest()));
  CheckedIn no_data = From("a");
  no_data.data_labels = {"images"};
  Do(no_data);
  EXPECT_EQ(reason(no_data.token).what, "data");
  EXPECT_EQ(reason(no_data.token).found, "images");
}

TEST_F(RoundControllerTest, JobsRunOneAfterAnother) {
  Do(JobSubmitted{"first", Job(1)});
  Do(JobSubmitted{"second", Job(1)});
  EXPECT_EQ(Record("second").state, JobState::kQueued);
  EXPECT_EQ(CheckIn("a").job, "first");
  Do(JobAborted{++token_, "first", "stop"});
  EXPECT_EQ(Record("first").state, JobState::kAborted);
  EXPECT_EQ(CheckIn("a").job, "second");
  const uint64_t token = ++token_;
  Do(JobAborted{token, "first", "again"});
  EXPECT_THAT(answers_[token].status, StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(RoundControllerTest, AbortStopsWorkUnderWay) {
  Do(JobSubmitted{"job", Job(1)});
  const Assignment a = CheckIn("a");
  Do(JobAborted{++token_, "job", "wrong data"});
  const ProgressAnswer answer = Report("a", a.id);
  EXPECT_TRUE(answer.stop);
  EXPECT_THAT(answer.reason, HasSubstr("wrong data"));
}

TEST_F(RoundControllerTest, AFailedAggregationStartsTheRoundAnew) {
  Do(JobSubmitted{"job", Job(1)});
  TrainAndSubmit({"a", "b"});
  Do(AggregationFailed{"job", 1, 1, "sum n = 0"});
  EXPECT_EQ(Record().attempt, 2u);
  EXPECT_FALSE(CheckIn("a").id.empty());  // its report does not count any more
}

TEST_F(RoundControllerTest, TheLastVersionIsEvaluatedWithoutWaitingForTheLost) {
  config::JobOptions options = Job(1);
  options.evaluation.holdout = 0.1;
  Do(JobSubmitted{"job", options});
  const Assignment train = CheckIn("a");
  EXPECT_TRUE(train.evaluate);
  ASSERT_THAT(Submit("a", train.id), IsOk());
  TrainAndSubmit({"b"});
  Aggregate();
  EXPECT_EQ(Record().stage, Stage::kEvaluating);
  const Assignment a = CheckIn("a");
  EXPECT_EQ(a.task, Task::kEvaluate);
  EXPECT_EQ(a.version, 1u);
  EXPECT_THAT(Submit("a", a.id), StatusIs(absl::StatusCode::kFailedPrecondition));
  const uint64_t token = ++token_;
  Do(Evaluated{token, "a", a.id, {{"loss_before", 2.0}, {"heldout_tokens", 100}}});
  EXPECT_THAT(answers_[token].status, IsOk());
  EXPECT_EQ(Record().state, JobState::kRunning);  // b may still come
  Advance(absl::Minutes(2));
  EXPECT_EQ(Record().state, JobState::kDone);
}

TEST_F(RoundControllerTest, RestartAtEveryStageGoesOn) {
  config::JobOptions options = Job(1);
  options.sites = {"a", "b"};
  options.evaluation.holdout = 0.1;
  Do(JobSubmitted{"job", options});
  Restart();
  const Assignment a = CheckIn("a");
  Restart();
  EXPECT_EQ(CheckIn("a").id, a.id);  // the assignment stands
  ASSERT_THAT(Submit("a", a.id, "one"), IsOk());
  Restart();
  EXPECT_THAT(Submit("a", a.id, "one"), IsOk());  // the receipt too
  EXPECT_THAT(Submit("a", a.id, "two"), StatusIs(absl::StatusCode::kAlreadyExists));
  TrainAndSubmit({"b"});
  ASSERT_EQ(starts_.size(), 1u);
  Restart();
  ASSERT_EQ(starts_.size(), 2u);  // asked for again
  EXPECT_EQ(starts_[1].members.size(), 2u);
  Aggregate();
  Restart();
  for (const char* site : {"a", "b"}) {
    const Assignment evaluation = CheckIn(site);
    EXPECT_EQ(evaluation.task, Task::kEvaluate);
    Do(Evaluated{++token_, site, evaluation.id, {}});
  }
  EXPECT_EQ(Record().state, JobState::kDone);
}

TEST_F(RoundControllerTest, AfterARestartThePastDeadlineWaitsForSignsOfLife) {
  Do(JobSubmitted{"job", Job(1)});
  TrainAndSubmit({"a"});
  const Assignment b = CheckIn("b");
  now_ += absl::Hours(5);
  Restart();
  Advance(absl::Seconds(1));
  EXPECT_EQ(Record().attempt, 1u);
  EXPECT_THAT(Submit("b", b.id), IsOk());
  EXPECT_EQ(starts_.size(), 1u);
}

TEST(EligibilityTest, TargetsFollowPeftsRules) {
  config::JobOptions job = Job();
  job.max_rank = 16;
  job.training.adapter.rank = 8;
  job.training.adapter.alpha = 32;
  const std::vector<config::ModuleShape> modules = {
      {"model.layers.1.mlp.up_proj", 32, 8}, {"model.layers.0.self_attn.q_proj", 8, 8}, {"lm_head", 100, 8}};
  std::vector<Target> targets = ResolveTargets(job, modules, {});
  ASSERT_EQ(targets.size(), 2u);  // all-linear without the head
  EXPECT_EQ(targets[0].module, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(targets[0].rank, 8);
  EXPECT_DOUBLE_EQ(targets[0].scaling, 4);
  CheckedIn site;
  site.rank = 64;
  site.alpha = 16;
  targets = ResolveTargets(job, modules, site);
  EXPECT_EQ(targets[0].rank, 16);  // the job's cap
  EXPECT_DOUBLE_EQ(targets[0].scaling, 1);
  site.max_rank = 4;
  job.training.adapter.use_rslora = true;
  targets = ResolveTargets(job, modules, site);
  EXPECT_EQ(targets[0].rank, 4);
  EXPECT_DOUBLE_EQ(targets[0].scaling, 8);
  job.training.adapter.layers_to_transform = {1};
  EXPECT_EQ(ResolveTargets(job, modules, site).size(), 1u);
}

TEST(EligibilityTest, LayerOfIsTheLastNumberBetweenDots) {
  EXPECT_EQ(LayerOf("model.layers.12.self_attn.q_proj"), 12u);
  EXPECT_EQ(LayerOf("model.layers.3.experts.7.up_proj"), 7u);
  EXPECT_EQ(LayerOf("layers.3.up_proj"), std::nullopt);  // PEFT wants a component before
  EXPECT_EQ(LayerOf("lm_head"), std::nullopt);
}

}  // namespace
}  // namespace strata::round

#include "client/session/client_session.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/runtime/random.h"

namespace strata::session {
namespace {

using State = ClientSession::State;

link::Assignment MakeAssignment(const std::string& id, int num_blobs = 0, bool train = true) {
  link::Assignment assignment;
  assignment.id = id;
  assignment.job = "job";
  assignment.round = 1;
  assignment.train = train;
  for (int i = 0; i < num_blobs; ++i) {
    assignment.blobs.push_back({.sha256 = std::string(32, static_cast<char>(i)), .size = 10});
  }
  assignment.progress_interval = absl::Seconds(10);
  return assignment;
}

// Drives a session by hand and remembers what it asked for last.
class Driver {
 public:
  explicit Driver(SessionOptions options = {}) : session_(options) {}

  const std::vector<Action>& Send(Event event) {
    actions_ = session_.Handle(event, now_);
    for (const Action& action : actions_) {
      if (const auto* timer = std::get_if<SetTimer>(&action)) timers_[static_cast<size_t>(timer->timer)] = *timer;
      if (const auto* timer = std::get_if<CancelTimer>(&action)) timers_[static_cast<size_t>(timer->timer)].reset();
      if (const auto* done = std::get_if<Finish>(&action)) finished_ = done->status;
    }
    return actions_;
  }
  template <typename A>
  const A* Find() const {
    for (const Action& action : actions_) {
      if (const auto* found = std::get_if<A>(&action)) return found;
    }
    return nullptr;
  }
  template <typename A>
  A Get() const {
    const A* found = Find<A>();
    EXPECT_NE(found, nullptr);
    return found != nullptr ? *found : A{};
  }
  absl::Duration Fire(Timer timer) {
    auto& set = timers_[static_cast<size_t>(timer)];
    EXPECT_TRUE(set.has_value());
    if (!set.has_value()) return absl::ZeroDuration();
    const SetTimer fired = *std::exchange(set, std::nullopt);
    now_ += fired.delay;
    Send(TimerFired{.timer = timer, .generation = fired.generation});
    return fired.delay;
  }
  bool Armed(Timer timer) const { return timers_[static_cast<size_t>(timer)].has_value(); }

  void Begin(const std::string& held = "") { Send(Started{.held = held}); }
  void Assign(link::Assignment assignment) {
    Send(CheckedIn{.call = Get<SendCheckIn>().call, .answer = link::CheckInAnswer(std::move(assignment))});
  }
  void TrainToSubmission(const std::string& id = "a") {
    Begin();
    Assign(MakeAssignment(id));
    Send(TrainingEnded{.call = Get<StartTraining>().call,
                       .outcome = TrainingOutcome{.has_update = true, .metrics = {}}});
    EXPECT_EQ(session_.state(), State::kSubmitting);
  }
  void AnswerSubmit(absl::StatusOr<link::Receipt> receipt) {
    Send(Submitted{.call = Get<SubmitUpdate>().call, .receipt = std::move(receipt)});
  }

  ClientSession session_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::vector<Action> actions_;
  std::array<std::optional<SetTimer>, kNumTimers> timers_;
  std::optional<absl::Status> finished_;
};

TEST(ClientSession, TakesPartInARound) {
  Driver d;
  d.Begin();
  EXPECT_EQ(d.Get<SendCheckIn>().holding, "");
  d.Assign(MakeAssignment("a", 2));
  EXPECT_EQ(d.Get<KeepBlobs>().blobs.size(), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(d.Get<FetchBlob>().blob.sha256, std::string(32, static_cast<char>(i)));
    d.Send(BlobFetched{.call = d.Get<FetchBlob>().call, .bytes = uint64_t{10}});
  }
  EXPECT_EQ(d.Get<StartTraining>().assignment.id, "a");
  d.Send(TrainingEnded{.call = d.Get<StartTraining>().call,
                       .outcome = TrainingOutcome{.has_update = true, .metrics = {}}});
  d.AnswerSubmit(link::Receipt{.assignment = "a", .tensors_sha256 = {}, .note = {}});
  EXPECT_EQ(d.Get<DropUpdate>().assignment, "a");
  EXPECT_EQ(d.session_.accepted(), 1);
  EXPECT_FALSE(d.Armed(Timer::kProgress));
  EXPECT_LT(d.Fire(Timer::kRetry), absl::Seconds(1));
  EXPECT_NE(d.Find<SendCheckIn>(), nullptr);
}

TEST(ClientSession, EvaluatesWithoutAnUpdate) {
  Driver d(SessionOptions{.max_rounds = 1});
  d.Begin();
  d.Assign(MakeAssignment("a", 0, false));
  d.Send(TrainingEnded{.call = d.Get<StartTraining>().call,
                       .outcome = TrainingOutcome{.has_update = false, .metrics = {{"loss_before", 2.5}}}});
  const auto sent = d.Get<SubmitEvaluation>();
  ASSERT_EQ(sent.metrics.size(), 1);
  EXPECT_EQ(sent.metrics[0].value, 2.5);
  d.Send(Submitted{.call = sent.call, .receipt = link::Receipt{}});
  EXPECT_EQ(d.session_.accepted(), 0);  // an evaluation is no round
  EXPECT_FALSE(d.finished_.has_value());
}

TEST(ClientSession, LeavesAfterMaxRounds) {
  Driver d(SessionOptions{.max_rounds = 1});
  d.TrainToSubmission();
  d.AnswerSubmit(link::Receipt{});
  ASSERT_TRUE(d.finished_.has_value());
  EXPECT_TRUE(d.finished_->ok());
}

TEST(ClientSession, BacksOffExponentiallyWithJitterWhileTheServerIsAway) {
  Driver d;
  d.Begin();
  absl::Duration previous;
  for (int i = 0; i < 12; ++i) {
    d.Send(CheckedIn{.call = d.Get<SendCheckIn>().call, .answer = absl::UnavailableError("away")});
    const absl::Duration full = std::min(absl::Seconds(60), absl::Seconds(1) * (1 << i));
    const absl::Duration delay = d.Fire(Timer::kRetry);
    EXPECT_GE(delay, full * 0.5);
    EXPECT_LE(delay, full);
    EXPECT_NE(delay, previous);  // jitter
    previous = delay;
  }
}

TEST(ClientSession, AnUpdateSurvivesAnAbsentServer) {
  Driver d;
  d.TrainToSubmission();
  for (int i = 0; i < 20; ++i) {
    d.AnswerSubmit(absl::UnavailableError("away"));
    EXPECT_EQ(d.Find<DropUpdate>(), nullptr);
    d.Fire(Timer::kRetry);
    EXPECT_EQ(d.Get<SubmitUpdate>().assignment, "a");
  }
  d.AnswerSubmit(link::Receipt{});
  EXPECT_EQ(d.session_.accepted(), 1);
}

TEST(ClientSession, HandsInAfterARestart) {
  Driver d;
  d.Begin("held");
  EXPECT_EQ(d.Get<SendCheckIn>().holding, "held");
  d.Send(CheckedIn{.call = d.Get<SendCheckIn>().call, .answer = absl::UnavailableError("away")});
  EXPECT_EQ(d.Find<DropUpdate>(), nullptr);
  d.Fire(Timer::kRetry);
  EXPECT_EQ(d.Get<SendCheckIn>().holding, "held");
  d.Assign(MakeAssignment("held", 3));
  EXPECT_EQ(d.Find<StartTraining>(), nullptr);
  EXPECT_EQ(d.Find<FetchBlob>(), nullptr);
  EXPECT_EQ(d.Get<SubmitUpdate>().assignment, "held");
}

TEST(ClientSession, DropsAHeldUpdateThatTheServerDoesNotWant) {
  Driver other;
  other.Begin("held");
  other.Assign(MakeAssignment("new"));
  EXPECT_EQ(other.Get<DropUpdate>().assignment, "held");
  EXPECT_EQ(other.Get<StartTraining>().assignment.id, "new");

  Driver none;
  none.Begin("held");
  none.Send(CheckedIn{.call = none.Get<SendCheckIn>().call,
                      .answer = link::CheckInAnswer(link::ComeBack{.after = absl::Seconds(5), .reason = {}})});
  EXPECT_EQ(none.Get<DropUpdate>().assignment, "held");
  none.Fire(Timer::kRetry);
  EXPECT_EQ(none.Get<SendCheckIn>().holding, "");
}

TEST(ClientSession, DropsAndChecksInWhenTheRoundIsOver) {
  for (const absl::Status& status : {absl::AbortedError("over"), absl::FailedPreconditionError("stale"),
                                     absl::AlreadyExistsError("another digest"), absl::NotFoundError("unknown")}) {
    Driver d;
    d.TrainToSubmission();
    d.AnswerSubmit(status);
    EXPECT_EQ(d.Get<DropUpdate>().assignment, "a") << status;
    EXPECT_LT(d.Fire(Timer::kRetry), absl::Seconds(1));
    EXPECT_NE(d.Find<SendCheckIn>(), nullptr);
    EXPECT_EQ(d.session_.accepted(), 0);
  }
}

TEST(ClientSession, ARefusedUpdateIsNotRepeated) {
  Driver d;
  d.TrainToSubmission();
  d.AnswerSubmit(absl::InvalidArgumentError("NaN in q_proj"));
  EXPECT_EQ(d.Get<DropUpdate>().assignment, "a");
  EXPECT_EQ(d.Get<Note>().level, Note::Level::kError);
  EXPECT_EQ(d.Get<Note>().detail, "INVALID_ARGUMENT: NaN in q_proj");
  EXPECT_GE(d.Fire(Timer::kRetry), absl::Milliseconds(500));
  EXPECT_NE(d.Find<SendCheckIn>(), nullptr);
}

TEST(ClientSession, WaitsLongWhenItIsNotWelcome) {
  for (const absl::Status& status : {absl::UnauthenticatedError("no"), absl::PermissionDeniedError("revoked"),
                                     absl::UnimplementedError("protocol 2")}) {
    Driver d;
    d.Begin();
    d.Send(CheckedIn{.call = d.Get<SendCheckIn>().call, .answer = status});
    EXPECT_EQ(d.Get<Note>().level, Note::Level::kError);
    EXPECT_GE(d.Fire(Timer::kRetry), absl::Minutes(4)) << status;

    Driver holder;
    holder.TrainToSubmission();
    holder.AnswerSubmit(status);
    EXPECT_EQ(holder.Find<DropUpdate>(), nullptr);
    EXPECT_GE(holder.Fire(Timer::kRetry), absl::Minutes(4));
    EXPECT_EQ(holder.Get<SendCheckIn>().holding, "a");
  }
}

TEST(ClientSession, ObeysTheServersDelays) {
  Driver d;
  d.Begin();
  d.Send(CheckedIn{.call = d.Get<SendCheckIn>().call,
                   .answer = link::CheckInAnswer(link::ComeBack{.after = absl::Seconds(40), .reason = "full"})});
  absl::Duration delay = d.Fire(Timer::kRetry);
  EXPECT_GE(delay, absl::Seconds(40));
  EXPECT_LE(delay, absl::Seconds(44));

  absl::Status busy = absl::ResourceExhaustedError("busy");
  busy.SetPayload(kRetryAfterPayload, absl::Cord("20000"));
  d.Send(CheckedIn{.call = d.Get<SendCheckIn>().call, .answer = busy});
  delay = d.Fire(Timer::kRetry);
  EXPECT_GE(delay, absl::Seconds(20));
  EXPECT_LE(delay, absl::Seconds(22));

  d.Send(CheckedIn{
      .call = d.Get<SendCheckIn>().call,
      .answer = link::CheckInAnswer(link::ComeBack{.after = {}, .reason = "another base", .not_eligible = true})});
  EXPECT_GE(d.Fire(Timer::kRetry), absl::Minutes(5));
}

TEST(ClientSession, ReportsProgressAndStopsWhenTold) {
  Driver d;
  d.Begin();
  d.Assign(MakeAssignment("a"));
  const uint64_t training = d.Get<StartTraining>().call;
  d.Send(TrainingReported{.call = training, .progress = {.step = 7, .of = 9}});
  const absl::Duration interval = d.Fire(Timer::kProgress);
  EXPECT_GE(interval, absl::Seconds(8));
  EXPECT_LE(interval, absl::Seconds(10));
  EXPECT_EQ(d.Get<SendProgress>().progress.training.step, 7);
  d.Send(Reported{.call = d.Get<SendProgress>().call, .answer = absl::UnavailableError("away")});
  EXPECT_EQ(d.session_.state(), State::kTraining);  // training goes on without the server
  d.Fire(Timer::kProgress);
  d.Send(Reported{.call = d.Get<SendProgress>().call, .answer = link::ProgressAnswer{.stop = true, .reason = "over"}});
  EXPECT_NE(d.Find<StopTraining>(), nullptr);
  EXPECT_EQ(d.Find<SendCheckIn>(), nullptr);  // not before the trainer has let go
  d.Send(TrainingEnded{.call = training, .outcome = absl::CancelledError("stopped")});
  d.Fire(Timer::kRetry);
  EXPECT_NE(d.Find<SendCheckIn>(), nullptr);
}

TEST(ClientSession, AStopDoesNotTouchAnUpdateOnItsWay) {
  Driver d;
  d.TrainToSubmission();
  const uint64_t submit = d.Get<SubmitUpdate>().call;
  d.Fire(Timer::kProgress);
  d.Send(Reported{.call = d.Get<SendProgress>().call, .answer = link::ProgressAnswer{.stop = true, .reason = "over"}});
  EXPECT_EQ(d.session_.state(), State::kSubmitting);
  d.Send(Submitted{.call = submit, .receipt = link::Receipt{}});
  EXPECT_EQ(d.session_.accepted(), 1);
}

TEST(ClientSession, AFailedTrainingIsGivenBackWithoutItsText) {
  Driver d;
  d.Begin();
  d.Assign(MakeAssignment("a"));
  d.Send(TrainingEnded{.call = d.Get<StartTraining>().call,
                       .outcome = absl::InvalidArgumentError("/secret/path.jsonl:3: bad row")});
  EXPECT_EQ(d.Get<Release>().reason, "training failed: INVALID_ARGUMENT");
  d.Send(Released{.call = d.Get<Release>().call, .status = absl::OkStatus()});
  EXPECT_GE(d.Fire(Timer::kRetry), absl::Milliseconds(500));
  EXPECT_NE(d.Find<SendCheckIn>(), nullptr);
}

TEST(ClientSession, GivesUpOnABlobThatStaysBroken) {
  Driver d;
  d.Begin();
  d.Assign(MakeAssignment("a", 1));
  for (int i = 0; i < 4; ++i) {
    d.Send(BlobFetched{.call = d.Get<FetchBlob>().call, .bytes = absl::DataLossError("digest")});
    d.Fire(Timer::kRetry);
  }
  d.Send(BlobFetched{.call = d.Get<FetchBlob>().call, .bytes = absl::DataLossError("digest")});
  EXPECT_EQ(d.Get<Release>().reason, "fetch failed: DATA_LOSS");
}

TEST(ClientSession, StopReleasesAndEnds) {
  Driver training;
  training.Begin();
  training.Assign(MakeAssignment("a"));
  const uint64_t call = training.Get<StartTraining>().call;
  training.Send(StopRequested{});
  EXPECT_NE(training.Find<StopTraining>(), nullptr);
  training.Send(TrainingEnded{.call = call, .outcome = absl::CancelledError("stopped")});
  EXPECT_EQ(training.Get<Release>().assignment, "a");
  EXPECT_LE(training.Fire(Timer::kCall), absl::Seconds(5));  // the server need not answer
  ASSERT_TRUE(training.finished_.has_value());
  EXPECT_TRUE(training.finished_->ok());

  Driver idle;
  idle.Begin();
  idle.Send(StopRequested{});
  EXPECT_TRUE(idle.finished_.has_value());

  Driver submitting;
  submitting.TrainToSubmission();
  submitting.Send(StopRequested{});
  EXPECT_EQ(submitting.Find<Release>(), nullptr);
  EXPECT_EQ(submitting.Find<DropUpdate>(), nullptr);  // the next start hands it in
  EXPECT_TRUE(submitting.finished_.has_value());
}

TEST(ClientSession, ALostCheckInIsRepeatedAndItsLateAnswerIgnored) {
  Driver d;
  d.Begin();
  const uint64_t lost = d.Get<SendCheckIn>().call;
  d.Fire(Timer::kCall);
  EXPECT_TRUE(d.Armed(Timer::kRetry));
  d.Send(CheckedIn{.call = lost, .answer = link::CheckInAnswer(MakeAssignment("late"))});
  EXPECT_TRUE(d.actions_.empty());
  d.Fire(Timer::kRetry);
  EXPECT_NE(d.Get<SendCheckIn>().call, lost);
}

// Whatever happens in whatever order: something is always under way or a timer set, answers out of turn change nothing,
// an update is dropped at most once, and Stop leads to Finish.
TEST(ClientSession, NeverGetsStuck) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const runtime::Philox draws(seed);
    uint64_t drawn = 0;
    auto below = [&](uint64_t bound) { return draws.Below(drawn++, bound); };
    Driver d(SessionOptions{.jitter_key = seed});
    std::vector<std::function<void()>> pending;
    std::set<std::string> dropped;
    int next_id = 0;
    auto fault = [&]() -> absl::Status { return absl::Status(static_cast<absl::StatusCode>(1 + below(16)), "drawn"); };
    auto take = [&] {
      for (const Action& action : std::vector<Action>(d.actions_)) {
        if (const auto* a = std::get_if<SendCheckIn>(&action)) {
          pending.push_back([&, call = a->call, holding = a->holding] {
            absl::StatusOr<link::CheckInAnswer> answer = fault();
            const uint64_t kind = below(5);
            if (kind == 0)
              answer = link::CheckInAnswer(link::ComeBack{.after = absl::Seconds(below(20)), .reason = {}});
            if (kind > 1) {
              const bool same = !holding.empty() && below(2) == 0;
              answer = link::CheckInAnswer(MakeAssignment(same ? holding : std::to_string(next_id++),
                                                          static_cast<int>(below(3)), below(4) != 0));
            }
            d.Send(CheckedIn{.call = call, .answer = answer});
          });
        } else if (const auto* a = std::get_if<FetchBlob>(&action)) {
          pending.push_back([&, call = a->call] {
            absl::StatusOr<uint64_t> bytes = fault();
            if (below(4) != 0) bytes = uint64_t{1};
            d.Send(BlobFetched{.call = call, .bytes = bytes});
          });
        } else if (const auto* a = std::get_if<StartTraining>(&action)) {
          pending.push_back([&, call = a->call, train = a->assignment.train] {
            absl::StatusOr<TrainingOutcome> outcome = fault();
            if (below(4) != 0) outcome = TrainingOutcome{.has_update = train, .metrics = {}};
            d.Send(TrainingEnded{.call = call, .outcome = outcome});
          });
        } else if (std::holds_alternative<SubmitUpdate>(action) || std::holds_alternative<SubmitEvaluation>(action)) {
          const auto* update = std::get_if<SubmitUpdate>(&action);
          const uint64_t call = update != nullptr ? update->call : std::get<SubmitEvaluation>(action).call;
          EXPECT_FALSE(update != nullptr && dropped.contains(update->assignment));
          pending.push_back([&, call] {
            absl::StatusOr<link::Receipt> receipt = fault();
            if (below(2) != 0) receipt = link::Receipt{};
            d.Send(Submitted{.call = call, .receipt = receipt});
          });
        } else if (const auto* a = std::get_if<SendProgress>(&action)) {
          pending.push_back([&, call = a->call] {
            absl::StatusOr<link::ProgressAnswer> answer = fault();
            if (below(4) != 0) answer = link::ProgressAnswer{.stop = below(3) == 0, .reason = "drawn"};
            d.Send(Reported{.call = call, .answer = answer});
          });
        } else if (const auto* a = std::get_if<Release>(&action)) {
          pending.push_back([&, call = a->call] { d.Send(Released{.call = call, .status = fault()}); });
        } else if (const auto* a = std::get_if<DropUpdate>(&action)) {
          EXPECT_TRUE(dropped.insert(a->assignment).second) << a->assignment;
        }
      }
      d.actions_.clear();
    };
    auto step = [&] {
      std::vector<Timer> armed;
      for (const Timer timer : {Timer::kRetry, Timer::kProgress, Timer::kCall}) {
        if (d.Armed(timer)) armed.push_back(timer);
      }
      const size_t choices = pending.size() + armed.size();
      ASSERT_GT(choices, 0) << "stuck in state " << static_cast<int>(d.session_.state()) << ", seed " << seed;
      const size_t chosen = below(choices);
      if (chosen < pending.size()) {
        const auto run = pending[chosen];
        if (below(10) != 0) pending.erase(pending.begin() + static_cast<long>(chosen));  // else it comes twice
        run();
      } else {
        d.Fire(armed[chosen - pending.size()]);
      }
      take();
    };
    d.Begin(below(2) == 0 ? "held" : "");
    take();
    for (int i = 0; i < 200 && !d.finished_.has_value(); ++i) ASSERT_NO_FATAL_FAILURE(step());
    d.Send(StopRequested{});
    take();
    for (int i = 0; i < 2000 && !d.finished_.has_value(); ++i) ASSERT_NO_FATAL_FAILURE(step());
    EXPECT_TRUE(d.finished_.has_value()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace strata::session

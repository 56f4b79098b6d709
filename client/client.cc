#include "client/client.h"

#include <array>
#include <atomic>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/state_directory.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "common/telemetry/log.h"

namespace strata {
namespace {

uint64_t DrawKey(runtime::Entropy& entropy) {
  uint64_t key = 0;
  entropy.Fill(std::as_writable_bytes(std::span(&key, 1)));
  return key;
}

const link::ModelOffer* FindOffer(const std::vector<link::ModelOffer>& offers, const std::string& label) {
  for (const link::ModelOffer& offer : offers) {
    if (offer.label == label) return &offer;
  }
  return nullptr;
}

absl::StatusOr<std::string> PathOf(const std::map<std::string, std::string>& paths, const std::string& label,
                                   const char* what) {
  const auto found = paths.find(label);
  if (found == paths.end()) {
    return absl::NotFoundError(absl::StrCat("the assignment asks for ", what, " `", label, "`, which `", what,
                                            ":` of this site's configuration does not list"));
  }
  return found->second;
}

}  // namespace

// Outlives the Client while callbacks are under way; after Kill they find nothing to do. Events and actions run on
// `strand_`, what touches the disk on `disk_`, in the order of the actions.
class Client::Core : public std::enable_shared_from_this<Client::Core> {
 public:
  Core(const ClientParts& parts, ClientSetup setup, StateDirectory state, std::string held)
      : parts_(parts),
        setup_(std::move(setup)),
        state_(std::move(state)),
        held_(std::move(held)),
        session_(setup_.session),
        strand_(parts.runtime.executor),
        disk_(parts.runtime.executor) {}

  void Start(absl::AnyInvocable<void(absl::Status) &&> on_finish) {
    on_finish_ = std::move(on_finish);
    Post(session::Started{.held = held_});
  }

  void Post(session::Event event) {
    if (dead_) return;
    strand_.Post([self = shared_from_this(), event = std::move(event)] { self->Dispatch(event); });
  }

  // Afterwards neither the link nor the disk is touched any more.
  void Kill() {
    const absl::MutexLock lock(&life_);
    dead_ = true;
    stop_training_ = true;
  }

 private:
  void Dispatch(const session::Event& event) {
    const absl::ReaderMutexLock lock(&life_);
    if (dead_ || finished_) return;
    for (session::Action& action : session_.Handle(event, parts_.runtime.clock.Now())) {
      std::visit([this](auto& a) { Do(std::move(a)); }, action);
    }
  }

  template <typename Job>
  void OnDisk(Job job) {
    disk_.Post([self = shared_from_this(), job = std::move(job)]() mutable {
      const absl::ReaderMutexLock lock(&self->life_);
      if (!self->dead_) job(*self);
    });
  }

  void Do(const session::SendCheckIn& action);
  void Do(const session::FetchBlob& action);
  void Do(session::StartTraining action);
  void Do(session::StopTraining) { stop_training_ = true; }
  void Do(const session::SubmitUpdate& action);
  void Do(const session::SubmitEvaluation& action);
  void Do(const session::SendProgress& action);
  void Do(const session::Release& action);
  void Do(session::SetTimer action);
  void Do(session::CancelTimer action);
  void Do(session::KeepBlobs action);
  void Do(session::DropUpdate action);
  void Do(session::Note action);
  void Do(session::Finish action);

  absl::StatusOr<session::TrainingOutcome> Train(uint64_t call, const link::Assignment& assignment);
  absl::StatusOr<train::TrainRequest> MakeRequest(const link::Assignment& assignment);
  absl::Status Save(const link::Assignment& assignment, const train::TrainResult& result);

  ClientParts parts_;
  ClientSetup setup_;
  StateDirectory state_;
  std::string held_;
  session::ClientSession session_;
  runtime::Strand strand_, disk_;
  std::array<runtime::TimerId, session::kNumTimers> timers_{};
  absl::AnyInvocable<void(absl::Status) &&> on_finish_;
  bool finished_ = false;
  absl::Mutex life_;  // read-locked by whatever uses the link or the disk; written by Kill
  std::atomic<bool> dead_ = false;
  std::atomic<bool> stop_training_ = false;
};

void Client::Core::Do(const session::SendCheckIn& action) {
  const config::ClientOptions& options = setup_.options;
  struct link::CheckIn request;
  request.models = setup_.offers;
  for (const auto& [label, path] : options.data) request.data_labels.push_back(label);
  request.rank = options.rank.value_or(0);
  request.alpha = options.alpha.value_or(0);
  request.max_rank = options.max_rank.value_or(0);
  request.max_wait = setup_.session.max_wait;
  request.loopback_name = options.name;
  request.holding = action.holding;
  parts_.link.CheckIn(request, [self = shared_from_this(), call = action.call](auto answer) {
    self->Post(session::CheckedIn{.call = call, .answer = std::move(answer)});
  });
}

void Client::Core::Do(const session::FetchBlob& action) {
  OnDisk([action](Core& core) {
    if (core.state_.VerifyBlob(action.blob).ok()) {
      return core.Post(session::BlobFetched{.call = action.call, .bytes = uint64_t{0}});
    }
    core.parts_.link.Fetch(action.blob, core.state_.BlobPath(action.blob),
                           [self = core.shared_from_this(), action](auto bytes) {
                             self->OnDisk([action, bytes = std::move(bytes)](Core& core) {
                               absl::StatusOr<uint64_t> answer = bytes;
                               if (answer.ok()) {
                                 if (const absl::Status status = core.state_.VerifyBlob(action.blob); !status.ok()) {
                                   answer = absl::DataLossError(status.message());
                                 }
                               }
                               core.Post(session::BlobFetched{.call = action.call, .bytes = std::move(answer)});
                             });
                           });
  });
}

void Client::Core::Do(session::StartTraining action) {
  stop_training_ = false;
  parts_.training.Run([self = shared_from_this(), action = std::move(action)] {
    if (self->dead_) return;
    auto outcome = self->Train(action.call, action.assignment);
    self->Post(session::TrainingEnded{.call = action.call, .outcome = std::move(outcome)});
  });
}

absl::StatusOr<train::TrainRequest> Client::Core::MakeRequest(const link::Assignment& assignment) {
  train::TrainRequest request;
  STRATA_ASSIGN_OR_RETURN(request.model_path, PathOf(setup_.options.models, assignment.model_label, "models"));
  STRATA_ASSIGN_OR_RETURN(request.data_path, PathOf(setup_.options.data, assignment.data_label, "data"));
  for (const link::BlobRef& blob : assignment.blobs) {
    STRATA_ASSIGN_OR_RETURN(auto opened, state_.OpenBlob(blob));
    request.base.push_back(std::move(opened));
  }
  if (assignment.training.adapter.use_dora) {
    return absl::UnimplementedError("the job asks for use_dora: an update carries low-rank products, not magnitudes");
  }
  request.options = assignment.training;
  request.options.device = setup_.options.device;  // the site's own affair, whatever a job says
  request.targets = assignment.targets;
  request.start = assignment.start;
  request.seed = assignment.seed;
  request.round = assignment.round;
  request.site = assignment.site;
  request.holdout = assignment.holdout;
  request.evaluate_before = assignment.evaluate_before;
  request.evaluate_after = assignment.evaluate_after;
  request.train = assignment.train;
  request.work_directory = state_.work();
  request.run = secure::ToHex(assignment.id);
  return request;
}

absl::StatusOr<session::TrainingOutcome> Client::Core::Train(uint64_t call, const link::Assignment& assignment) {
  if (stop_training_) return absl::CancelledError("stopped before the training began");
  STRATA_ASSIGN_OR_RETURN(const train::TrainRequest request, MakeRequest(assignment));
  STRATA_ASSIGN_OR_RETURN(const train::TrainResult result,
                          parts_.trainer.Run(request, [&](const train::TrainProgress& progress) {
                            Post(session::TrainingReported{.call = call, .progress = progress});
                            return !stop_training_;
                          }));
  session::TrainingOutcome outcome{.has_update = result.update != nullptr, .metrics = result.metrics};
  if (dead_ || stop_training_) return absl::CancelledError("the training was stopped");
  if (outcome.has_update) {
    STRATA_RETURN_IF_ERROR(Annotate(Save(assignment, result), "keeping the update"));
    // Only now: until the update lay on disk, a killed client went on from what the trainer had left here.
    if (const absl::Status cleared = state_.ClearWork(); !cleared.ok())
      telemetry::Log(telemetry::Level::kWarning, "work_cleanup_failed", {{"error", cleared.ToString()}});
  }
  return outcome;
}

absl::Status Client::Core::Save(const link::Assignment& assignment, const train::TrainResult& result) {
  const link::ModelOffer* offer = FindOffer(setup_.offers, assignment.model_label);
  adapter::Manifest manifest;
  manifest.base = offer != nullptr ? offer->identity : assignment.base;
  manifest.parent_version = assignment.version;
  manifest.num_examples = result.num_examples;
  manifest.metrics = result.metrics;
  manifest.blocks = adapter::BlocksOf(*result.update);
  for (adapter::PairBlock& block : manifest.blocks) {
    block.a = adapter::PeftTensorName(block.module, true);
    block.b = adapter::PeftTensorName(block.module, false);
  }
  manifest.use_rslora = assignment.training.adapter.use_rslora;
  adapter::PeftWriteOptions written;
  written.use_rslora = manifest.use_rslora;
  const std::string tensors = adapter::PeftTensorBytes(*result.update, written);
  if (assignment.max_update_bytes > 0 && tensors.size() > assignment.max_update_bytes) {
    return absl::OutOfRangeError(absl::StrCat("the update has ", tensors.size(), " bytes, the server takes ",
                                              assignment.max_update_bytes, ": lower `rank` or `max_rank`"));
  }
  return state_.SaveUpdate(std::move(manifest), assignment.id, tensors);
}

void Client::Core::Do(const session::SubmitUpdate& action) {
  OnDisk([action](Core& core) {
    auto answer = [self = core.shared_from_this(), call = action.call](absl::StatusOr<link::Receipt> receipt) {
      self->Post(session::Submitted{.call = call, .receipt = std::move(receipt)});
    };
    auto update = core.state_.LoadUpdate(action.assignment);
    if (!update.ok()) return answer(absl::InternalError(update.status().message()));
    core.parts_.link.Submit(action.assignment, *std::move(update), std::move(answer));
  });
}

void Client::Core::Do(const session::SubmitEvaluation& action) {
  parts_.link.SubmitEvaluation(action.assignment, action.metrics,
                               [self = shared_from_this(), call = action.call](auto receipt) {
                                 self->Post(session::Submitted{.call = call, .receipt = std::move(receipt)});
                               });
}

void Client::Core::Do(const session::SendProgress& action) {
  parts_.link.Report(action.progress, [self = shared_from_this(), call = action.call](auto answer) {
    self->Post(session::Reported{.call = call, .answer = std::move(answer)});
  });
}

void Client::Core::Do(const session::Release& action) {
  parts_.link.Release(action.assignment, action.reason, [self = shared_from_this(), call = action.call](auto answer) {
    self->Post(session::Released{.call = call, .status = answer.status()});
  });
}

void Client::Core::Do(session::SetTimer action) {
  Do(session::CancelTimer{.timer = action.timer});
  timers_[static_cast<size_t>(action.timer)] =
      parts_.runtime.executor.RunAfter(action.delay, [weak = weak_from_this(), action] {
        if (const auto self = weak.lock()) {
          self->Post(session::TimerFired{.timer = action.timer, .generation = action.generation});
        }
      });
}

void Client::Core::Do(session::CancelTimer action) {
  runtime::TimerId& timer = timers_[static_cast<size_t>(action.timer)];
  if (timer != 0) parts_.runtime.executor.Cancel(std::exchange(timer, 0));
}

void Client::Core::Do(session::KeepBlobs action) {
  OnDisk([action = std::move(action)](Core& core) {
    const absl::Status status = core.state_.KeepBlobs(action.blobs);
    if (!status.ok()) telemetry::Log(telemetry::Level::kWarning, "blob_cleanup_failed", {{"error", status.ToString()}});
  });
}

void Client::Core::Do(session::DropUpdate action) {
  OnDisk([action = std::move(action)](Core& core) {
    const absl::Status status = core.state_.DropUpdate(action.assignment);
    if (!status.ok())
      telemetry::Log(telemetry::Level::kWarning, "update_removal_failed", {{"error", status.ToString()}});
  });
}

void Client::Core::Do(session::Note action) {
  using NoteLevel = session::Note::Level;
  const telemetry::Level level = action.level == NoteLevel::kError     ? telemetry::Level::kError
                                 : action.level == NoteLevel::kWarning ? telemetry::Level::kWarning
                                                                       : telemetry::Level::kInfo;
  telemetry::Log(level, action.event, {{"job", action.job}, {"round", action.round}, {"detail", action.detail}});
}

void Client::Core::Do(session::Finish action) {
  finished_ = true;
  parts_.runtime.executor.Run(
      [done = std::move(on_finish_), status = std::move(action.status)]() mutable { std::move(done)(status); });
}

absl::StatusOr<std::unique_ptr<Client>> Client::Open(const ClientParts& parts, ClientSetup setup) {
  STRATA_ASSIGN_OR_RETURN(auto state, StateDirectory::Open(parts.runtime.files, setup.options.state_dir));
  STRATA_ASSIGN_OR_RETURN(const auto updates, state.Updates());
  // One assignment at a time, so at most one is worth offering; the server tells whether it wants it.
  const std::string held = updates.empty() ? "" : updates.back();
  for (const std::string& other : updates) {
    if (other != held) STRATA_RETURN_IF_ERROR(state.DropUpdate(other));
  }
  setup.session.max_rounds = setup.options.max_rounds;
  setup.session.jitter_key = DrawKey(parts.runtime.entropy);
  auto core = std::make_shared<Core>(parts, std::move(setup), std::move(state), held);
  return std::unique_ptr<Client>(new Client(std::move(core)));
}

Client::~Client() { core_->Kill(); }

void Client::Start(absl::AnyInvocable<void(absl::Status) &&> on_finish) { core_->Start(std::move(on_finish)); }

void Client::Stop() { core_->Post(session::StopRequested{}); }

}  // namespace strata

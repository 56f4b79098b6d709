// The client daemon without its process: carries out what a ClientSession decides, with the parts that it is given.
#ifndef STRATA_CLIENT_CLIENT_H_
#define STRATA_CLIENT_CLIENT_H_

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/link/federation_link.h"
#include "client/session/client_session.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"

namespace strata {

// Borrowed; all must outlive the client and the work that it started.
struct ClientParts {
  runtime::Runtime runtime;
  runtime::Executor& training;  // trainings block here; may be the runtime's own executor
  link::FederationLink& link;
  train::LocalTrainer& trainer;
};

struct ClientSetup {
  config::ClientOptions options;         // what the site's file says
  std::vector<link::ModelOffer> offers;  // one per label of options.models
  session::SessionOptions session;       // max_rounds and jitter_key are set by the client
};

// One site's participation from Start to its end. Thread-safe.
class Client {
 public:
  // Opens state_dir and picks up an update that an earlier run left. Errors: those of the file system, naming the path.
  static absl::StatusOr<std::unique_ptr<Client>> Open(const ClientParts& parts, ClientSetup setup);
  // As if the process had been killed: nothing more is sent, stored or reported. A training under way is told to end.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // `on_finish` runs once, as work of the runtime's executor: OK after Stop or after max_rounds.
  void Start(absl::AnyInvocable<void(absl::Status) &&> on_finish);
  // Gives the assignment back (a trained update stays on disk for the next start) and finishes.
  void Stop();

 private:
  class Core;
  explicit Client(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  std::shared_ptr<Core> core_;
};

}  // namespace strata

#endif  // STRATA_CLIENT_CLIENT_H_

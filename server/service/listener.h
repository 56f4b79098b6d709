// The server's two doors: sites on host:port (mutual TLS, or loopback without), the operator on a Unix socket.
#ifndef STRATA_SERVER_SERVICE_LISTENER_H_
#define STRATA_SERVER_SERVICE_LISTENER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/config/options.h"
#include "common/runtime/runtime.h"
#include "server/service/backend.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace strata::service {

struct ListenOptions {
  std::string address;       // host:port, port 0: any free one; empty: in-process only
  config::TlsOptions tls;    // PEM files; without, only loopback addresses are accepted
  std::string admin_socket;  // path, made with mode 0600; empty: in-process only
};

// Thread-safe. Listens from Start to Shutdown.
class Listener {
 public:
  // `backend` and the runtime's parts are borrowed until Shutdown has returned.
  // INVALID_ARGUMENT: an address that may not be used without TLS or is none, PEM files that hold none. NOT_FOUND: a
  // missing file. ALREADY_EXISTS: another server owns the admin socket. UNAVAILABLE: the port is taken, or the
  // certificate does not fit its key.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(const ListenOptions& options, Backend& backend,
                                                         runtime::Runtime runtime);
  ~Listener();  // Shutdown without grace

  int port() const;             // that the sites' listener got; 0 without address
  std::string address() const;  // host:port with that port

  // Without a network, for simulations and tests: callers there name themselves. Must not be called after Shutdown.
  std::shared_ptr<grpc::Channel> InProcessChannel();
  std::shared_ptr<grpc::Channel> InProcessAdminChannel();

  // Refuses new calls, gives those under way `grace` to end, cancels the rest and waits for their replies. The backend
  // and its executor must still work: parked check-ins and watches end through CancelCheckIn and CancelWatch.
  void Shutdown(absl::Duration grace);

 private:
  struct Parts;
  explicit Listener(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace strata::service

#endif  // STRATA_SERVER_SERVICE_LISTENER_H_

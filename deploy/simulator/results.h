// The folder that a simulation leaves: OUT/report.json, adapter/, rounds/N/SITE/ as the demo's, and sim/ with the
// sites' rows (sim/data/SITE.jsonl) and, while it runs, the state of server and clients.
#ifndef STRATA_DEPLOY_SIMULATOR_RESULTS_H_
#define STRATA_DEPLOY_SIMULATOR_RESULTS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"
#include "common/runtime/process_lock.h"
#include "proto/admin.pb.h"
#include "server/service/backend.h"

namespace strata::sim {

// Blocks for disk and for the server's answers. One thread at a time.
class Results {
 public:
  // Claims `out`, made when missing. What an earlier simulation left there stays until Clear. FAILED_PRECONDITION:
  // another simulation is writing there, or the folder holds results that no simulation wrote.
  static absl::StatusOr<Results> Claim(runtime::FileSystem& files, const std::string& out);

  // Removes an earlier simulation's results and makes the folders of this one.
  absl::Status Clear();
  // Writes the rounds that were committed since the last call, and the report.
  absl::Status WriteRounds(service::Backend& server, const v1::JobReport& job, const std::string& model);
  // Writes the newest version, if there is one, as adapter/.
  absl::Status WriteAdapter(service::Backend& server, const std::string& job, const std::string& model);
  absl::Status WriteReport(const std::string& json);
  // Removes the state of server and clients. REQUIRES: nobody uses it any more.
  absl::Status RemoveState();

  std::string server() const { return Path("sim/server"); }
  std::string client(const std::string& site) const { return runtime::JoinPath(Path("sim/clients"), site); }
  std::string cache() const { return Path("sim/cache"); }  // of digests; kept
  std::string rows(const std::string& site) const { return runtime::JoinPath(Path("sim/data"), site + ".jsonl"); }

 private:
  Results(runtime::FileSystem& files, std::string out, std::unique_ptr<runtime::ProcessLock> lock)
      : files_(&files), out_(std::move(out)), lock_(std::move(lock)) {}
  std::string Path(const std::string& name) const { return runtime::JoinPath(out_, name); }

  runtime::FileSystem* files_;
  std::string out_;
  std::unique_ptr<runtime::ProcessLock> lock_;
  uint32_t written_ = 0;  // the last round
};

}  // namespace strata::sim

#endif  // STRATA_DEPLOY_SIMULATOR_RESULTS_H_

// What must hold however badly things go.
#ifndef STRATA_TESTS_SIM_INVARIANTS_H_
#define STRATA_TESTS_SIM_INVARIANTS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/train/local_trainer.h"
#include "common/config/options.h"
#include "common/runtime/file_system.h"
#include "proto/admin.pb.h"
#include "tests/sim/journal.h"

namespace strata::sim {

// dW of every module, dense.
using Dense = std::map<std::string, std::vector<double>>;

// Fed with the job's reports and version lists as the server publishes them, over restarts of the server.
class Invariants {
 public:
  Invariants(const config::JobOptions& job, Journal& journal) : job_(job), journal_(journal) {}

  // What a site's trainer was asked for; two requests of one round must agree.
  void Trained(const train::TrainRequest& request);
  void CheckReport(const v1::JobReport& report);
  // Every new version is the one before plus eta times the weighted mean of what the accepted sites trained.
  void CheckVersions(const v1::ListVersionsResponse& versions, runtime::FileSystem& files, const std::string& blobs);
  // At the end of the job.
  void CheckEnd(const v1::JobReport& report);
  // The newest version that was looked into.
  uint32_t checked_version() const { return checked_version_; }

 private:
  absl::StatusOr<Dense> Decode(const v1::VersionInfo& version, runtime::FileSystem& files, const std::string& blobs);
  Dense Expected(uint32_t round);
  void CheckBase(const train::TrainRequest& request);
  void CheckPromises(const v1::RoundReport& round);

  const config::JobOptions job_;
  Journal& journal_;
  struct Request {
    uint64_t seed = 0;
    std::vector<train::Target> targets;
  };
  std::map<std::pair<uint32_t, std::string>, Request> requests_;  // (round, site)
  std::map<uint32_t, std::set<std::string>> accepted_;            // of committed rounds
  std::map<uint32_t, Dense> versions_ = {{0, {}}};
  Dense last_;
  uint32_t checked_version_ = 0;
  uint32_t newest_version_ = 0;
};

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_INVARIANTS_H_

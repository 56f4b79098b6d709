// YAML or JSON text -> proto message -> validated options. Every fault of a file is reported at once.
#ifndef STRATA_COMMON_CONFIG_CONFIG_H_
#define STRATA_COMMON_CONFIG_CONFIG_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config/options.h"

namespace strata::config {

// One parsed file. `text` that starts with `{` is JSON. `place` ("client.yaml") names it in faults.
// Errors of all Parse functions: INVALID_ARGUMENT whose message holds one line per fault,
//   client.yaml:7: unknown key `modls`; did you mean `models`?
// (unknown and duplicate keys, wrong types, impossible values, contradictions), sorted by line.
absl::StatusOr<ServerOptions> ParseServer(std::string_view text, std::string_view place);
absl::StatusOr<ClientOptions> ParseClient(std::string_view text, std::string_view place);
absl::StatusOr<JobOptions> ParseJob(std::string_view text, std::string_view place);
absl::StatusOr<TrainOptions> ParseTrain(std::string_view text, std::string_view place);
absl::StatusOr<SimOptions> ParseSim(std::string_view text, std::string_view place);

// The effective file as YAML, defaults filled in; parses back to the same options.
std::string PrintServer(const ServerOptions& options);
std::string PrintClient(const ClientOptions& options);
std::string PrintJob(const JobOptions& options);
std::string PrintTrain(const TrainOptions& options);
std::string PrintSim(const SimOptions& options);

// Every setting of the effective file under its dotted key, as the file would say it: "optimizer.learning_rate" ->
// "5e-05".
std::map<std::string, std::string> SettingsOf(const TrainOptions& options);

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_CONFIG_H_

// A whole federation in one process, with everything that goes wrong decided by one seed: the real FederationServer,
// the real clients, real gRPC calls inside the process, one event queue per side on one simulated clock.
#ifndef STRATA_TESTS_SIM_SIM_FEDERATION_H_
#define STRATA_TESTS_SIM_SIM_FEDERATION_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace strata::sim {

struct SimResult {
  std::string trace_hash;               // of everything that happened, in order
  std::vector<std::string> violations;  // of invariants; empty: all held
  std::string outcome;                  // "DONE", "FAILED: ..."
  std::map<std::string, int> faults;    // what went wrong, how often
  double simulated_seconds = 0;
  uint64_t num_events = 0;
};

// Deterministic in `seed`. `verbose` prints the trace.
SimResult RunSimulation(uint64_t seed, bool verbose);

}  // namespace strata::sim

#endif  // STRATA_TESTS_SIM_SIM_FEDERATION_H_

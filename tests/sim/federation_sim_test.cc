// 200 federations, each with its own bad luck. One of them again, with its trace:
//   STRATA_SIM_SEED=17 build/tests/sim_federation_test
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <span>
#include <string>

#include "common/secure/digest.h"
#include "tests/sim/sim_federation.h"

namespace strata::sim {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : fallback;
}

constexpr char kAgain[] = "  again: STRATA_SIM_SEED=%lu " STRATA_BINARY_DIR "/tests/sim_federation_test\n";
std::atomic<uint64_t> running_seed = 0;

SimResult RunSeed(uint64_t seed, bool verbose) {
  running_seed = seed;
  return RunSimulation(seed, verbose);
}

// A process that aborts says in which seed, too.
void TellSeed(int signal) {
  char text[512];
  const int size = std::snprintf(text, sizeof(text), kAgain, static_cast<unsigned long>(running_seed.load()));
  if (write(STDOUT_FILENO, text, static_cast<size_t>(size)) < size) std::_Exit(1);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void ExpectWell(uint64_t seed, const SimResult& result) {
  for (const std::string& violation : result.violations) ADD_FAILURE() << "seed " << seed << ": " << violation;
  if (!result.violations.empty()) std::printf(kAgain, static_cast<unsigned long>(seed));
}

TEST(FederationSim, InvariantsHoldWhateverGoesWrong) {
  if (const uint64_t seed = FromEnvironment("STRATA_SIM_SEED", 0); seed > 0) {
    const SimResult result = RunSeed(seed, true);
    std::printf("seed %lu: %s, %.0f s simulated, trace %s\n", static_cast<unsigned long>(seed), result.outcome.c_str(),
                result.simulated_seconds, result.trace_hash.c_str());
    return ExpectWell(seed, result);
  }
  const uint64_t first = FromEnvironment("STRATA_SIM_FIRST", 1);
  const uint64_t count = FromEnvironment("STRATA_SIM_COUNT", 200);
  const auto begin = std::chrono::steady_clock::now();
  std::map<std::string, int> faults, outcomes;
  double simulated = 0;
  secure::Sha256Stream traces;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const SimResult result = RunSeed(seed, false);
    ExpectWell(seed, result);
    for (const auto& [fault, times] : result.faults) faults[fault] += times;
    ++outcomes[result.outcome.substr(0, result.outcome.find(' '))];
    simulated += result.simulated_seconds;
    traces.Update(std::as_bytes(std::span(result.trace_hash)));
    if (::testing::Test::HasFailure() && FromEnvironment("STRATA_SIM_KEEP_GOING", 0) == 0) break;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%lu seeds in %.1f s (%.0f h simulated), trace of all %s\n", static_cast<unsigned long>(count), seconds,
              simulated / 3600, secure::ToHex(traces.Finish()).substr(0, 16).c_str());
  for (const auto& [name, times] : outcomes) std::printf("  job %s: %d\n", name.c_str(), times);
  for (const auto& [name, times] : faults) std::printf("  %s: %d\n", name.c_str(), times);
}

TEST(FederationSim, TheSameSeedGivesTheSameTrace) {
  if (FromEnvironment("STRATA_SIM_SEED", 0) > 0) GTEST_SKIP() << "one seed was asked for";
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const SimResult once = RunSeed(seed, false), again = RunSeed(seed, false);
    EXPECT_EQ(once.trace_hash, again.trace_hash) << "seed " << seed;
    EXPECT_EQ(once.num_events, again.num_events) << "seed " << seed;
    std::printf("seed %lu: trace %s\n", static_cast<unsigned long>(seed), once.trace_hash.c_str());
  }
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) {
  // What goes wrong on purpose would fill the log.
  if (std::getenv("STRATA_SIM_SEED") == nullptr && std::freopen("/dev/null", "w", stderr) == nullptr) return 1;
  for (const int signal : {SIGABRT, SIGSEGV}) std::signal(signal, strata::sim::TellSeed);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

// Adding up the sites' updates. Pure maths: no clock, disk, thread pool of its own, network.
#ifndef STRATA_SERVER_AGGREGATE_AGGREGATE_H_
#define STRATA_SERVER_AGGREGATE_AGGREGATE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/adapter/adapter.h"
#include "common/config/options.h"

namespace strata::aggregate {

// One member of the sum: weight * sum over modules of scaling B A.
struct Member {
  std::string site;
  double weight = 1;                          // p_j (eta is taken in by the caller of Aggregate through `scale`)
  const adapter::Adapter* adapter = nullptr;  // borrowed
};

// How a sum is emitted.
struct Compression {
  enum class Kind { kExact, kRawStack, kEnergy, kMaxRank };
  Kind kind = Kind::kExact;
  double energy = 1;     // kEnergy: least share of sum sigma^2 kept per module
  int64_t max_rank = 0;  // kMaxRank
};

struct AggregateOptions {
  config::AggregationMethod method = config::AggregationMethod::kStack;
  Compression compression;
  double scale = 1;                 // eta: multiplies the whole sum
  bool renormalise_absent = false;  // divide a module by the weight of those that hold it
  bool compare_methods = false;     // also measure how far fedit and zero_pad are from the exact sum
  int num_threads = 1;              // modules in parallel; the bytes do not depend on it
};

struct ModuleResult {
  std::string module;
  int64_t rank_in = 0, rank_out = 0;
  double error =
      0;  // ||emitted - exact|| / ||exact||, 0 where ||exact|| is 0; includes rounding of the emitted fp32 factors
  double discarded = 0;  // Frobenius norm of what was discarded; of the averaging methods: of what they are off by
  double norm = 0;       // ||exact||
};

struct AggregateResult {
  adapter::Adapter sum;               // fp32 factors, scaling 1 (alpha = rank); rank-0 modules left out
  std::vector<ModuleResult> modules;  // every module of any member, by name
  double error = 0;                   // sqrt(sum err^2 / sum ||G||^2)
  double discarded = 0;               // sqrt(sum discarded^2)
  double fedit_distance = -1, zero_pad_distance = -1;  // relative; -1: does not apply or not asked for
};

// Members are sorted by site, modules by name: order of arrival and thread count do not change a byte.
// INVALID_ARGUMENT: no members, weights that are negative or not finite or sum to 0, options out of range, factors that
// are not finite, a sum beyond fp32, shapes of a module that differ between members, fedit with unequal ranks.
// `run_parallel(n, f)` calls f(i) for every i < n on up to num_threads threads; null: in order, in this thread.
using ParallelFor = std::function<void(int64_t, const std::function<void(int64_t)>&)>;
absl::StatusOr<AggregateResult> Aggregate(std::vector<Member> members, const AggregateOptions& options,
                                          const ParallelFor& run_parallel);

// What the exact sum is in fp64, for tests: dense [out, in] of one module.
std::vector<double> DenseSum(const std::vector<Member>& members, const std::string& module, int64_t out, int64_t in);

// The factors of one module in fp64 before they are emitted as fp32: B = U S [out, rank], A = V^T [rank, in]. For the
// goldens.
struct Factored64 {
  int64_t rank = 0;
  std::vector<double> b, a;
  std::vector<double> singular_values;  // descending, all that were computed; the first `rank` are kept
};
absl::StatusOr<Factored64> FactorModule(const std::vector<Member>& members, const std::string& module,
                                        const AggregateOptions& options);

// What the server demands of an update before it counts (DESIGN section 3, step 7).
struct UpdateRules {
  std::vector<config::ModuleShape> modules;  // the job's module table
  std::vector<std::pair<std::string, int64_t>>
      max_rank;         // per assigned module: the rank that was assigned (twice it for `warm`)
  double max_norm = 0;  // 0: no bound on ||update||
};
// INVALID_ARGUMENT naming every fault: a module that was not assigned, wrong shapes, rank over the assignment's, NaN or
// Inf (tensor and index), norm.
absl::Status ValidateUpdate(const adapter::Adapter& update, const UpdateRules& rules);

}  // namespace strata::aggregate

#endif  // STRATA_SERVER_AGGREGATE_AGGREGATE_H_

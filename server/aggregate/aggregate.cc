#include "server/aggregate/aggregate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "common/format/tensor.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"
#include "server/aggregate/module_sum.h"

namespace strata::aggregate {
namespace {

absl::Status CheckOptions(const AggregateOptions& options) {
  const Compression& compression = options.compression;
  if (!std::isfinite(options.scale)) {
    return absl::InvalidArgumentError(Cat("the scale of the sum is ", options.scale, ", expected a finite number"));
  }
  if (compression.kind == Compression::Kind::kEnergy && !(compression.energy > 0 && compression.energy <= 1)) {
    return absl::InvalidArgumentError(
        Cat("the energy to keep is ", compression.energy, ", expected more than 0 and at most 1"));
  }
  if (compression.kind == Compression::Kind::kMaxRank && compression.max_rank < 1) {
    return absl::InvalidArgumentError(Cat("the largest rank is ", compression.max_rank, ", expected at least 1"));
  }
  return absl::OkStatus();
}

absl::Status CheckMembers(const std::vector<Member>& members) {
  if (members.empty()) return absl::InvalidArgumentError("there is nothing to add up: no members");
  double total = 0;
  for (const Member& member : members) {
    if (!std::isfinite(member.weight) || member.weight < 0) {
      return absl::InvalidArgumentError(
          Cat("site '", member.site, "': weight ", member.weight, ", expected a finite number of at least 0"));
    }
    total += member.weight;
  }
  if (!(total > 0) || !std::isfinite(total)) {
    return absl::InvalidArgumentError(Cat("the weights sum to ", total, ", expected a finite sum above 0"));
  }
  return absl::OkStatus();
}

// The modules of all members by name, each with its parts in the order of the members.
absl::StatusOr<std::vector<ModuleRequest>> RequestsOf(const std::vector<Member>& members, bool renormalise) {
  std::map<std::string, ModuleRequest> by_name;
  for (const Member& member : members) {
    for (const adapter::Factors& factors : member.adapter->modules()) {
      ModuleRequest& request = by_name[factors.module];
      if (request.parts.empty()) {
        request = {.module = factors.module, .out = factors.out, .in = factors.in, .parts = {}};
      } else if (request.out != factors.out || request.in != factors.in) {
        return absl::InvalidArgumentError(Cat("module '", factors.module, "': site '", request.parts.front().site,
                                              "' has it as [", request.out, ", ", request.in, "], site '", member.site,
                                              "' as [", factors.out, ", ", factors.in, "]; all must adapt one base"));
      }
      request.parts.push_back({.site = member.site, .weight = member.weight, .factors = &factors});
    }
  }
  std::vector<ModuleRequest> requests;
  requests.reserve(by_name.size());
  for (auto& [name, request] : by_name) {
    double held = 0;
    for (const Part& part : request.parts) held += part.weight;
    if (renormalise && held > 0) {
      for (Part& part : request.parts) part.weight /= held;
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

bool RanksAreEqual(const std::vector<ModuleRequest>& requests, std::string* where) {
  for (const ModuleRequest& request : requests) {
    for (const Part& part : request.parts) {
      const Part& first = request.parts.front();
      if (part.factors->rank == first.factors->rank) continue;
      *where = Cat("module '", request.module, "': site '", first.site, "' has rank ", first.factors->rank, ", site '",
                   part.site, "' ", part.factors->rank);
      return false;
    }
  }
  return true;
}

// The widest modules first, so that no worker is left with one at the end. Only the order of work, not of results.
std::vector<int64_t> WorkOrder(const std::vector<ModuleRequest>& requests) {
  std::vector<int64_t> order(requests.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&requests](int64_t i, int64_t j) {
    return requests[i].out + requests[i].in > requests[j].out + requests[j].in;
  });
  return order;
}

std::vector<absl::StatusOr<ModuleSum>> SumModules(const std::vector<ModuleRequest>& requests,
                                                  const AggregateOptions& options, const ParallelFor& run_parallel) {
  std::vector<absl::StatusOr<ModuleSum>> sums(requests.size(), absl::UnknownError("not run"));
  const std::vector<int64_t> order = WorkOrder(requests);
  const auto run = [&](int64_t i) {
    const linalg::SingleThreadedBlas single_threaded;
    const auto index = static_cast<size_t>(order[static_cast<size_t>(i)]);
    sums[index] = SumModule(requests[index], options);
  };
  const auto count = static_cast<int64_t>(requests.size());
  if (run_parallel != nullptr) {
    run_parallel(count, run);
  } else {
    for (int64_t i = 0; i < count; ++i) run(i);
  }
  return sums;
}

double Ratio(double squared, double of_squared) { return of_squared == 0 ? 0 : std::sqrt(squared / of_squared); }

// Sums of squares relative to the largest norm: updates of any size stay in range.
struct Totals {
  double unit = 0;
  double norm = 0, error = 0, discarded = 0, averaged = 0;
  void Add(const ModuleSum& sum) {
    const auto square = [this](double value) { return unit == 0 ? 0 : (value / unit) * (value / unit); };
    norm += square(sum.result.norm);
    error += square(sum.result.error * sum.result.norm);
    discarded += square(sum.result.discarded);
    averaged += square(sum.averaged_distance);
  }
};

std::vector<Member> SortedBySite(std::vector<Member> members) {
  std::stable_sort(members.begin(), members.end(), [](const Member& x, const Member& y) { return x.site < y.site; });
  return members;
}

}  // namespace

absl::StatusOr<AggregateResult> Aggregate(std::vector<Member> members, const AggregateOptions& options,
                                          const ParallelFor& run_parallel) {
  STRATA_RETURN_IF_ERROR(CheckOptions(options));
  STRATA_RETURN_IF_ERROR(CheckMembers(members));
  members = SortedBySite(std::move(members));
  STRATA_ASSIGN_OR_RETURN(const std::vector<ModuleRequest> requests, RequestsOf(members, options.renormalise_absent));
  std::string where;
  const bool equal_ranks = RanksAreEqual(requests, &where);
  if (options.method == config::AggregationMethod::kFedit && !equal_ranks) {
    return absl::InvalidArgumentError(Cat("fedit averages factors and needs equal ranks; ", where,
                                          ". Use `stack` (exact for any ranks) or `zero_pad`"));
  }
  std::vector<absl::StatusOr<ModuleSum>> sums = SumModules(requests, options, run_parallel);
  Totals totals;
  for (const absl::StatusOr<ModuleSum>& sum : sums) {
    STRATA_RETURN_IF_ERROR(sum.status());
    totals.unit = std::max({totals.unit, sum->result.norm, sum->result.discarded, sum->averaged_distance});
  }
  adapter::AdapterBuilder builder;
  std::vector<ModuleResult> modules;
  for (size_t i = 0; i < sums.size(); ++i) {
    ModuleSum& sum = *sums[i];
    totals.Add(sum);
    const int64_t rank = sum.result.rank_out;
    if (rank > 0) {
      builder.Add(requests[i].module, rank, requests[i].out, requests[i].in, static_cast<double>(rank), 1,
                  std::move(sum.a), std::move(sum.b));
    }
    modules.push_back(std::move(sum.result));
  }
  AggregateResult result{.sum = std::move(builder).Build(), .modules = std::move(modules)};
  result.error = Ratio(totals.error, totals.norm);
  result.discarded = totals.unit * std::sqrt(totals.discarded);
  if (options.compare_methods) {
    result.zero_pad_distance = Ratio(totals.averaged, totals.norm);
    if (equal_ranks) result.fedit_distance = result.zero_pad_distance;
  }
  return result;
}

std::vector<double> DenseSum(const std::vector<Member>& members, const std::string& module, int64_t out, int64_t in) {
  std::vector<double> sum(static_cast<size_t>(out * in));
  for (const Member& member : SortedBySite(members)) {
    const adapter::Factors* factors = member.adapter->Find(module);
    if (factors == nullptr || factors->out != out || factors->in != in) continue;
    std::vector<double> a(static_cast<size_t>(factors->rank * in));
    std::vector<double> b(static_cast<size_t>(out * factors->rank));
    if (!format::ToDouble(factors->a, a).ok() || !format::ToDouble(factors->b, b).ok()) continue;
    for (int64_t i = 0; i < out; ++i) {
      for (int64_t r = 0; r < factors->rank; ++r) {
        const double left = member.weight * (factors->scaling * b[i * factors->rank + r]);
        for (int64_t j = 0; j < in; ++j) sum[i * in + j] += left * a[r * in + j];
      }
    }
  }
  return sum;
}

absl::StatusOr<Factored64> FactorModule(const std::vector<Member>& members, const std::string& module,
                                        const AggregateOptions& options) {
  STRATA_RETURN_IF_ERROR(CheckOptions(options));
  STRATA_RETURN_IF_ERROR(CheckMembers(members));
  const std::vector<Member> sorted = SortedBySite(members);
  STRATA_ASSIGN_OR_RETURN(const std::vector<ModuleRequest> requests, RequestsOf(sorted, options.renormalise_absent));
  const auto found = std::find_if(requests.begin(), requests.end(),
                                  [&module](const ModuleRequest& request) { return request.module == module; });
  if (found == requests.end()) return absl::NotFoundError(Cat("no member has module '", module, "'"));
  const linalg::SingleThreadedBlas single_threaded;
  STRATA_ASSIGN_OR_RETURN(Stack stack, BuildStack(found->parts, options.scale));
  STRATA_ASSIGN_OR_RETURN(const Triplets triplets, FactorStack(std::move(stack), options.compression));
  Factored64 factored{.rank = triplets.rank, .b = {}, .a = {}, .singular_values = triplets.s};
  for (double& value : factored.singular_values) value = std::ldexp(value, 2 * triplets.exponent);
  for (int64_t i = 0; i < found->out; ++i) {
    for (int64_t j = 0; j < triplets.rank; ++j) {
      factored.b.push_back(triplets.u.col(j)[i] * factored.singular_values[static_cast<size_t>(j)]);
    }
  }
  if (triplets.rank > 0) factored.a.assign(triplets.v.data(), triplets.v.data() + found->in * triplets.rank);
  return factored;
}

}  // namespace strata::aggregate

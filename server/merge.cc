#include "server/merge.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/format/safetensors.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "server/aggregate/aggregate.h"
#include "server/parallel_for.h"

namespace strata::server {
namespace {

using adapter::Adapter;

// Adapters with the mappings that they look into.
struct Opened {
  std::vector<std::shared_ptr<const runtime::Mapping>> mappings;
  std::vector<std::unique_ptr<Adapter>> adapters;
};

absl::StatusOr<Adapter::Scaling> One(const void*, std::string_view, int64_t rank) {
  return Adapter::Scaling{1.0, static_cast<double>(rank)};
}

absl::StatusOr<format::Safetensors> OpenTensors(store::BlobFiles& blobs, const std::string& sha256, Opened& opened) {
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<const runtime::Mapping> mapping, blobs.Open(sha256));
  opened.mappings.push_back(mapping);
  return format::Safetensors::Parse(mapping->bytes(), absl::StrCat("blob ", secure::ToHex(sha256)));
}

absl::StatusOr<Opened> OpenMembers(const MergeInput& input, store::BlobFiles& blobs) {
  Opened opened;
  for (size_t j = 0; j < input.start.members.size(); ++j) {
    const round::Member& member = input.start.members[j];
    STRATA_ASSIGN_OR_RETURN(format::Safetensors tensors, OpenTensors(blobs, member.tensors_sha256, opened));
    STRATA_ASSIGN_OR_RETURN(const adapter::Manifest manifest, adapter::ParseManifest(input.manifests[j]));
    absl::StatusOr<Adapter> update = adapter::OpenUpdate(manifest, std::move(tensors));
    if (!update.ok()) return Annotate(update.status(), absl::StrCat("update of ", member.site));
    opened.adapters.push_back(std::make_unique<Adapter>(*std::move(update)));
  }
  return opened;
}

// One process-wide loop for all sums of this server.
aggregate::ParallelFor LoopOn(runtime::Executor& executor, int num_threads) {
  return [&executor, num_threads](int64_t count, const std::function<void(int64_t)>& body) {
    ParallelFor(executor, num_threads, count, body);
  };
}

aggregate::Compression CompressionOf(const config::AggregationOptions& options) {
  using Kind = aggregate::Compression::Kind;
  if (options.raw_stack) return {Kind::kRawStack, 1, 0};
  if (options.energy.has_value()) return {Kind::kEnergy, *options.energy, 0};
  if (options.max_rank.has_value()) return {Kind::kMaxRank, 1, *options.max_rank};
  return {};
}

absl::StatusOr<aggregate::AggregateResult> AddUp(const MergeInput& input, const Opened& opened,
                                                 const runtime::Runtime& runtime) {
  double total = 0;
  for (const round::Member& member : input.start.members) total += static_cast<double>(member.num_examples);
  if (total <= 0) return absl::InvalidArgumentError("the sites report no training rows at all: sum n = 0");
  std::vector<aggregate::Member> members;
  for (size_t j = 0; j < input.start.members.size(); ++j) {
    const round::Member& member = input.start.members[j];
    members.push_back({member.site, static_cast<double>(member.num_examples) / total, opened.adapters[j].get()});
  }
  aggregate::AggregateOptions options;
  options.method = input.job.aggregation.method;
  options.compression = CompressionOf(input.job.aggregation);
  options.scale = input.job.aggregation.server_learning_rate;
  options.renormalise_absent = input.job.aggregation.renormalise_absent;
  options.compare_methods = true;
  options.num_threads = input.num_threads;
  return aggregate::Aggregate(std::move(members), options, LoopOn(runtime.executor, input.num_threads));
}

// The whole list, with the increment, as one adapter in SVD order.
absl::StatusOr<aggregate::AggregateResult> Compact(const MergeInput& input, const Adapter& increment,
                                                   store::BlobFiles& blobs, const runtime::Runtime& runtime) {
  Opened opened;
  std::vector<aggregate::Member> members;
  for (const round::BlobRef& blob : input.start.blobs) {
    STRATA_ASSIGN_OR_RETURN(format::Safetensors tensors, OpenTensors(blobs, blob.sha256, opened));
    STRATA_ASSIGN_OR_RETURN(Adapter one, Adapter::FromTensors(std::move(tensors), One, nullptr));
    opened.adapters.push_back(std::make_unique<Adapter>(std::move(one)));
    // The name keeps the order of the list.
    members.push_back({absl::StrCat(absl::Dec(members.size(), absl::kZeroPad8)), 1, opened.adapters.back().get()});
  }
  members.push_back({absl::StrCat(absl::Dec(members.size(), absl::kZeroPad8)), 1, &increment});
  aggregate::AggregateOptions options;
  if (const auto max_rank = input.job.aggregation.compaction_max_rank; max_rank.has_value()) {
    options.compression = {aggregate::Compression::Kind::kMaxRank, 1, *max_rank};
  }
  options.num_threads = input.num_threads;
  return aggregate::Aggregate(std::move(members), options, LoopOn(runtime.executor, input.num_threads));
}

absl::StatusOr<store::BlobRow> WriteBlob(const MergeInput& input, const Adapter& sum, store::BlobFiles& blobs) {
  const std::string bytes = adapter::PeftTensorBytes(sum, {});
  store::BlobRow row;
  STRATA_ASSIGN_OR_RETURN(row.sha256, blobs.Put(std::as_bytes(std::span(bytes))));
  row.size = bytes.size();
  STRATA_ASSIGN_OR_RETURN(const adapter::Manifest first, adapter::ParseManifest(input.manifests.front()));
  adapter::Manifest manifest;
  manifest.base = first.base;
  manifest.parent_version = input.start.version;
  for (const round::Member& member : input.start.members) manifest.num_examples += member.num_examples;
  manifest.blocks = adapter::BlocksOf(sum);
  manifest.tensors_sha256 = row.sha256;
  manifest.tensors_bytes = row.size;
  row.manifest = adapter::SerializeManifest(manifest);
  return row;
}

uint32_t MaxRank(const Adapter& sum) {
  int64_t rank = 0;
  for (const adapter::Factors& factors : sum.modules()) rank = std::max(rank, factors.rank);
  return static_cast<uint32_t>(rank);
}

void Describe(const aggregate::AggregateResult& result, v1::RoundReport& report) {
  uint64_t rank_in = 0;
  uint64_t rank_out = 0;
  for (const aggregate::ModuleResult& module : result.modules) {
    v1::ModuleError* error = report.add_modules();
    error->set_module(module.module);
    error->set_rank_in(static_cast<uint32_t>(module.rank_in));
    error->set_rank_out(static_cast<uint32_t>(module.rank_out));
    error->set_error(module.error);
    rank_in += static_cast<uint64_t>(module.rank_in);
    rank_out += static_cast<uint64_t>(module.rank_out);
    report.set_max_rank_in(std::max(report.max_rank_in(), error->rank_in()));
    report.set_max_rank_out(std::max(report.max_rank_out(), error->rank_out()));
  }
  report.set_rank_in(rank_in);
  report.set_rank_out(rank_out);
  report.set_error(result.error);
  report.set_fedit_distance(result.fedit_distance);
  report.set_zero_pad_distance(result.zero_pad_distance);
}

}  // namespace

absl::StatusOr<Merged> MergeRound(const MergeInput& input, store::BlobFiles& blobs, const runtime::Runtime& runtime) {
  const absl::Duration began = runtime.clock.Monotonic();
  STRATA_ASSIGN_OR_RETURN(const Opened opened, OpenMembers(input, blobs));
  STRATA_ASSIGN_OR_RETURN(const aggregate::AggregateResult increment, AddUp(input, opened, runtime));
  Merged merged;
  v1::RoundReport& report = merged.report;
  report.set_round(input.start.round);
  report.set_attempt(input.start.attempt);
  report.set_state("committed");
  report.set_version(input.start.round);
  report.set_learning_rate(input.job.aggregation.server_learning_rate);
  Describe(increment, report);
  double bound = input.bound + increment.discarded;
  merged.blobs = input.start.blobs;
  merged.max_rank = input.max_rank;
  if (!increment.sum.modules().empty()) {
    const bool compacts = input.start.blobs.size() + 1 > std::max<size_t>(1, input.job.aggregation.max_blobs);
    const Adapter* written = &increment.sum;
    absl::StatusOr<aggregate::AggregateResult> compacted = absl::UnavailableError("no compaction");
    if (compacts) {
      compacted = Compact(input, increment.sum, blobs, runtime);
      STRATA_RETURN_IF_ERROR(compacted.status());
      report.set_compaction_error(compacted->error);
      bound += compacted->discarded;
      written = &compacted->sum;
      merged.blobs.clear();
      merged.max_rank = 0;
    }
    // Increments that cancel leave nothing to list.
    if (!written->modules().empty()) {
      STRATA_ASSIGN_OR_RETURN(store::BlobRow row, WriteBlob(input, *written, blobs));
      merged.blobs.push_back({row.sha256, row.size});
      merged.max_rank += MaxRank(*written);
      merged.new_blobs.push_back(std::move(row));
    }
  }
  report.set_bound(bound);
  report.set_seconds(absl::ToDoubleSeconds(runtime.clock.Monotonic() - began));
  return merged;
}

}  // namespace strata::server

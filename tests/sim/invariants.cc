#include "tests/sim/invariants.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/train/command_trainer.h"
#include "common/adapter/adapter.h"
#include "common/format/safetensors.h"
#include "common/format/tensor.h"
#include "common/secure/digest.h"
#include "common/status/status_macros.h"
#include "tests/testing/fake_trainer.h"

namespace strata::sim {
namespace {

// Blobs are fp32: each factor is rounded once, and so is what adds up over the versions.
constexpr double kTolerance = 2e-6;

absl::StatusOr<adapter::Adapter::Scaling> UnitScaling(const void*, std::string_view, int64_t rank) {
  return adapter::Adapter::Scaling{.scaling = 1, .alpha = static_cast<double>(rank)};
}

// dw[i, j] += factor * sum_r b[i, r] a[r, j]
template <typename T>
void AddProduct(std::vector<double>& dw, const std::vector<T>& a, const std::vector<T>& b, int64_t rank, int64_t in,
                double factor) {
  const int64_t out = static_cast<int64_t>(b.size()) / rank;
  dw.resize(static_cast<size_t>(out * in));
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t j = 0; j < in; ++j) {
        dw[static_cast<size_t>(i * in + j)] += factor * static_cast<double>(b[static_cast<size_t>(i * rank + r)]) *
                                               static_cast<double>(a[static_cast<size_t>(r * in + j)]);
      }
    }
  }
}

absl::Status AddAdapter(Dense& dense, const adapter::Adapter& adapter) {
  for (const adapter::Factors& factors : adapter.modules()) {
    std::vector<double> a(static_cast<size_t>(factors.rank * factors.in));
    std::vector<double> b(static_cast<size_t>(factors.out * factors.rank));
    STRATA_RETURN_IF_ERROR(format::ToDouble(factors.a, a));
    STRATA_RETURN_IF_ERROR(format::ToDouble(factors.b, b));
    if (factors.rank > 0) AddProduct(dense[factors.module], a, b, factors.rank, factors.in, factors.scaling);
  }
  return absl::OkStatus();
}

bool SameTargets(const std::vector<train::Target>& x, const std::vector<train::Target>& y) {
  return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& s, const auto& t) {
    return s.module == t.module && s.rank == t.rank && s.scaling == t.scaling;
  });
}

}  // namespace

void Invariants::Trained(const train::TrainRequest& request) {
  CheckBase(request);
  if (!request.train) return;
  const auto key = std::pair(static_cast<uint32_t>(request.round), request.site);
  const auto [known, added] = requests_.try_emplace(key, Request{request.seed, request.targets});
  if (!added && (known->second.seed != request.seed || !SameTargets(known->second.targets, request.targets))) {
    journal_.Fail(absl::StrCat("round ", request.round, " asked ", request.site, " for two different things"));
  }
}

// What a site works from is, bit by bit, a version of the server's.
void Invariants::CheckBase(const train::TrainRequest& request) {
  const auto version = versions_.find(static_cast<uint32_t>(request.train ? request.round - 1 : request.round));
  if (version == versions_.end()) return;
  Dense base;
  for (const auto& blob : request.base) {
    if (const absl::Status added = AddAdapter(base, *blob); !added.ok()) journal_.Fail(added.ToString());
  }
  if (base != version->second) {
    journal_.Fail(absl::StrCat(request.site, " works in round ", request.round, " from something else than version ",
                               version->first));
  }
}

void Invariants::CheckReport(const v1::JobReport& report) {
  if (report.summary().version() < newest_version_) {
    journal_.Fail(absl::StrCat("version ", newest_version_, " was followed by ", report.summary().version()));
  }
  newest_version_ = report.summary().version();
  if (report.summary().version() > job_.rounds.count || report.summary().round() > job_.rounds.count) {
    journal_.Fail("more rounds than the job has");
  }
  for (const v1::RoundReport& round : report.rounds()) {
    std::set<std::string> counted;
    for (const v1::SiteRound& site : round.sites()) {
      if (site.state() == "accepted" && !counted.insert(site.site()).second) {
        journal_.Fail(absl::StrCat(site.site(), " counts twice in round ", round.round()));
      }
    }
    if (round.state() != "committed") continue;
    const auto [known, added] = accepted_.try_emplace(round.round(), counted);
    if (known->second != counted) journal_.Fail(absl::StrCat("committed round ", round.round(), " changed"));
    if (added && counted.size() < job_.rounds.min_sites) {
      journal_.Fail(absl::StrCat("round ", round.round(), " committed with ", counted.size(), " reports"));
    }
    CheckPromises(round);
  }
}

void Invariants::CheckPromises(const v1::RoundReport& round) {
  for (const auto& [assignment, promise] : journal_.receipts) {
    if (promise.round != round.round()) continue;
    const bool counted = std::any_of(round.sites().begin(), round.sites().end(), [&](const v1::SiteRound& site) {
      return site.site() == promise.site && site.state() == "accepted" && site.update_sha256() == promise.sha256;
    });
    if (!counted) {
      journal_.Fail(absl::StrCat("the receipt of ", promise.site, " for round ", promise.round, " was forgotten"));
    }
  }
}

absl::StatusOr<Dense> Invariants::Decode(const v1::VersionInfo& version, runtime::FileSystem& files,
                                         const std::string& blobs) {
  Dense dense;
  for (const std::string& digest : version.blobs()) {
    const std::string path = runtime::JoinPath(blobs, secure::ToHex(digest));
    STRATA_ASSIGN_OR_RETURN(const std::string bytes, files.ReadFile(path));
    if (secure::Sha256(bytes) != digest) return absl::DataLossError(path);
    STRATA_ASSIGN_OR_RETURN(auto tensors, format::Safetensors::Open(files, path));
    STRATA_ASSIGN_OR_RETURN(const auto opened, adapter::Adapter::FromTensors(std::move(tensors), UnitScaling, nullptr));
    STRATA_RETURN_IF_ERROR(AddAdapter(dense, opened));
  }
  return dense;
}

Dense Invariants::Expected(uint32_t round) {
  Dense sum;
  double total = 0;
  for (const std::string& site : accepted_[round]) total += static_cast<double>(testing::FakeNumExamples(site));
  for (const std::string& site : accepted_[round]) {
    const auto request = requests_.find({round, site});
    if (request == requests_.end()) {
      journal_.Fail(absl::StrCat(site, " counts in round ", round, ", but never trained for it"));
      continue;
    }
    const double share = static_cast<double>(testing::FakeNumExamples(site)) / total;
    for (const train::Target& target : request->second.targets) {
      const auto factors = testing::MakeFakeFactors(request->second.seed, round, site, target);
      AddProduct(sum[target.module], factors.a, factors.b, target.rank, target.in,
                 job_.aggregation.server_learning_rate * share * target.scaling);
    }
  }
  return sum;
}

void Invariants::CheckVersions(const v1::ListVersionsResponse& versions, runtime::FileSystem& files,
                               const std::string& blobs) {
  for (const v1::VersionInfo& version : versions.versions()) {
    if (version.version() != checked_version_ + 1 || !accepted_.contains(version.round())) continue;
    auto dense = Decode(version, files, blobs);
    if (!dense.ok()) {
      journal_.Fail(absl::StrCat("version ", version.version(), " cannot be read: ", dense.status().ToString()));
      return;
    }
    const Dense decoded = *dense;
    Dense expected = Expected(version.round());
    for (const config::ModuleShape& module : job_.modules) {
      std::vector<double>& now = (*dense)[module.name];
      now.resize(static_cast<size_t>(module.out * module.in));
      std::vector<double>& before = last_[module.name];
      before.resize(now.size());
      std::vector<double>& wanted = expected[module.name];
      wanted.resize(now.size());
      double error = 0, scale = 0;
      for (size_t i = 0; i < now.size(); ++i) {
        error += std::pow(now[i] - before[i] - wanted[i], 2);
        scale += std::pow(wanted[i], 2) + std::pow(before[i], 2);
      }
      if (std::sqrt(error) > kTolerance * std::sqrt(scale)) {
        journal_.Fail(
            absl::StrCat("version ", version.version(), " is off by ", std::sqrt(error / scale), " in ", module.name));
      }
    }
    last_ = *dense;
    versions_[version.version()] = decoded;
    checked_version_ = version.version();
    for (const std::string& digest : version.blobs()) journal_.Note("blob", secure::ToHex(digest));
  }
}

void Invariants::CheckEnd(const v1::JobReport& report) {
  const v1::JobState state = report.summary().state();
  if (state == v1::DONE) {
    if (accepted_.size() != job_.rounds.count) journal_.Fail("done without all its rounds");
    if (checked_version_ != job_.rounds.count) {
      journal_.Fail(absl::StrCat("done with version ", checked_version_, " of ", job_.rounds.count));
    }
  } else if (state == v1::FAILED) {
    if (report.summary().reason().empty()) journal_.Fail("failed without a reason");
  } else {
    journal_.Fail(absl::StrCat("the job did not end: ", v1::JobState_Name(state), " ", report.summary().reason()));
  }
}

}  // namespace strata::sim

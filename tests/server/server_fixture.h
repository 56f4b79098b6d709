// A FederationServer on a simulated machine, and sites that speak to it without a network.
#ifndef STRATA_TESTS_SERVER_SERVER_FIXTURE_H_
#define STRATA_TESTS_SERVER_SERVER_FIXTURE_H_

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/config/convert.h"
#include "common/runtime/random.h"
#include "common/secure/digest.h"
#include "server/aggregate/aggregate.h"
#include "server/server.h"
#include "tests/testing/sim_runtime.h"
#include "tests/testing/status_matchers.h"

namespace strata::server {

inline const adapter::BaseIdentity kBase{std::string(32, 'w'), std::string(32, 's'), "fp32"};
inline const std::vector<config::ModuleShape> kModules = {{"model.layers.0.mlp.up_proj", 12, 8},
                                                          {"model.layers.0.self_attn.q_proj", 8, 8}};

// What a site sends: a manifest's bytes and a tensor file's.
struct Update {
  adapter::Manifest manifest;
  std::string tensors;
  // Signs off what was changed.
  Update Sealed() && {
    manifest.tensors_sha256 = secure::Sha256(tensors);
    manifest.tensors_bytes = tensors.size();
    return std::move(*this);
  }
};

class ServerFixture : public ::testing::Test {
 protected:
  explicit ServerFixture(uint64_t seed = 1) : machine_(seed) {
    options_.state_dir = "/var/strata";
    options_.max_update_bytes = 1 << 20;
  }

  void Start() { ASSERT_THAT(TryStart(), testing::IsOk()); }
  absl::Status TryStart() {
    server_ = std::make_unique<FederationServer>(machine_.get(), options_);
    const absl::Status started = server_->Start();
    if (started.ok()) machine_.executor().RunUntilIdle();
    return started;
  }
  // As kill -9 with a power loss.
  void Crash() {
    server_.reset();
    machine_.executor().Clear();
    machine_.files().Crash();
  }
  void CrashAndStart() {
    Crash();
    Start();
  }

  // Runs a call to its answer; CANCELLED: it waits (parked), or was dropped.
  template <typename T>
  absl::StatusOr<T> Call(const std::function<void(service::Reply<T>)>& call) {
    auto result = std::make_shared<absl::StatusOr<T>>(absl::CancelledError("not answered"));
    call([result](absl::StatusOr<T> answer) { *result = std::move(answer); });
    machine_.executor().RunUntilIdle();
    return std::move(*result);
  }

  static v1::JobConfig Job(uint32_t rounds) {
    config::JobOptions job;
    job.name = "demo";
    job.model_digests = {kBase.Digest()};
    job.data = "text";
    job.sites = {"a", "b", "c"};
    job.rounds.count = rounds;
    job.rounds.min_sites = 2;
    job.training.adapter.rank = 2;
    job.training.adapter.alpha = 4;
    job.modules = kModules;
    return config::ToProto(job);
  }
  std::string SubmitJob(const v1::JobConfig& job) {
    v1::SubmitJobRequest request;
    *request.mutable_job() = job;
    const auto response =
        Call<v1::SubmitJobResponse>([&](auto reply) { server_->SubmitJob(request, std::move(reply)); });
    EXPECT_THAT(response, testing::IsOk());
    return response.ok() ? response->id() : "";
  }
  v1::JobReport Show(const std::string& id) {
    const auto report = Call<v1::JobReport>([&](auto reply) { server_->ShowJob(id, std::move(reply)); });
    EXPECT_THAT(report, testing::IsOk());
    return report.ok() ? *report : v1::JobReport();
  }

  static v1::CheckInRequest CheckInOf(uint32_t rank = 0, absl::Duration wait = absl::ZeroDuration()) {
    v1::CheckInRequest request;
    request.mutable_protocol()->set_major(1);
    request.set_software("test");
    v1::ModelOffer* offer = request.add_models();
    offer->set_label("base");
    offer->mutable_identity()->set_weights(kBase.weights);
    offer->mutable_identity()->set_semantics(kBase.semantics);
    request.add_data_labels("text");
    request.set_rank(rank);
    request.set_max_wait_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(wait)));
    return request;
  }
  absl::StatusOr<v1::CheckInResponse> CheckIn(const std::string& site, const v1::CheckInRequest& request) {
    return Call<v1::CheckInResponse>([&](auto reply) { server_->CheckIn({site, false}, request, std::move(reply)); });
  }
  absl::StatusOr<v1::CheckInResponse> CheckIn(const std::string& site, uint32_t rank = 0) {
    return CheckIn(site, CheckInOf(rank));
  }
  v1::Assignment Assigned(const std::string& site, uint32_t rank = 0) {
    const auto response = CheckIn(site, rank);
    EXPECT_THAT(response, testing::IsOk());
    EXPECT_TRUE(response.ok() && response->has_assignment()) << (response.ok() ? response->ShortDebugString() : "");
    return response.ok() ? response->assignment() : v1::Assignment();
  }

  // Deterministic in (site, round); n = 10, 20, 30, .. by the site's letter.
  static adapter::Adapter Factors(const v1::Assignment& assignment) {
    const runtime::Philox random({"test", 7, assignment.round(), assignment.site()});
    uint64_t next = 0;
    adapter::AdapterBuilder builder;
    for (const v1::Target& target : assignment.targets()) {
      std::vector<float> a(size_t{target.rank()} * target.in());
      std::vector<float> b(size_t{target.out()} * target.rank());
      for (float& value : a) value = random.Normal(next++);
      for (float& value : b) value = random.Normal(next++);
      builder.Add(target.module(), target.rank(), target.out(), target.in(), target.alpha(), target.scaling(),
                  std::move(a), std::move(b));
    }
    return std::move(builder).Build();
  }
  static uint64_t NumExamples(const std::string& site) { return 10 * static_cast<uint64_t>(site[0] - 'a' + 1); }
  static Update UpdateOf(const v1::Assignment& assignment, const adapter::Adapter& factors) {
    Update update;
    update.tensors = adapter::PeftTensorBytes(factors, {});
    update.manifest.base = kBase;
    update.manifest.assignment = assignment.id();
    update.manifest.parent_version = assignment.version();
    update.manifest.num_examples = NumExamples(assignment.site());
    update.manifest.metrics = {{"loss_before", 3.0 - assignment.version() + (assignment.site()[0] - 'a')},
                               {"heldout_tokens", 100}};
    update.manifest.blocks = adapter::BlocksOf(factors);
    return std::move(update).Sealed();
  }
  static Update UpdateOf(const v1::Assignment& assignment) { return UpdateOf(assignment, Factors(assignment)); }

  absl::StatusOr<v1::BeginSubmitResponse> Begin(const std::string& site, const std::string& id, const Update& update) {
    v1::BeginSubmitRequest request;
    request.set_assignment(id);
    request.mutable_manifest()->set_manifest(adapter::SerializeManifest(update.manifest));
    return Call<v1::BeginSubmitResponse>([&](auto reply) {
      server_->BeginSubmit({site, false}, request, std::move(reply));
    });
  }
  absl::StatusOr<std::unique_ptr<service::UploadSink>> Open(const std::string& site, const std::string& id) {
    return Call<std::unique_ptr<service::UploadSink>>([&](auto reply) {
      server_->OpenUpload({site, false}, id, std::move(reply));
    });
  }
  absl::StatusOr<v1::Receipt> Submit(const std::string& site, const std::string& id, const Update& update) {
    const auto begun = Begin(site, id, update);
    if (!begun.ok()) return begun.status();
    if (begun->has_receipt()) return begun->receipt();
    auto sink = Open(site, id);
    if (!sink.ok()) return sink.status();
    const absl::Status written =
        (*sink)->WriteChunk(std::string_view(update.tensors).substr((*sink)->expected_offset()));
    if (!written.ok()) return written;
    return Call<v1::Receipt>([&](auto reply) { (*sink)->Finish(std::move(reply)); });
  }
  absl::StatusOr<v1::Receipt> Evaluate(const v1::Assignment& assignment) {
    v1::SubmitEvaluationRequest request;
    request.set_assignment(assignment.id());
    for (const auto& [name, value] :
         {std::pair("loss_before", 1.0 + assignment.site()[0] - 'a'), std::pair("heldout_tokens", 100.0)}) {
      v1::Metric* metric = request.add_metrics();
      metric->set_name(name);
      metric->set_value(value);
    }
    return Call<v1::Receipt>([&](auto reply) {
      server_->SubmitEvaluation({assignment.site(), false}, request, std::move(reply));
    });
  }
  // Each site checks in and reports once. Ranks by site: a 2 (the job's), b 3, c 4.
  void RunRound(const std::vector<std::string>& sites = {"a", "b", "c"}) {
    for (const std::string& site : sites) {
      const v1::Assignment assignment = Assigned(site, RankOf(site));
      ASSERT_THAT(Submit(site, assignment.id(), UpdateOf(assignment)), testing::IsOk());
    }
  }
  static uint32_t RankOf(const std::string& site) { return site == "a" ? 0 : static_cast<uint32_t>(site[0] - 'a' + 2); }

  absl::StatusOr<std::shared_ptr<const runtime::Mapping>> OpenBlob(const service::Caller& caller,
                                                                   const std::string& sha256) {
    return Call<std::shared_ptr<const runtime::Mapping>>(
        [&](auto reply) { server_->OpenBlob(caller, sha256, std::move(reply)); });
  }
  std::vector<v1::VersionInfo> Versions(const std::string& job) {
    const auto response =
        Call<v1::ListVersionsResponse>([&](auto reply) { server_->ListVersions(job, std::move(reply)); });
    EXPECT_THAT(response, testing::IsOk());
    if (!response.ok()) return {};
    return {response->versions().begin(), response->versions().end()};
  }

  testing::SimRuntime machine_;
  ServerOptions options_;
  std::unique_ptr<FederationServer> server_;
};

}  // namespace strata::server

#endif  // STRATA_TESTS_SERVER_SERVER_FIXTURE_H_

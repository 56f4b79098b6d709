// The same server on the machine's own threads and disk: many sites at once, to be run under a thread sanitizer too.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/config/convert.h"
#include "common/runtime/runtime.h"
#include "common/secure/digest.h"
#include "common/telemetry/log.h"
#include "server/server.h"
#include "tests/testing/status_matchers.h"

namespace strata::server {
namespace {

constexpr int kSites = 6;
constexpr uint32_t kRounds = 3;

const adapter::BaseIdentity kBase{std::string(32, 'w'), std::string(32, 's'), "fp32"};

template <typename T, typename Ask>
absl::StatusOr<T> Wait(Ask ask) {
  absl::StatusOr<T> result = absl::UnknownError("not answered");
  absl::Notification done;
  ask([&](absl::StatusOr<T> answer) {
    result = std::move(answer);
    done.Notify();
  });
  done.WaitForNotification();
  return result;
}

v1::CheckInRequest CheckInRequest() {
  v1::CheckInRequest request;
  request.mutable_protocol()->set_major(1);
  v1::ModelOffer* offer = request.add_models();
  offer->set_label("base");
  offer->mutable_identity()->set_weights(kBase.weights);
  offer->mutable_identity()->set_semantics(kBase.semantics);
  v1::ModuleShape* module = offer->add_modules();
  module->set_name("model.layers.0.mlp.up_proj");
  module->set_out(6);
  module->set_in(4);
  request.add_data_labels("text");
  request.set_max_wait_ms(30000);
  return request;
}

absl::StatusOr<v1::Receipt> Submit(FederationServer& server, const v1::Assignment& assignment) {
  const service::Caller caller{assignment.site(), false};
  const v1::Target& target = assignment.targets(0);
  adapter::AdapterBuilder builder;
  builder.Add(target.module(), target.rank(), 6, 4, target.alpha(), target.scaling(),
              std::vector<float>(size_t{target.rank()} * 4, 0.5F),
              std::vector<float>(size_t{target.rank()} * 6, 0.25F));
  const adapter::Adapter update = std::move(builder).Build();
  const std::string tensors = adapter::PeftTensorBytes(update, {});
  adapter::Manifest manifest;
  manifest.base = kBase;
  manifest.assignment = assignment.id();
  manifest.parent_version = assignment.version();
  manifest.num_examples = 10;
  manifest.blocks = adapter::BlocksOf(update);
  manifest.tensors_sha256 = secure::Sha256(tensors);
  manifest.tensors_bytes = tensors.size();
  v1::BeginSubmitRequest request;
  request.set_assignment(assignment.id());
  request.mutable_manifest()->set_manifest(adapter::SerializeManifest(manifest));
  const auto begun =
      Wait<v1::BeginSubmitResponse>([&](auto reply) { server.BeginSubmit(caller, request, std::move(reply)); });
  if (!begun.ok()) return begun.status();
  auto sink = Wait<std::unique_ptr<service::UploadSink>>(
      [&](auto reply) { server.OpenUpload(caller, assignment.id(), std::move(reply)); });
  if (!sink.ok()) return sink.status();
  if (const absl::Status written = (*sink)->WriteChunk(tensors); !written.ok()) return written;
  return Wait<v1::Receipt>([&](auto reply) { (*sink)->Finish(std::move(reply)); });
}

// A site until its last round is reported.
void Participate(FederationServer& server, const std::string& site) {
  for (uint32_t reported = 0; reported < kRounds;) {
    const auto answer = Wait<v1::CheckInResponse>([&](auto reply) {
      server.CheckIn({site, false}, CheckInRequest(), std::move(reply));
    });
    ASSERT_OK(answer);
    if (!answer->has_assignment()) continue;
    for (const v1::BlobRef& blob : answer->assignment().blobs()) {
      ASSERT_OK(Wait<std::shared_ptr<const runtime::Mapping>>([&](auto reply) {
        server.OpenBlob({site, false}, blob.sha256(), std::move(reply));
      }));
    }
    v1::ProgressRequest progress;
    progress.set_assignment(answer->assignment().id());
    ASSERT_OK(Wait<v1::ProgressResponse>([&](auto reply) {
      server.Progress({site, false}, progress, std::move(reply));
    }));
    ASSERT_OK(Submit(server, answer->assignment()));
    ++reported;
  }
}

TEST(ThreadsTest, ManySitesAtOnce) {
  telemetry::SetLogLevel("error");
  const std::string directory = absl::StrCat(::testing::TempDir(), "/strata-threads-test");
  std::filesystem::remove_all(directory);
  runtime::SystemRuntime machine(4);
  ServerOptions options;
  options.state_dir = directory;
  options.num_threads = 4;
  FederationServer server(machine.get(), options);
  ASSERT_OK(server.Start());
  config::JobOptions job;
  job.name = "threads";
  job.model_digests = {kBase.Digest()};
  job.data = "text";
  job.rounds.count = kRounds;
  for (int i = 0; i < kSites; ++i) job.sites.push_back(absl::StrCat("site-", i));
  v1::SubmitJobRequest request;
  *request.mutable_job() = config::ToProto(job);
  ASSERT_OK_AND_ASSIGN(const v1::SubmitJobResponse submitted,
                       Wait<v1::SubmitJobResponse>([&](auto reply) { server.SubmitJob(request, std::move(reply)); }));
  std::vector<std::thread> sites;
  for (const std::string& site : job.sites) sites.emplace_back([&server, site] { Participate(server, site); });
  for (std::thread& site : sites) site.join();
  uint64_t revision = 0;
  v1::JobReport report;
  while (report.summary().state() != v1::DONE) {
    using Revision = std::pair<uint64_t, v1::JobReport>;
    auto next = Wait<Revision>([&](auto reply) { server.WatchJob(submitted.id(), revision, std::move(reply)); });
    ASSERT_OK(next);
    revision = next->first;
    report = next->second;
  }
  EXPECT_EQ(report.summary().version(), kRounds);
  absl::Notification stopped;
  server.Stop([&stopped] { stopped.Notify(); });
  stopped.WaitForNotification();
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace strata::server

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <sstream>

#include "common/adapter/adapter.h"
#include "common/adapter/manifest.h"
#include "common/format/gguf.h"
#include "common/secure/digest.h"
#include "nlohmann/json.hpp"
#include "server/ctl/adapter_export.h"
#include "server/ctl/commands.h"
#include "server/ctl/job_watch.h"
#include "server/ctl/message_json.h"
#include "server/service/listener.h"
#include "tests/testing/fake_backend.h"
#include "tests/testing/golden.h"

namespace strata::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

adapter::Adapter MakeAdapter(int64_t rank, double scaling, float value) {
  adapter::AdapterBuilder builder;
  builder.Add("model.layers.0.q_proj", rank, 2, 3, scaling * static_cast<double>(rank), scaling,
              std::vector<float>(rank * 3, value), std::vector<float>(2 * rank, 1));
  return std::move(builder).Build();
}

AdminClient::Blob MakeBlob(const adapter::Adapter& adapter) {
  AdminClient::Blob blob;
  blob.tensors = adapter::PeftTensorBytes(adapter, {});
  adapter::Manifest manifest;
  manifest.base.weights = std::string(32, 'w');
  manifest.base.semantics = std::string(32, 's');
  manifest.assignment = std::string(16, 'a');
  manifest.num_examples = 77;
  manifest.blocks = adapter::BlocksOf(adapter);
  manifest.tensors_sha256 = secure::Sha256(std::string_view(blob.tensors));
  manifest.tensors_bytes = blob.tensors.size();
  blob.manifest = adapter::SerializeManifest(manifest);
  return blob;
}

v1::JobReport MakeReport(v1::JobState state) {
  v1::JobReport report;
  report.mutable_summary()->set_id("demo-1");
  report.mutable_summary()->set_state(state);
  report.mutable_summary()->set_round(1);
  report.mutable_summary()->set_rounds(2);
  v1::RoundReport* round = report.add_rounds();
  round->set_round(1);
  round->set_attempt(1);
  round->set_state("open");
  v1::SiteRound* site = round->add_sites();
  site->set_site("alpha");
  site->set_state("training");
  site->set_step(5);
  site->set_of(10);
  return report;
}

class CtlTest : public ::testing::Test {
 protected:
  CtlTest() : directory_(::testing::TempDir() + "/ctl." + std::to_string(getpid())) {
    std::filesystem::create_directories(directory_);
    auto listener = service::Listener::Start({.address = "", .tls = {}, .admin_socket = Path("admin.sock")}, backend_,
                                             runtime_.get());
    if (listener.ok()) listener_ = *std::move(listener);
  }
  ~CtlTest() override {
    listener_.reset();
    std::filesystem::remove_all(directory_);
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  // Runs the command line; its standard output ends up in out_, its errors in error_.
  int Run(std::vector<std::string> arguments) {
    CtlContext context;
    context.socket = Path("admin.sock");
    CLI::App app;
    app.add_option("--format", context.format);
    AddJobCommand(app, context);
    AddAdapterCommand(app, context);
    AddSiteCommand(app, context);
    std::reverse(arguments.begin(), arguments.end());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    app.parse(arguments);
    out_ = ::testing::internal::GetCapturedStdout();
    error_ = ::testing::internal::GetCapturedStderr();
    return context.exit_code;
  }
  std::string AddBlob(const AdminClient::Blob& blob) { return backend_.AddBlob(blob.tensors, blob.manifest); }

  const std::string directory_;
  std::string out_, error_;
  runtime::SystemRuntime runtime_{2};
  testing::FakeBackend backend_{runtime_.get().executor};
  std::unique_ptr<service::Listener> listener_;
};

TEST_F(CtlTest, APeftDirectoryBecomesAnAdapterForLlamaCpp) {
  const std::string source = testing::GoldenDir("lora/llama-pattern");
  const std::string model = testing::GoldenDir("models/llama");
  ASSERT_EQ(Run({"adapter", "export", source, Path("folder"), "--format", "gguf", "--model", model}), 0) << error_;
  ASSERT_EQ(Run({"adapter", "export", source, Path("a.gguf"), "--format", "gguf", "--model", model, "--dtype", "f16",
                 "--format", "json"}),
            0)
      << error_;
  EXPECT_EQ(nlohmann::json::parse(out_)["out"], Path("a.gguf"));
  EXPECT_EQ(nlohmann::json::parse(out_)["modules"], 14);
  runtime::FileSystem& files = runtime_.get().files;
  const auto full = format::Gguf::Open(files, Path("folder/adapter_model.gguf"));
  const auto half = format::Gguf::Open(files, Path("a.gguf"));
  ASSERT_TRUE(full.ok() && half.ok());
  EXPECT_EQ(full->GetString("adapter.type").value(), "lora");
  EXPECT_EQ(full->tensors().size(), 28U);
  EXPECT_EQ(full->Find("blk.0.attn_q.weight.lora_a")->type, static_cast<uint32_t>(format::GgufType::kF32));
  EXPECT_EQ(half->Find("blk.0.attn_q.weight.lora_a")->type, static_cast<uint32_t>(format::GgufType::kF16));
  EXPECT_EQ(Run({"adapter", "export", source, Path("x"), "--format", "gguf"}), 2);
  EXPECT_THAT(error_, HasSubstr("needs --model"));
  EXPECT_EQ(Run({"adapter", "export", source, Path("x"), "--format", "gguf", "--model", Path("none")}), 1);
}

TEST_F(CtlTest, SubmitPrintsTheIdAlone) {
  ASSERT_TRUE(runtime_.get()
                  .files
                  .WriteFile(Path("job.yaml"),
                             "name: demo\nmodel: {digests: [\"" + std::string(64, 'a') + ":" + std::string(64, 'b') +
                                 "\"]}\ndata: notes\nsites: all\nrounds: {count: 3}\ntraining: {steps: 4}\n")
                  .ok());
  EXPECT_EQ(Run({"job", "submit", Path("job.yaml")}), 0) << error_;
  EXPECT_EQ(out_, "job-1\n");
  EXPECT_EQ(backend_.submitted().name(), "demo");
  EXPECT_EQ(backend_.submitted().rounds().count(), 3);
  EXPECT_EQ(Run({"job", "submit", Path("job.yaml"), "--format", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out_)["id"], "job-1");
  EXPECT_EQ(Run({"job", "submit", Path("job.yaml"), "--print-config"}), 0);
  EXPECT_THAT(out_, HasSubstr("count: 3"));
}

TEST_F(CtlTest, FaultsOfAJobAreMisuse) {
  ASSERT_TRUE(runtime_.get().files.WriteFile(Path("job.yaml"), "name: demo\nnmae: x\nrounds: {count: -1}\n").ok());
  EXPECT_EQ(Run({"job", "submit", Path("job.yaml")}), 2);
  EXPECT_THAT(error_, HasSubstr("job.yaml:2"));
  EXPECT_THAT(error_, HasSubstr("job.yaml:3"));
  EXPECT_EQ(Run({"job", "submit", Path("nowhere.yaml")}), 2);
  EXPECT_THAT(error_, HasSubstr("nowhere.yaml"));
}

TEST_F(CtlTest, ShowListAndSites) {
  backend_.AddReport(MakeReport(v1::RUNNING));
  EXPECT_EQ(Run({"job", "list"}), 0);
  EXPECT_THAT(out_, HasSubstr("demo-1"));
  EXPECT_EQ(Run({"job", "show", "demo-1", "--format", "json"}), 0);
  const nlohmann::json json = nlohmann::json::parse(out_);
  EXPECT_EQ(json["summary"]["state"], "running");
  EXPECT_EQ(json["rounds"][0]["sites"][0]["step"], 5);
  EXPECT_EQ(json["rounds"][0]["sites"][0]["bytes_up"], 0);  // a number, not a text
  EXPECT_EQ(Run({"job", "show", "other"}), 1);
  EXPECT_THAT(error_, HasSubstr("no such job"));
  EXPECT_EQ(Run({"site", "list"}), 0);
  EXPECT_THAT(out_, HasSubstr("alpha"));
}

TEST_F(CtlTest, WatchEndsWithTheJob) {
  backend_.AddReport(MakeReport(v1::DONE));
  EXPECT_EQ(Run({"job", "watch", "demo-1"}), 0);
  EXPECT_THAT(out_, HasSubstr("done"));
  backend_.AddReport(MakeReport(v1::FAILED));
  EXPECT_EQ(Run({"job", "watch", "demo-1"}), 1);
  EXPECT_EQ(Run({"job", "abort", "demo-1", "--reason", "enough"}), 0);
  EXPECT_THAT(out_, HasSubstr("aborted"));
}

TEST_F(CtlTest, NoServerIsAClearError) {
  listener_.reset();
  EXPECT_EQ(Run({"job", "list"}), 2);
  EXPECT_THAT(error_, HasSubstr("no admin socket"));
}

TEST_F(CtlTest, AVersionIsTheSumOfItsBlobs) {
  const adapter::Adapter first = MakeAdapter(1, 2.0, 3.0F);
  const adapter::Adapter second = MakeAdapter(2, 0.5, 1.0F);
  v1::ListVersionsResponse versions;
  v1::VersionInfo* version = versions.add_versions();
  version->set_version(1);
  version->add_blobs(AddBlob(MakeBlob(first)));
  version = versions.add_versions();
  version->set_version(2);
  version->set_best(true);
  version->set_loss(NAN);
  *version->mutable_blobs() = versions.versions(0).blobs();
  version->add_blobs(AddBlob(MakeBlob(second)));
  backend_.set_versions(versions);

  ASSERT_EQ(Run({"adapter", "export", "demo-1@best", Path("out")}), 0) << error_;
  auto read = adapter::ReadPeft(runtime_.get().files, Path("out"));
  ASSERT_TRUE(read.ok()) << read.status();
  const adapter::Factors& factors = read->first.modules().at(0);
  EXPECT_EQ(factors.rank, 3);
  EXPECT_EQ(factors.alpha, 3);
  EXPECT_EQ(factors.scaling, 1);
  std::vector<float> a(9);
  std::vector<float> b(6);
  ASSERT_TRUE(format::ToFloat(factors.a, a).ok());
  ASSERT_TRUE(format::ToFloat(factors.b, b).ok());
  // 2 * (1 * 3) + 0.5 * (1 * 1 + 1 * 1) in every place
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 3; ++column) {
      float sum = 0;
      for (int k = 0; k < 3; ++k) sum += b[row * 3 + k] * a[k * 3 + column];
      EXPECT_FLOAT_EQ(sum, 7);
    }
  }
  EXPECT_EQ(Run({"adapter", "export", "demo-1@1", Path("one"), "--format", "json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out_)["max_rank"], 1);
  EXPECT_EQ(Run({"adapter", "export", "demo-1@7", Path("none")}), 1);
  EXPECT_EQ(Run({"adapter", "export", "demo-1@x", Path("none")}), 2);
  EXPECT_EQ(Run({"adapter", "list", "demo-1", "--format", "json"}), 0);
  EXPECT_TRUE(nlohmann::json::parse(out_)["versions"][1]["loss"].is_null());
  EXPECT_EQ(Run({"adapter", "list", "demo-1"}), 0);
  EXPECT_THAT(out_, HasSubstr("best"));
}

TEST_F(CtlTest, AnUpdateIsWrittenAsItWasSent) {
  const AdminClient::Blob blob = MakeBlob(MakeAdapter(2, 4.0, 1.0F));
  v1::JobReport report = MakeReport(v1::RUNNING);
  v1::SiteRound* site = report.mutable_rounds(0)->mutable_sites(0);
  site->set_update_sha256(AddBlob(blob));
  site->set_weight(0.25);
  backend_.AddReport(report);
  ASSERT_EQ(Run({"adapter", "export", "demo-1", "--update", "1/alpha", Path("update")}), 0) << error_;
  EXPECT_EQ(*runtime_.get().files.ReadFile(Path("update/adapter_model.safetensors")), blob.tensors);
  auto read = adapter::ReadPeft(runtime_.get().files, Path("update"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->first.modules().at(0).scaling, 4);
  const nlohmann::json manifest = nlohmann::json::parse(*runtime_.get().files.ReadFile(Path("update/manifest.json")));
  EXPECT_EQ(manifest["weight"], 0.25);
  EXPECT_EQ(manifest["num_examples"], 77);
  EXPECT_EQ(Run({"adapter", "export", "demo-1", "--update", "2/alpha", Path("update")}), 1);
  EXPECT_EQ(Run({"adapter", "export", "demo-1", "--update", "alpha", Path("update")}), 2);
}

TEST(MessageJsonTest, EveryKindOfField) {
  v1::JobReport report;
  report.mutable_summary()->set_created_unix_ms(-5);
  v1::RoundReport* round = report.add_rounds();
  round->set_error(INFINITY);
  round->add_sites()->set_update_sha256(std::string("\x01\xff", 2));
  report.mutable_config()->mutable_training()->mutable_adapter()->set_alpha(16);
  const nlohmann::json json = nlohmann::json::parse(MessageJson(report));
  EXPECT_EQ(json["summary"]["created_unix_ms"], -5);
  EXPECT_EQ(json["summary"]["state"], "job_state_unspecified");
  EXPECT_TRUE(json["rounds"][0]["error"].is_null());
  EXPECT_EQ(json["rounds"][0]["sites"][0]["update_sha256"], "01ff");
  EXPECT_EQ(json["config"]["training"]["adapter"]["alpha"], 16);
  EXPECT_FALSE(json["config"]["training"]["adapter"].contains("rank"));
}

TEST(JobDisplayTest, PlainLinesOnlyForChanges) {
  std::ostringstream out;
  JobDisplay display(out, 0);
  v1::JobReport report = MakeReport(v1::RUNNING);
  display.Show(report);
  const std::string first = out.str();
  EXPECT_THAT(first, HasSubstr("alpha"));
  report.mutable_rounds(0)->mutable_sites(0)->set_step(6);
  display.Show(report);
  EXPECT_EQ(out.str(), first);  // a step is no line of a log
  report.mutable_rounds(0)->set_state("committed");
  display.Show(report);
  display.Show(report);
  EXPECT_THAT(out.str().substr(first.size()), HasSubstr("committed"));
  EXPECT_THAT(out.str(), Not(HasSubstr("\x1b")));
}

TEST(JobDisplayTest, ATerminalIsRedrawnInPlaceAndWithinItsWidth) {
  std::ostringstream out;
  JobDisplay display(out, 40);
  v1::JobReport report = MakeReport(v1::RUNNING);
  display.Show(report);
  display.Show(report);
  EXPECT_THAT(out.str(), HasSubstr("\x1b[3A\x1b[J"));
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) {
    const size_t escape = line.rfind("\x1b[J");
    EXPECT_LE(escape == std::string::npos ? line.size() : line.size() - escape - 3, 40) << line;
  }
}

}  // namespace
}  // namespace strata::ctl

#include "server/service/listener.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>

#include "common/secure/digest.h"
#include "common/wire/chunk.h"
#include "proto/admin.grpc.pb.h"
#include "proto/federation.grpc.pb.h"
#include "tests/testing/certificates.h"
#include "tests/testing/fake_backend.h"

namespace strata::service {
namespace {

using ::testing::HasSubstr;

const std::string kAssignment(16, 'a');

class ListenerTest : public ::testing::Test {
 protected:
  ListenerTest() : directory_(::testing::TempDir() + "/listen." + std::to_string(getpid())) {
    std::filesystem::create_directories(directory_);
  }
  ~ListenerTest() override {
    listener_.reset();
    std::filesystem::remove_all(directory_);
  }
  absl::Status Start(const ListenOptions& options) {
    auto listener = Listener::Start(options, backend_, runtime_.get());
    if (listener.ok()) listener_ = *std::move(listener);
    return listener.status();
  }
  void StartBoth() {
    ASSERT_TRUE(Start({.address = "127.0.0.1:0", .tls = {}, .admin_socket = Path("admin.sock")}).ok());
    const auto channel = grpc::CreateChannel(listener_->address(), grpc::InsecureChannelCredentials());
    sites_ = v1::Federation::NewStub(channel);
    admin_ = v1::Admin::NewStub(grpc::CreateChannel("unix:" + Path("admin.sock"), grpc::InsecureChannelCredentials()));
  }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  std::string StartError(const ListenOptions& options) { return std::string(Start(options).message()); }

  static void Name(grpc::ClientContext& context) { context.AddMetadata("strata-site", "alpha"); }
  static v1::Chunk MakeChunk(uint64_t offset, const std::string& data) {
    v1::Chunk chunk;
    chunk.set_offset(offset);
    chunk.set_crc32c(secure::Crc32c(std::as_bytes(std::span(data))));
    chunk.set_data(data);
    return chunk;
  }
  // Announces `tensors`, sends these chunks with generated code and returns the call's status.
  grpc::Status Upload(const std::string& tensors, const std::vector<v1::Chunk>& chunks, v1::Receipt* receipt) {
    v1::Manifest manifest;
    manifest.set_tensors_sha256(secure::Sha256(std::string_view(tensors)));
    manifest.set_tensors_bytes(tensors.size());
    v1::BeginSubmitRequest request;
    request.set_assignment(kAssignment);
    request.mutable_manifest()->set_manifest(manifest.SerializeAsString());
    v1::BeginSubmitResponse response;
    grpc::ClientContext announce;
    Name(announce);
    const grpc::Status begun = sites_->BeginSubmit(&announce, request, &response);
    if (!begun.ok()) return begun;
    grpc::ClientContext context;
    Name(context);
    context.AddMetadata("strata-assignment-bin", kAssignment);
    const auto writer = sites_->Upload(&context, receipt);
    for (const v1::Chunk& chunk : chunks) {
      if (!writer->Write(chunk)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }

  const std::string directory_;
  runtime::SystemRuntime runtime_{2};
  testing::FakeBackend backend_{runtime_.get().executor};
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<v1::Federation::Stub> sites_;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

TEST_F(ListenerTest, WithoutTlsOnlyLoopback) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "example.org:0", "10.1.2.3:0"}) {
    EXPECT_THAT(StartError({.address = address, .tls = {}, .admin_socket = ""}), HasSubstr("without TLS")) << address;
  }
  EXPECT_THAT(StartError({.address = "nonsense", .tls = {}, .admin_socket = ""}), HasSubstr("HOST:PORT"));
  EXPECT_TRUE(Start({.address = "localhost:0", .tls = {}, .admin_socket = ""}).ok());
  EXPECT_GT(listener_->port(), 0);
}

TEST_F(ListenerTest, FaultsOfTlsFilesAreNamed) {
  ASSERT_TRUE(testing::MakeCertificates(Path("certs"), "alpha"));
  config::TlsOptions tls = testing::TlsOf(Path("certs"), "server");
  tls.ca = Path("missing.pem");
  EXPECT_THAT(StartError({.address = "127.0.0.1:0", .tls = tls, .admin_socket = ""}), HasSubstr("missing.pem"));
  tls = testing::TlsOf(Path("certs"), "server");
  tls.key = Path("certs/alpha.key");
  EXPECT_THAT(StartError({.address = "127.0.0.1:0", .tls = tls, .admin_socket = ""}), HasSubstr("does not fit"));
  tls.key = std::string(STRATA_SOURCE_DIR) + "/CMakeLists.txt";
  EXPECT_THAT(StartError({.address = "127.0.0.1:0", .tls = tls, .admin_socket = ""}), HasSubstr("tls.key"));
  EXPECT_TRUE(Start({.address = "0.0.0.0:0", .tls = testing::TlsOf(Path("certs"), "server"), .admin_socket = ""}).ok());
}

TEST_F(ListenerTest, APortIsNotShared) {
  ASSERT_TRUE(Start({.address = "127.0.0.1:0", .tls = {}, .admin_socket = ""}).ok());
  const std::string taken = listener_->address();
  auto second = Listener::Start({.address = taken, .tls = {}, .admin_socket = ""}, backend_, runtime_.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ListenerTest, TheAdminSocketIsTheOwnersAlone) {
  StartBoth();
  struct stat info {};
  ASSERT_EQ(stat(Path("admin.sock").c_str(), &info), 0);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
  EXPECT_EQ(info.st_mode & 0777, 0600);
  const mode_t mask = umask(022);
  umask(mask);
  EXPECT_NE(mask, 0177);
  // The sites' door does not lead to the operator's service, nor the other way round.
  grpc::ClientContext context;
  v1::ListJobsResponse jobs;
  const auto wrong_door =
      v1::Admin::NewStub(grpc::CreateChannel(listener_->address(), grpc::InsecureChannelCredentials()));
  EXPECT_EQ(wrong_door->ListJobs(&context, {}, &jobs).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ListenerTest, ALiveAdminSocketIsNotTakenAndAStaleOneIs) {
  StartBoth();
  auto second =
      Listener::Start({.address = "", .tls = {}, .admin_socket = Path("admin.sock")}, backend_, runtime_.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  grpc::ClientContext context;
  v1::ListSitesResponse sites;
  EXPECT_TRUE(admin_->ListSites(&context, {}, &sites).ok());  // still answers
  // What a killed server leaves.
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, Path("stale.sock").c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  listener_.reset();
  EXPECT_TRUE(Start({.address = "", .tls = {}, .admin_socket = Path("stale.sock")}).ok());
  ASSERT_TRUE(runtime_.get().files.WriteFile(Path("file"), "precious").ok());
  EXPECT_THAT(StartError({.address = "", .tls = {}, .admin_socket = Path("file")}), HasSubstr("is no socket"));
  EXPECT_THAT(StartError({.address = "", .tls = {}, .admin_socket = std::string(200, 'x')}), HasSubstr("characters"));
}

TEST_F(ListenerTest, ACallerWithoutANameIsUnauthenticated) {
  StartBoth();
  v1::ProgressRequest request;
  request.set_assignment(kAssignment);
  v1::ProgressResponse response;
  grpc::ClientContext nameless;
  EXPECT_EQ(sites_->Progress(&nameless, request, &response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  grpc::ClientContext odd;
  odd.AddMetadata("strata-site", "../evil");
  EXPECT_EQ(sites_->Progress(&odd, request, &response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(backend_.calls().empty());
}

TEST_F(ListenerTest, AnotherMajorVersionIsTold) {
  StartBoth();
  v1::CheckInRequest request;
  request.mutable_protocol()->set_major(2);
  v1::CheckInResponse response;
  grpc::ClientContext context;
  Name(context);
  const grpc::Status status = sites_->CheckIn(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("protocol 2.0"));
}

TEST_F(ListenerTest, GeneratedCodeUploadsAndFetches) {
  StartBoth();
  v1::Receipt receipt;
  const grpc::Status status = Upload("hello world", {MakeChunk(0, "hello "), MakeChunk(6, "world")}, &receipt);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(receipt.assignment(), kAssignment);
  EXPECT_EQ(backend_.upload(kAssignment).bytes, "hello world");

  const std::string bytes(2500000, 'z');
  v1::FetchRequest fetch;
  fetch.set_sha256(backend_.AddBlob(bytes));
  fetch.set_offset(100);
  grpc::ClientContext context;
  Name(context);
  const auto reader = sites_->Fetch(&context, fetch);
  v1::Chunk chunk;
  uint64_t at = 100;
  while (reader->Read(&chunk)) {
    EXPECT_EQ(chunk.offset(), at);
    EXPECT_EQ(chunk.crc32c(), secure::Crc32c(std::as_bytes(std::span(chunk.data()))));
    at += chunk.data().size();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(at, bytes.size());
}

TEST_F(ListenerTest, AFetchBehindTheEndIsRefused) {
  StartBoth();
  v1::FetchRequest fetch;
  fetch.set_sha256(backend_.AddBlob("abc"));
  v1::Chunk chunk;
  for (const uint64_t offset : {uint64_t{3}, uint64_t{4}, UINT64_MAX}) {
    fetch.set_offset(offset);
    grpc::ClientContext context;
    Name(context);
    const auto reader = sites_->Fetch(&context, fetch);
    EXPECT_FALSE(reader->Read(&chunk));
    EXPECT_EQ(reader->Finish().error_code(), offset == 3 ? grpc::StatusCode::OK : grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(ListenerTest, DamagedAndMisplacedChunksAreRefused) {
  StartBoth();
  v1::Receipt receipt;
  v1::Chunk damaged = MakeChunk(0, "hello world");
  damaged.set_data("hellO world");
  EXPECT_EQ(Upload("hello world", {damaged}, &receipt).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(Upload("hello world", {MakeChunk(1, "ello")}, &receipt).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Upload("hello world", {MakeChunk(0, std::string(9 << 20, 'x'))}, &receipt).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Upload("hello world", {MakeChunk(0, "hello world and more")}, &receipt).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(backend_.upload(kAssignment).bytes, "");
  EXPECT_FALSE(Upload("hello world", {MakeChunk(0, "hello ")}, &receipt).ok());  // ends too early
  EXPECT_EQ(backend_.upload(kAssignment).bytes, "hello ");                       // and goes on later
  EXPECT_TRUE(Upload("hello world", {MakeChunk(6, "world")}, &receipt).ok());
}

TEST_F(ListenerTest, AnUploadWithoutAssignmentIsRefused) {
  StartBoth();
  v1::Receipt receipt;
  grpc::ClientContext context;
  Name(context);
  const auto writer = sites_->Upload(&context, &receipt);
  writer->WritesDone();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ListenerTest, ACancelledUploadKeepsWhatCame) {
  StartBoth();
  v1::Receipt receipt;
  EXPECT_FALSE(Upload("hello world", {MakeChunk(0, "hello ")}, &receipt).ok());
  grpc::ClientContext context;
  Name(context);
  context.AddMetadata("strata-assignment-bin", kAssignment);
  const auto writer = sites_->Upload(&context, &receipt);
  writer->Write(MakeChunk(6, "wo"));
  context.TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  listener_->Shutdown(absl::ZeroDuration());  // waits for the handler
  EXPECT_FALSE(backend_.upload(kAssignment).done);
  EXPECT_THAT(backend_.upload(kAssignment).bytes, ::testing::AnyOf("hello ", "hello wo"));
}

TEST_F(ListenerTest, WatchFollowsAJobToItsEnd) {
  StartBoth();
  v1::JobReport report;
  report.mutable_summary()->set_id("job-1");
  report.mutable_summary()->set_state(v1::RUNNING);
  backend_.AddReport(report);
  v1::ShowJobRequest request;
  request.set_id("job-1");
  grpc::ClientContext context;
  const auto reader = admin_->WatchJob(&context, request);
  ASSERT_TRUE(reader->Read(&report));
  EXPECT_EQ(report.summary().state(), v1::RUNNING);
  backend_.AwaitWatches(1);
  report.mutable_summary()->set_state(v1::DONE);
  backend_.AddReport(report);
  ASSERT_TRUE(reader->Read(&report));
  EXPECT_EQ(report.summary().state(), v1::DONE);
  EXPECT_FALSE(reader->Read(&report));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(ListenerTest, AWatchEndsWithItsWatcherAndWithTheServer) {
  StartBoth();
  v1::JobReport report;
  report.mutable_summary()->set_state(v1::RUNNING);
  backend_.AddReport(report);
  {
    grpc::ClientContext context;
    const auto reader = admin_->WatchJob(&context, {});
    ASSERT_TRUE(reader->Read(&report));
    backend_.AwaitWatches(1);
    context.TryCancel();
    backend_.AwaitWatches(0);
    EXPECT_FALSE(reader->Finish().ok());
  }
  grpc::ClientContext context;
  const auto reader = admin_->WatchJob(&context, {});
  ASSERT_TRUE(reader->Read(&report));
  backend_.AwaitWatches(1);
  listener_->Shutdown(absl::ZeroDuration());
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(ListenerTest, BlobsOfTheOperator) {
  StartBoth();
  const std::string bytes(1500000, 'q');
  v1::ReadBlobRequest request;
  request.set_sha256(backend_.AddBlob(bytes, "the manifest"));
  grpc::ClientContext context;
  const auto reader = admin_->ReadBlob(&context, request);
  v1::BlobPart part;
  ASSERT_TRUE(reader->Read(&part));
  EXPECT_EQ(part.manifest(), "the manifest");
  EXPECT_EQ(part.size(), bytes.size());
  std::string all = part.data();
  while (reader->Read(&part)) all += part.data();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(all, bytes);
  request.set_sha256("short");
  grpc::ClientContext bad;
  const auto refused = admin_->ReadBlob(&bad, request);
  EXPECT_FALSE(refused->Read(&part));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace strata::service

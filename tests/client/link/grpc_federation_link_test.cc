#include "client/link/grpc_federation_link.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/synchronization/notification.h"
#include "common/secure/digest.h"
#include "proto/federation.pb.h"
#include "server/service/listener.h"
#include "tests/testing/certificates.h"
#include "tests/testing/fake_backend.h"

namespace strata::link {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

const std::string kAssignment(16, 'a');

// Waits for the one answer of a call.
template <typename T>
class Waiter {
 public:
  Callback<T> callback() {
    return [this](absl::StatusOr<T> result) {
      result_ = std::move(result);
      done_.Notify();
    };
  }
  absl::StatusOr<T> Get() {
    done_.WaitForNotification();
    return result_;
  }

 private:
  absl::StatusOr<T> result_ = absl::UnknownError("none");
  absl::Notification done_;
};

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 2654435761U >> 13);
  return bytes;
}

Update MakeUpdate(const std::string& tensors) {
  v1::Manifest manifest;
  manifest.set_tensors_sha256(secure::Sha256(std::string_view(tensors)));
  manifest.set_tensors_bytes(tensors.size());
  return {.manifest = manifest.SerializeAsString(),
          .signature = "",
          .key_id = "",
          .tensors = std::make_shared<testing::MemoryMapping>(tensors)};
}

v1::CheckInResponse AssignmentAnswer() {
  v1::CheckInResponse response;
  v1::Assignment* assignment = response.mutable_assignment();
  assignment->set_id(kAssignment);
  assignment->set_job("job-1");
  assignment->set_site("alpha");
  assignment->set_round(1);
  assignment->set_task(v1::EVALUATE);
  assignment->set_progress_interval_ms(1000);
  assignment->mutable_base()->set_weights(std::string(32, 'w'));
  assignment->mutable_base()->set_semantics(std::string(32, 's'));
  return response;
}

class GrpcFederationLinkTest : public ::testing::Test {
 protected:
  GrpcFederationLinkTest() : directory_(::testing::TempDir() + "/link." + std::to_string(getpid())) {
    std::filesystem::create_directories(directory_);
  }
  ~GrpcFederationLinkTest() override {
    link_.reset();
    if (listener_ != nullptr) listener_->Shutdown(absl::ZeroDuration());
    std::filesystem::remove_all(directory_);
  }

  void Listen(const config::TlsOptions& tls = {}) {
    auto listener =
        service::Listener::Start({.address = "127.0.0.1:0", .tls = tls, .admin_socket = ""}, backend_, runtime_.get());
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  std::unique_ptr<GrpcFederationLink> MakeLink(const config::TlsOptions& tls, LinkOptions options = {}) {
    options.address = listener_->address();
    options.tls = tls;
    if (!tls.enabled()) options.site = "alpha";
    auto link = GrpcFederationLink::Create(options, runtime_.get());
    EXPECT_TRUE(link.ok()) << link.status();
    return *std::move(link);
  }
  void Connect(LinkOptions options = {}) {
    Listen();
    link_ = MakeLink({}, std::move(options));
  }

  absl::StatusOr<Receipt> Submit(const std::string& tensors) {
    Waiter<Receipt> waiter;
    link_->Submit(kAssignment, MakeUpdate(tensors), waiter.callback());
    return waiter.Get();
  }
  absl::StatusOr<uint64_t> Fetch(const std::string& sha256, uint64_t size) {
    Waiter<uint64_t> waiter;
    link_->Fetch({.sha256 = sha256, .size = size}, Path("blob"), waiter.callback());
    return waiter.Get();
  }
  absl::StatusOr<CheckInAnswer> CheckIn(FederationLink& link) {
    Waiter<CheckInAnswer> waiter;
    link.CheckIn({}, waiter.callback());
    return waiter.Get();
  }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  void WriteFile(const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(runtime_.get().files.WriteFile(Path(name), bytes).ok());
  }
  std::string ReadFile(const std::string& name) {
    return runtime_.get().files.ReadFile(Path(name)).value_or("missing");
  }

  const std::string directory_;
  runtime::SystemRuntime runtime_{3};
  testing::FakeBackend backend_{runtime_.get().executor};
  std::unique_ptr<service::Listener> listener_;
  std::unique_ptr<GrpcFederationLink> link_;
};

TEST_F(GrpcFederationLinkTest, CheckInOverLoopback) {
  Connect();
  backend_.set_answer(AssignmentAnswer());
  absl::StatusOr<CheckInAnswer> answer = CheckIn(*link_);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(std::get<Assignment>(*answer).id, kAssignment);
  EXPECT_FALSE(std::get<Assignment>(*answer).train);
  EXPECT_THAT(backend_.calls(), Contains("CheckIn:alpha"));
  EXPECT_EQ(backend_.last_check_in().protocol().major(), 1);
}

TEST_F(GrpcFederationLinkTest, OtherCallsRoundTrip) {
  Connect();
  Waiter<ProgressAnswer> first, second;
  link_->Report({.assignment = kAssignment, .phase = 2, .training = {.step = 1}}, first.callback());
  ASSERT_TRUE(first.Get().ok()) << first.Get().status();
  EXPECT_FALSE(first.Get()->stop);
  link_->Report({.assignment = kAssignment, .phase = 2, .training = {.step = 100}}, second.callback());
  EXPECT_EQ(second.Get()->reason, "enough");
  Waiter<Receipt> receipt;
  link_->SubmitEvaluation(kAssignment, {{.name = "loss", .value = 2}}, receipt.callback());
  EXPECT_EQ(receipt.Get()->assignment, kAssignment);
  Waiter<bool> released;
  link_->Release(kAssignment, "leaving", released.callback());
  EXPECT_TRUE(released.Get().ok());
  Waiter<bool> refused;
  link_->Release("short", "leaving", refused.callback());
  EXPECT_EQ(refused.Get().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GrpcFederationLinkTest, TheNameIsTheCertificatesWhateverTheSiteSays) {
  ASSERT_TRUE(testing::MakeCertificates(Path("certs"), "alpha beta"));
  Listen(testing::TlsOf(Path("certs"), "server"));
  LinkOptions options;
  options.site = "mallory";
  link_ = MakeLink(testing::TlsOf(Path("certs"), "beta"), options);
  backend_.set_answer(AssignmentAnswer());
  absl::StatusOr<CheckInAnswer> answer = CheckIn(*link_);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(Submit(Pattern(3000000)), ::testing::Truly([](const auto& r) { return r.ok(); }));
  EXPECT_EQ(backend_.calls(), (std::vector<std::string>{"CheckIn:beta", "BeginSubmit:beta", "OpenUpload:beta"}));
}

TEST_F(GrpcFederationLinkTest, StrangersAreKeptOut) {
  ASSERT_TRUE(testing::MakeCertificates(Path("certs"), "alpha"));
  ASSERT_TRUE(testing::MakeCertificates(Path("other"), "alpha"));
  Listen(testing::TlsOf(Path("certs"), "server"));
  backend_.set_answer(AssignmentAnswer());
  config::TlsOptions wrong_ca = testing::TlsOf(Path("other"), "alpha");
  EXPECT_EQ(CheckIn(*MakeLink(wrong_ca)).status().code(), absl::StatusCode::kUnavailable);
  wrong_ca.ca = Path("certs") + "/ca.pem";  // trusts the server, is not trusted by it
  EXPECT_EQ(CheckIn(*MakeLink(wrong_ca)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CheckIn(*MakeLink({})).status().code(), absl::StatusCode::kUnavailable);  // no TLS at all
  // A server's certificate makes no client.
  EXPECT_EQ(CheckIn(*MakeLink(testing::TlsOf(Path("certs"), "server"))).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_TRUE(backend_.calls().empty());
}

TEST_F(GrpcFederationLinkTest, FaultsOfOptionsAreNamed) {
  const auto create = [&](LinkOptions options) {
    return std::string(GrpcFederationLink::Create(options, runtime_.get()).status().message());
  };
  EXPECT_THAT(create({.address = "example.org:1", .channel = nullptr, .tls = {}, .site = "a"}),
              HasSubstr("without TLS"));
  EXPECT_THAT(create({.address = "localhost:1", .channel = nullptr, .tls = {}, .site = "a/b"}), HasSubstr("site name"));
  WriteFile("junk", "no pem");
  EXPECT_THAT(create({.address = "example.org:1",
                      .channel = nullptr,
                      .tls = {.cert = Path("junk"), .key = Path("junk"), .ca = Path("junk")},
                      .site = ""}),
              HasSubstr("is no PEM file"));
  EXPECT_THAT(create({.address = "example.org:1",
                      .channel = nullptr,
                      .tls = {.cert = "/nowhere", .key = "", .ca = ""},
                      .site = ""}),
              HasSubstr("/nowhere"));
}

TEST_F(GrpcFederationLinkTest, AParkedCheckInEndsWithShutdown) {
  Connect();
  Waiter<CheckInAnswer> waiter;
  struct CheckIn request;
  request.max_wait = absl::Hours(1);
  link_->CheckIn(request, waiter.callback());
  backend_.AwaitParked(1);
  link_->Shutdown();
  EXPECT_EQ(waiter.Get().status().code(), absl::StatusCode::kCancelled);
  backend_.AwaitParked(0);
  EXPECT_EQ(backend_.cancelled(), 1);
  EXPECT_EQ(CheckIn(*link_).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(GrpcFederationLinkTest, AStoppingServerEndsParkedCheckIns) {
  Connect();
  Waiter<CheckInAnswer> waiter;
  struct CheckIn request;
  request.max_wait = absl::Hours(1);
  link_->CheckIn(request, waiter.callback());
  backend_.AwaitParked(1);
  listener_->Shutdown(absl::ZeroDuration());
  EXPECT_FALSE(waiter.Get().ok());
  EXPECT_EQ(backend_.parked(), 0);
}

TEST_F(GrpcFederationLinkTest, ASilentServerTimesOut) {
  LinkOptions options;
  options.call_timeout = absl::Milliseconds(50);
  Connect(options);
  EXPECT_EQ(CheckIn(*link_).status().code(), absl::StatusCode::kDeadlineExceeded);
  backend_.AwaitParked(0);
}

TEST_F(GrpcFederationLinkTest, NoServerIsUnavailable) {
  Connect();
  listener_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(CheckIn(*link_).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(GrpcFederationLinkTest, UploadsOfEverySize) {
  LinkOptions options;
  options.chunk_bytes = 1000;
  Connect(options);
  for (size_t size : {size_t{0}, size_t{1}, size_t{999}, size_t{1000}, size_t{1001}, size_t{54321}}) {
    const std::string assignment(16, static_cast<char>('a' + size % 23));
    Waiter<Receipt> waiter;
    link_->Submit(assignment, MakeUpdate(Pattern(size)), waiter.callback());
    ASSERT_TRUE(waiter.Get().ok()) << size << waiter.Get().status();
    EXPECT_EQ(backend_.upload(assignment).bytes, Pattern(size));
  }
}

TEST_F(GrpcFederationLinkTest, ABrokenUploadGoesOnWhereTheServerIs) {
  LinkOptions options;
  options.chunk_bytes = 1000;
  Connect(options);
  const std::string tensors = Pattern(5500);
  // Nothing, within a chunk, at a chunk's border, one before the end.
  for (uint64_t offset : {0, 1, 999, 1000, 1001, 5000, 5499}) {
    const std::string assignment(16, static_cast<char>('a' + offset % 23));
    backend_.FailUploadAt(offset, absl::UnavailableError("broken"));
    Waiter<Receipt> broken, whole;
    link_->Submit(assignment, MakeUpdate(tensors), broken.callback());
    EXPECT_EQ(broken.Get().status().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(backend_.upload(assignment).bytes, tensors.substr(0, offset));
    link_->Submit(assignment, MakeUpdate(tensors), whole.callback());
    ASSERT_TRUE(whole.Get().ok()) << offset << whole.Get().status();
    EXPECT_EQ(backend_.upload(assignment).bytes, tensors);
  }
}

TEST_F(GrpcFederationLinkTest, ARepeatedSubmitGetsTheReceiptAndAnotherUpdateDoesNot) {
  Connect();
  ASSERT_TRUE(Submit("first").ok());
  absl::StatusOr<Receipt> again = Submit("first");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->tensors_sha256, secure::Sha256(std::string_view("first")));
  EXPECT_EQ(backend_.calls(), (std::vector<std::string>{"BeginSubmit:alpha", "OpenUpload:alpha", "BeginSubmit:alpha"}));
  EXPECT_EQ(Submit("other").status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(GrpcFederationLinkTest, AFullDiskAtTheServerIsToldAsSuch) {
  Connect();
  backend_.FailUploadAt(10, absl::ResourceExhaustedError("disk full"));
  const absl::Status status = Submit(Pattern(8000000)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "disk full");
}

TEST_F(GrpcFederationLinkTest, FetchWritesTheBlobAndResumes) {
  Connect();
  const std::string bytes = Pattern(3 * 1048576 + 17);
  const std::string sha256 = backend_.AddBlob(bytes);
  for (size_t have : {size_t{0}, size_t{1}, size_t{1048576}, bytes.size() - 1, bytes.size()}) {
    WriteFile("blob.part", bytes.substr(0, have));
    absl::StatusOr<uint64_t> received = Fetch(sha256, bytes.size());
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(*received, bytes.size() - have);
    EXPECT_EQ(ReadFile("blob"), bytes);
    EXPECT_FALSE(std::filesystem::exists(Path("blob.part")));
  }
}

TEST_F(GrpcFederationLinkTest, APartThatIsWrongIsFetchedAnew) {
  Connect();
  const std::string bytes = Pattern(100000);
  const std::string sha256 = backend_.AddBlob(bytes);
  for (const std::string& part : {std::string(5000, 'x'), std::string(100000, 'x'), std::string(200000, 'x')}) {
    WriteFile("blob.part", part);
    absl::StatusOr<uint64_t> received = Fetch(sha256, bytes.size());
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(ReadFile("blob"), bytes);
  }
}

TEST_F(GrpcFederationLinkTest, ABlobWithAnotherDigestIsNotKept) {
  Connect();
  const std::string sha256(32, 'd');
  backend_.AddCorruptBlob(sha256, "something else");
  EXPECT_EQ(Fetch(sha256, 14).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(std::filesystem::exists(Path("blob")));
  EXPECT_FALSE(std::filesystem::exists(Path("blob.part")));
  EXPECT_EQ(Fetch(sha256, 20).status().code(), absl::StatusCode::kDataLoss);  // shorter than announced
  EXPECT_FALSE(Fetch(sha256, 5).ok());                                        // longer
  EXPECT_EQ(Fetch(std::string(32, 'e'), 5).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GrpcFederationLinkTest, WorksOverTheInProcessChannel) {
  auto listener = service::Listener::Start({}, backend_, runtime_.get());
  ASSERT_TRUE(listener.ok());
  LinkOptions options;
  options.channel = (*listener)->InProcessChannel();
  options.site = "gamma";
  link_ = *GrpcFederationLink::Create(options, runtime_.get());
  backend_.set_answer(AssignmentAnswer());
  EXPECT_TRUE(CheckIn(*link_).ok());
  const std::string bytes = Pattern(2500000);
  EXPECT_TRUE(Submit(bytes).ok());
  EXPECT_EQ(backend_.upload(kAssignment).bytes, bytes);
  const std::string sha256 = backend_.AddBlob(bytes);
  EXPECT_TRUE(Fetch(sha256, bytes.size()).ok());
  EXPECT_EQ(ReadFile("blob"), bytes);
  EXPECT_THAT(backend_.calls(), Contains("OpenUpload:gamma"));
  options.channel.reset();
  link_.reset();
}

TEST_F(GrpcFederationLinkTest, SpeedOf64MiB) {
  ASSERT_TRUE(testing::MakeCertificates(Path("certs"), "alpha"));
  const std::string tensors = Pattern(size_t{64} << 20);
  const Update update = MakeUpdate(tensors);
  for (const bool tls : {false, true}) {
    listener_.reset();
    Listen(tls ? testing::TlsOf(Path("certs"), "server") : config::TlsOptions{});
    const auto link = MakeLink(tls ? testing::TlsOf(Path("certs"), "alpha") : config::TlsOptions{});
    const std::string assignment(16, tls ? 't' : 'p');
    const absl::Duration begin = runtime_.get().clock.Monotonic();
    Waiter<Receipt> waiter;
    link->Submit(assignment, update, waiter.callback());
    ASSERT_TRUE(waiter.Get().ok()) << waiter.Get().status();
    const double seconds = absl::ToDoubleSeconds(runtime_.get().clock.Monotonic() - begin);
    std::printf("64 MiB up %s: %.3f s, %.0f MiB/s (into memory, SHA-256 included)\n", tls ? "with TLS" : "plain",
                seconds, 64 / seconds);
  }
}

}  // namespace
}  // namespace strata::link

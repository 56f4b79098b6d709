#include "client/link/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace strata::link {
namespace {

using ::testing::HasSubstr;

v1::CheckInResponse Valid() {
  v1::CheckInResponse response;
  v1::Assignment* assignment = response.mutable_assignment();
  assignment->set_id(std::string(16, 'a'));
  assignment->set_job("job-1");
  assignment->set_site("alpha");
  assignment->set_round(2);
  assignment->set_task(v1::TRAIN);
  assignment->set_version(1);
  assignment->set_progress_interval_ms(10000);
  assignment->mutable_base()->set_weights(std::string(32, 'w'));
  assignment->mutable_base()->set_semantics(std::string(32, 's'));
  v1::BlobRef* blob = assignment->add_blobs();
  blob->set_sha256(std::string(32, 'b'));
  blob->set_size(10);
  v1::Target* target = assignment->add_targets();
  target->set_module("q_proj");
  target->set_out(4);
  target->set_in(8);
  target->set_rank(2);
  target->set_alpha(4);
  target->set_scaling(2);
  return response;
}

TEST(ConvertTest, AValidAssignment) {
  absl::StatusOr<CheckInAnswer> answer = FromProto(Valid());
  ASSERT_TRUE(answer.ok()) << answer.status();
  const Assignment& assignment = std::get<Assignment>(*answer);
  EXPECT_EQ(assignment.round, 2);
  EXPECT_EQ(assignment.progress_interval, absl::Seconds(10));
  ASSERT_EQ(assignment.targets.size(), 1);
  EXPECT_EQ(assignment.targets[0].in, 8);
  EXPECT_EQ(assignment.blobs[0].size, 10);
}

TEST(ConvertTest, EachFaultIsRefusedWithItsName) {
  using Break = std::function<void(v1::Assignment&)>;
  const std::vector<std::pair<Break, std::string>> faults = {
      {[](v1::Assignment& a) { a.set_id("short"); }, "`id`"},
      {[](v1::Assignment& a) { a.set_task(v1::TASK_UNSPECIFIED); }, "task"},
      {[](v1::Assignment& a) { a.set_task(static_cast<v1::Task>(9)); }, "task 9"},
      {[](v1::Assignment& a) { a.clear_job(); }, "job"},
      {[](v1::Assignment& a) { a.set_round(0); }, "rounds count from 1"},
      {[](v1::Assignment& a) { a.set_holdout(1); }, "holdout"},
      {[](v1::Assignment& a) { a.set_holdout(NAN); }, "holdout"},
      {[](v1::Assignment& a) { a.set_progress_interval_ms(0); }, "progress_interval_ms"},
      {[](v1::Assignment& a) { a.mutable_blobs(0)->set_sha256("x"); }, "sha256"},
      {[](v1::Assignment& a) { a.mutable_blobs(0)->set_size(0); }, "blob"},
      {[](v1::Assignment& a) { a.clear_blobs(); }, "without blobs"},
      {[](v1::Assignment& a) { a.clear_targets(); }, "targets"},
      {[](v1::Assignment& a) { *a.add_targets() = a.targets(0); }, "twice"},
      {[](v1::Assignment& a) { a.mutable_targets(0)->set_rank(0); }, "rank 0"},
      {[](v1::Assignment& a) { a.mutable_targets(0)->set_rank(1 << 20); }, "rank"},
      {[](v1::Assignment& a) { a.mutable_targets(0)->set_out(0); }, "shape"},
      {[](v1::Assignment& a) { a.mutable_targets(0)->set_in(1U << 31); }, "shape"},
      {[](v1::Assignment& a) { a.mutable_targets(0)->set_scaling(INFINITY); }, "scaling"},
      {[](v1::Assignment& a) { a.mutable_base()->set_weights("x"); }, "weights"},
      {[](v1::Assignment& a) { a.mutable_training()->set_dtype("int3"); }, "training"},
  };
  for (const auto& [fault, name] : faults) {
    v1::CheckInResponse response = Valid();
    fault(*response.mutable_assignment());
    absl::StatusOr<CheckInAnswer> answer = FromProto(response);
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kInternal) << name;
    EXPECT_THAT(std::string(answer.status().message()), HasSubstr(name));
  }
  EXPECT_EQ(FromProto(v1::CheckInResponse()).status().code(), absl::StatusCode::kInternal);
}

TEST(ConvertTest, ComeBackAndNotEligible) {
  v1::CheckInResponse response;
  response.mutable_come_back()->set_after_ms(UINT64_MAX);
  response.mutable_come_back()->set_no_open_job(true);
  ComeBack later = std::get<ComeBack>(*FromProto(response));
  EXPECT_EQ(later.after, absl::Hours(24));  // no server can send a site away for ever
  EXPECT_TRUE(later.no_open_job);
  auto* reason = response.mutable_not_eligible()->add_reasons();
  reason->set_job("j");
  reason->set_what("base model");
  reason->set_expected("abc");
  reason->set_found("def");
  later = std::get<ComeBack>(*FromProto(response));
  EXPECT_TRUE(later.not_eligible);
  EXPECT_EQ(later.reason, "not eligible: job j expects base model abc, found def");
}

TEST(ConvertTest, ReceiptsAndProgress) {
  v1::Receipt receipt;
  receipt.set_assignment("a");
  receipt.set_accepted(true);
  EXPECT_TRUE(FromProto(receipt, "a").ok());
  EXPECT_EQ(FromProto(receipt, "b").status().code(), absl::StatusCode::kInternal);
  receipt.set_accepted(false);
  EXPECT_EQ(FromProto(receipt, "a").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(FromProto(v1::ProgressResponse()).ok());
  EXPECT_EQ(ToProto(Progress{.assignment = "a", .phase = 77, .training = {}}).phase(), v1::PHASE_UNSPECIFIED);
}

}  // namespace
}  // namespace strata::link

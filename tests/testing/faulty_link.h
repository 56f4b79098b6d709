// A link on which things go wrong, as a seed decides.
#ifndef STRATA_TESTS_TESTING_FAULTY_LINK_H_
#define STRATA_TESTS_TESTING_FAULTY_LINK_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/link/federation_link.h"
#include "common/runtime/random.h"
#include "common/runtime/runtime.h"

namespace strata::testing {

// Probabilities, each drawn anew for every call; at most one of them happens to a call.
struct LinkFaults {
  double unavailable = 0;   // answered at once
  double lose_request = 0;  // the server never sees it: DEADLINE_EXCEEDED after `timeout`
  double lose_answer = 0;   // the server has done it, the caller hears DEADLINE_EXCEEDED
  double duplicate = 0;     // sent twice, the second answer counts
  double corrupt = 0;       // a byte of a submitted update or of a fetched blob is changed on the way
  absl::Duration timeout = absl::Seconds(30);
  absl::Duration max_delay;  // of an answer, uniform
};

// Not thread-safe: for one simulated executor. After a simulated crash of the server (`set_target(nullptr)`) it answers
// UNAVAILABLE itself. An answer that comes after the caller went away (`Shutdown`) is dropped.
class FaultyLink : public link::FederationLink {
 public:
  // Borrowed. `runtime`'s executor carries the answers; its files are those that fetched blobs lie in.
  FaultyLink(runtime::Runtime runtime, uint64_t seed, const LinkFaults& faults);
  ~FaultyLink() override;

  void set_target(link::FederationLink* target) { target_ = target; }
  void set_faults(const LinkFaults& faults) { faults_ = faults; }
  const std::map<std::string, int>& counts() const { return counts_; }  // of faults by name

  void CheckIn(const struct link::CheckIn& request, link::Callback<link::CheckInAnswer> done) override;
  void Fetch(const link::BlobRef& blob, const std::string& path, link::Callback<uint64_t> done) override;
  void Submit(const std::string& assignment, link::Update update, link::Callback<link::Receipt> done) override;
  void SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                        link::Callback<link::Receipt> done) override;
  void Report(const link::Progress& progress, link::Callback<link::ProgressAnswer> done) override;
  void Release(const std::string& assignment, const std::string& reason, link::Callback<bool> done) override;
  // Ends what is under way with CANCELLED answers that nobody hears; the target is left alone.
  void Shutdown() override { *alive_ = false; }

 private:
  enum class Fate { kPass, kUnavailable, kLoseRequest, kLoseAnswer, kDuplicate, kCorrupt };
  Fate DrawFate(bool corruptible);
  double Draw() { return draws_.Uniform(drawn_++); }

  template <typename T>
  void Answer(absl::Duration delay, absl::StatusOr<T> value, link::Callback<T> done);
  // `send(done)` makes the call on the target.
  template <typename T, typename Send>
  void Carry(Fate fate, Send send, link::Callback<T> done);

  runtime::Runtime runtime_;
  runtime::Philox draws_;
  uint64_t drawn_ = 0;
  LinkFaults faults_;
  link::FederationLink* target_ = nullptr;
  std::map<std::string, int> counts_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace strata::testing

#endif  // STRATA_TESTS_TESTING_FAULTY_LINK_H_

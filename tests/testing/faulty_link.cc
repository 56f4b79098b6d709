#include "tests/testing/faulty_link.h"

#include <algorithm>
#include <utility>

namespace strata::testing {
namespace {

// Bytes with one of them changed.
class ChangedMapping : public runtime::Mapping {
 public:
  ChangedMapping(std::span<const std::byte> bytes, size_t position) : bytes_(bytes.begin(), bytes.end()) {
    if (!bytes_.empty()) bytes_[position % bytes_.size()] ^= std::byte{0x10};
  }
  std::span<const std::byte> bytes() const override { return bytes_; }
  void Release(size_t, size_t) const override {}

 private:
  std::vector<std::byte> bytes_;
};

void ChangeFile(runtime::FileSystem& files, const std::string& path, double where) {
  auto file = files.Open(path, runtime::OpenMode::kReadWrite);
  if (!file.ok()) return;
  const auto size = (*file)->Size();
  if (!size.ok() || *size == 0) return;
  const auto position = static_cast<uint64_t>(where * static_cast<double>(*size));
  std::byte value{};
  if (!(*file)->ReadAt(position, std::span(&value, 1)).ok()) return;
  value ^= std::byte{0x10};
  (*file)->WriteAt(position, std::span<const std::byte>(&value, 1)).IgnoreError();
}

}  // namespace

FaultyLink::FaultyLink(runtime::Runtime runtime, uint64_t seed, const LinkFaults& faults)
    : runtime_(runtime), draws_(seed), faults_(faults) {}

FaultyLink::~FaultyLink() { *alive_ = false; }

FaultyLink::Fate FaultyLink::DrawFate(bool corruptible) {
  double draw = Draw();
  const auto falls = [&](double probability, const char* name) {
    draw -= probability;
    if (draw >= 0 || probability <= 0) return false;
    ++counts_[name];
    return true;
  };
  if (target_ == nullptr || falls(faults_.unavailable, "unavailable")) return Fate::kUnavailable;
  if (falls(faults_.lose_request, "lose_request")) return Fate::kLoseRequest;
  if (falls(faults_.lose_answer, "lose_answer")) return Fate::kLoseAnswer;
  if (falls(faults_.duplicate, "duplicate")) return Fate::kDuplicate;
  if (corruptible && falls(faults_.corrupt, "corrupt")) return Fate::kCorrupt;
  return Fate::kPass;
}

template <typename T>
void FaultyLink::Answer(absl::Duration delay, absl::StatusOr<T> value, link::Callback<T> done) {
  runtime_.executor.RunAfter(delay, [alive = alive_, value = std::move(value), done = std::move(done)]() mutable {
    if (*alive) std::move(done)(std::move(value));
  });
}

template <typename T, typename Send>
void FaultyLink::Carry(Fate fate, Send send, link::Callback<T> done) {
  const absl::Duration delay = faults_.max_delay * Draw();
  if (fate == Fate::kUnavailable) {
    return Answer<T>(delay, absl::UnavailableError("the server is away (simulated)"), std::move(done));
  }
  const absl::Status lost = absl::DeadlineExceededError("no answer (simulated)");
  if (fate == Fate::kLoseRequest) return Answer<T>(faults_.timeout, lost, std::move(done));
  auto last = [this, alive = alive_, fate, delay, lost, done = std::move(done)](absl::StatusOr<T> value) mutable {
    if (!*alive) return;
    if (fate == Fate::kLoseAnswer) return Answer<T>(faults_.timeout, lost, std::move(done));
    Answer<T>(delay, std::move(value), std::move(done));
  };
  if (fate == Fate::kDuplicate) {
    return send([this, alive = alive_, send, last = std::move(last)](absl::StatusOr<T> first) mutable {
      if (!*alive) return;
      if (target_ == nullptr) return std::move(last)(std::move(first));
      send(std::move(last));
    });
  }
  send(std::move(last));
}

void FaultyLink::CheckIn(const struct link::CheckIn& request, link::Callback<link::CheckInAnswer> done) {
  Carry<link::CheckInAnswer>(
      DrawFate(false),
      [this, request](link::Callback<link::CheckInAnswer> next) { target_->CheckIn(request, std::move(next)); },
      std::move(done));
}

void FaultyLink::Fetch(const link::BlobRef& blob, const std::string& path, link::Callback<uint64_t> done) {
  const Fate fate = DrawFate(true);
  const double where = Draw();
  Carry<uint64_t>(
      fate,
      [this, blob, path, fate, where](link::Callback<uint64_t> next) {
        target_->Fetch(
            blob, path,
            [this, alive = alive_, path, fate, where, next = std::move(next)](absl::StatusOr<uint64_t> bytes) mutable {
              if (*alive && fate == Fate::kCorrupt && bytes.ok()) ChangeFile(runtime_.files, path, where);
              std::move(next)(std::move(bytes));
            });
      },
      std::move(done));
}

void FaultyLink::Submit(const std::string& assignment, link::Update update, link::Callback<link::Receipt> done) {
  const Fate fate = DrawFate(true);
  if (fate == Fate::kCorrupt) {
    const auto bytes = update.tensors->bytes();
    const auto position = static_cast<size_t>(Draw() * static_cast<double>(bytes.size()));
    update.tensors = std::make_shared<ChangedMapping>(bytes, position);
  }
  Carry<link::Receipt>(
      fate,
      [this, assignment, update](link::Callback<link::Receipt> next) {
        target_->Submit(assignment, update, std::move(next));
      },
      std::move(done));
}

void FaultyLink::SubmitEvaluation(const std::string& assignment, const std::vector<adapter::Metric>& metrics,
                                  link::Callback<link::Receipt> done) {
  Carry<link::Receipt>(
      DrawFate(false),
      [this, assignment, metrics](link::Callback<link::Receipt> next) {
        target_->SubmitEvaluation(assignment, metrics, std::move(next));
      },
      std::move(done));
}

void FaultyLink::Report(const link::Progress& progress, link::Callback<link::ProgressAnswer> done) {
  Carry<link::ProgressAnswer>(
      DrawFate(false),
      [this, progress](link::Callback<link::ProgressAnswer> next) { target_->Report(progress, std::move(next)); },
      std::move(done));
}

void FaultyLink::Release(const std::string& assignment, const std::string& reason, link::Callback<bool> done) {
  Carry<bool>(
      DrawFate(false),
      [this, assignment, reason](link::Callback<bool> next) { target_->Release(assignment, reason, std::move(next)); },
      std::move(done));
}

}  // namespace strata::testing

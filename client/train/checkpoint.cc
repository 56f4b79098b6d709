#include "client/train/checkpoint.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "common/secure/digest.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::train {
namespace {

using runtime::JoinPath;
using Metadata = std::map<std::string, std::string>;

constexpr std::string_view kFinished = "finished";
constexpr std::string_view kStep = "step-";
constexpr std::string_view kSuffix = ".safetensors";
constexpr char kWriting[] = "writing";
constexpr std::string_view kPosition = "position.";
constexpr std::string_view kInput = "input.";
constexpr size_t kKept = 2;
constexpr size_t kShownDigits = 40;  // a digest is longer

// F(name, field) for every field of a position.
template <typename Position, typename F>
void ForEachField(Position& position, const F& f) {
  f("steps", position.steps);
  f("updates", position.updates);
  f("rate_scale", position.rate_scale);
  f("first_loss", position.first_loss);
  f("last_loss", position.last_loss);
  f("tokens", position.tokens);
  f("seconds", position.seconds);
}

// Those that most runs have no use for: not there where they are as at first.
template <typename Position, typename F>
void ForEachSpareField(Position& position, const F& f) {
  f("loss_scale", position.loss_scale, RunPosition().loss_scale);
  f("scaled_steps", position.scaled_steps, RunPosition().scaled_steps);
}

std::string Print(uint64_t value) { return Cat(value); }
std::string Print(double value) { return absl::StrFormat("%.17g", value); }
bool Read(const std::string& text, uint64_t& value) { return absl::SimpleAtoi(text, &value); }
bool Read(const std::string& text, double& value) { return absl::SimpleAtod(text, &value); }

// LABEL-DIGEST.safetensors; both empty for a name of another form.
struct FileName {
  std::string label, digest;
};
FileName ParseName(std::string_view name) {
  if (!name.ends_with(kSuffix)) return {};
  name.remove_suffix(kSuffix.size());
  const size_t dash = name.rfind('-');
  if (dash == std::string_view::npos) return {};
  FileName parsed{.label = std::string(name.substr(0, dash)),
                  .digest = secure::FromHex(std::string(name.substr(dash + 1)))};
  const bool known = parsed.label == kFinished || parsed.label.starts_with(kStep);
  return known && !parsed.digest.empty() ? parsed : FileName{};
}

std::optional<SavedRun> ReadRun(runtime::FileSystem& files, const std::string& path, const FileName& name) {
  auto mapping = files.Map(path);
  if (!mapping.ok() || secure::Sha256((*mapping)->bytes()) != name.digest) return std::nullopt;
  auto tensors = format::Safetensors::Parse((*mapping)->bytes(), path);
  if (!tensors.ok()) return std::nullopt;
  SavedRun run;
  bool whole = true;
  const Metadata& metadata = tensors->metadata();
  ForEachField(run.position, [&](std::string_view field, auto& value) {
    const auto found = metadata.find(Cat(kPosition, field));
    whole = whole && found != metadata.end() && Read(found->second, value);
  });
  ForEachSpareField(run.position, [&](std::string_view field, auto& value, auto /*first*/) {
    const auto found = metadata.find(Cat(kPosition, field));
    whole = whole && (found == metadata.end() || Read(found->second, value));
  });
  if (!whole) return std::nullopt;
  for (const auto& [key, value] : metadata) {
    if (key.starts_with(kInput)) run.inputs[key.substr(kInput.size())] = value;
  }
  run.finished = name.label == kFinished;
  run.tensors = *std::move(tensors);
  run.mapping = *std::move(mapping);
  return run;
}

}  // namespace

CheckpointStore::CheckpointStore(runtime::FileSystem& files, const runtime::Clock& clock, Options options,
                                 RunInputs inputs)
    : files_(files),
      clock_(clock),
      options_(std::move(options)),
      inputs_(std::move(inputs)),
      last_(clock.Monotonic()) {}

absl::StatusOr<FoundRun> CheckpointStore::Latest() {
  FoundRun found;
  auto names = files_.List(options_.directory);
  if (absl::IsNotFound(names.status())) return found;
  STRATA_RETURN_IF_ERROR(names.status());
  // "finished" sorts before "step-", and of two steps the later one counts.
  std::sort(names->begin(), names->end(), [](const std::string& a, const std::string& b) {
    const bool finished_a = a.starts_with(kFinished);
    return finished_a != b.starts_with(kFinished) ? finished_a : a > b;
  });
  for (const std::string& name : *names) {
    const FileName parsed = ParseName(name);
    if (parsed.label.empty()) continue;
    const std::string path = JoinPath(options_.directory, name);
    found.run = ReadRun(files_, path, parsed);
    if (found.run.has_value()) return found;
    found.damaged.push_back(path);
    STRATA_RETURN_IF_ERROR(files_.Remove(path));
  }
  return found;
}

bool CheckpointStore::Due(uint64_t steps) const {
  if (options_.every_steps == 0) return false;
  return steps % options_.every_steps == 0 || clock_.Monotonic() - last_ >= options_.every;
}

absl::StatusOr<std::string> CheckpointStore::Write(const std::string& label, const RunPosition& position,
                                                   std::vector<format::TensorView> tensors) {
  Metadata metadata;
  ForEachField(position,
               [&](std::string_view field, const auto& value) { metadata[Cat(kPosition, field)] = Print(value); });
  ForEachSpareField(position, [&](std::string_view field, const auto& value, const auto& first) {
    if (value != first) metadata[Cat(kPosition, field)] = Print(value);
  });
  for (const auto& [name, value] : inputs_) metadata[Cat(kInput, name)] = value;
  const std::string header = format::SafetensorsPreamble(tensors, metadata);
  std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(header))};
  for (const format::TensorView& tensor : tensors) pieces.push_back(tensor.data);

  STRATA_RETURN_IF_ERROR(files_.MakeDirectories(options_.directory));
  STRATA_RETURN_IF_ERROR(files_.SyncDirectory(runtime::DirName(options_.directory)));
  const std::string writing = JoinPath(options_.directory, kWriting);
  secure::Sha256Stream digest;
  uint64_t offset = 0;
  {
    STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<runtime::File> file,
                            files_.Open(writing, runtime::OpenMode::kCreate));
    STRATA_RETURN_IF_ERROR(file->Truncate(0));
    for (const std::span<const std::byte> piece : pieces) {
      digest.Update(piece);
      STRATA_RETURN_IF_ERROR(file->WriteAt(offset, piece));
      offset += piece.size();
    }
    STRATA_RETURN_IF_ERROR(file->Sync());
  }
  std::string name = Cat(label, "-", secure::ToHex(digest.Finish()), kSuffix);
  STRATA_RETURN_IF_ERROR(files_.Rename(writing, JoinPath(options_.directory, name)));
  STRATA_RETURN_IF_ERROR(files_.SyncDirectory(options_.directory));
  return name;
}

absl::Status CheckpointStore::Save(const RunPosition& position, std::vector<format::TensorView> tensors) {
  // Also after a failure: the next try may cost as much.
  last_ = clock_.Monotonic();
  const auto written = Write(Cat(kStep, absl::StrFormat("%010u", position.steps)), position, std::move(tensors));
  if (!written.ok()) {
    files_.Remove(JoinPath(options_.directory, kWriting)).IgnoreError();
    return written.status();
  }
  return KeepOnly(kKept, "");
}

absl::Status CheckpointStore::Finish(const RunPosition& position) {
  STRATA_ASSIGN_OR_RETURN(const std::string written, Write(std::string(kFinished), position, {}));
  return KeepOnly(0, written);
}

// Removes all but the `count` latest checkpoints and the file `name`.
absl::Status CheckpointStore::KeepOnly(size_t count, const std::string& name) {
  STRATA_ASSIGN_OR_RETURN(std::vector<std::string> names, files_.List(options_.directory));
  std::reverse(names.begin(), names.end());
  for (const std::string& found : names) {
    if (found == name || ParseName(found).label.empty()) continue;
    if (found.starts_with(kStep) && count > 0) {
      --count;
      continue;
    }
    STRATA_RETURN_IF_ERROR(files_.Remove(JoinPath(options_.directory, found)));
  }
  return files_.SyncDirectory(options_.directory);
}

absl::Status CheckpointStore::Clear() { return files_.RemoveAll(options_.directory); }

std::vector<std::string> Differences(const RunInputs& then, const RunInputs& now) {
  std::vector<std::string> texts;
  const auto value_of = [](const RunInputs& inputs, const std::string& name) {
    const auto found = inputs.find(name);
    if (found == inputs.end()) return std::string("not given");
    return found->second.size() > kShownDigits ? found->second.substr(0, kShownDigits) + ".." : found->second;
  };
  RunInputs all = then;
  all.insert(now.begin(), now.end());
  for (const auto& [name, unused] : all) {
    const std::string before = value_of(then, name);
    const std::string after = value_of(now, name);
    if (before != after) texts.push_back(Cat(name, " was ", before, " and is ", after));
  }
  return texts;
}

}  // namespace strata::train

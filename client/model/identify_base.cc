#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "client/data/tokenizer.h"
#include "client/model/model_files.h"
#include "common/format/gguf.h"
#include "common/secure/digest.h"
#include "common/status/cat.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

using runtime::JoinPath;

constexpr char kCacheHeader[] = "strata weights digest 1";

void AppendCount(std::string& out, uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) out += static_cast<char>((value >> shift) & 0xff);
}

void AppendPiece(std::string& out, std::string_view piece) {
  AppendCount(out, piece.size());
  out += piece;
}

std::string WeightsDigest(const ModelFiles& model) {
  std::vector<const ModelTensor*> sorted;
  for (const ModelTensor& tensor : model.tensors()) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(), [](const ModelTensor* a, const ModelTensor* b) { return a->name < b->name; });
  std::string record;
  for (const ModelTensor* tensor : sorted) {
    AppendPiece(record, tensor->name);
    AppendPiece(record, tensor->stored_dtype);
    AppendCount(record, tensor->shape.size());
    for (const int64_t extent : tensor->shape) AppendCount(record, static_cast<uint64_t>(extent));
    record += secure::Sha256(model.StoredBytes(tensor->name));
    model.ReleasePages(tensor->name);
  }
  return secure::Sha256(record);
}

// Changes whenever a file was replaced or written to.
absl::StatusOr<std::string> Fingerprint(runtime::FileSystem& files, const ModelFiles& model) {
  std::string text;
  for (const std::string& path : model.weight_files()) {
    STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(path));
    text += Cat(info.device, " ", info.inode, " ", info.size_bytes, " ", absl::ToUnixNanos(info.modified), "\n");
  }
  return secure::ToHex(secure::Sha256(text));
}

// Empty: not in the cache.
std::string CachedDigest(runtime::FileSystem& files, const std::string& path, const std::string& fingerprint) {
  const auto content = files.ReadFile(path);
  if (!content.ok()) return "";
  const std::vector<std::string> lines = absl::StrSplit(*content, '\n');
  if (lines.size() < 3 || lines[0] != kCacheHeader || lines[1] != fingerprint) return "";
  std::string digest = secure::FromHex(lines[2]);
  return digest.size() == 32 ? digest : "";
}

absl::StatusOr<std::string> CachedWeightsDigest(runtime::FileSystem& files, const ModelFiles& model,
                                                const std::string& cache_directory) {
  if (cache_directory.empty()) return WeightsDigest(model);
  STRATA_ASSIGN_OR_RETURN(const std::string fingerprint, Fingerprint(files, model));
  const std::string path = JoinPath(cache_directory, Cat("weights-", fingerprint.substr(0, 16), ".digest"));
  if (std::string digest = CachedDigest(files, path, fingerprint); !digest.empty()) return digest;
  std::string digest = WeightsDigest(model);
  // A cache that cannot be written only costs time.
  absl::Status kept = files.MakeDirectories(cache_directory);
  if (kept.ok()) kept = files.WriteFile(path, Cat(kCacheHeader, "\n", fingerprint, "\n", secure::ToHex(digest), "\n"));
  kept.IgnoreError();
  return digest;
}

absl::StatusOr<bool> HasTokenizer(runtime::FileSystem& files, const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const runtime::FileInfo info, files.Stat(path));
  if (info.is_directory) return files.Exists(JoinPath(path, "tokenizer.json"));
  STRATA_ASSIGN_OR_RETURN(const format::Gguf gguf, format::Gguf::Open(files, path));
  return gguf.metadata().contains("tokenizer.ggml.model");
}

absl::StatusOr<std::string> SemanticsDigest(runtime::FileSystem& files, const ModelFiles& model) {
  std::string record;
  AppendPiece(record, model.config().Canonical());
  STRATA_ASSIGN_OR_RETURN(const bool has_tokenizer, HasTokenizer(files, model.path()));
  if (has_tokenizer) {
    STRATA_ASSIGN_OR_RETURN(const auto tokenizer, data::OpenTokenizer(files, model.path()));
    AppendPiece(record, tokenizer->Canonical());
  }
  return secure::Sha256(record);
}

// The stored dtype of most elements.
std::string StoredEncoding(const ModelFiles& model) {
  std::map<std::string, int64_t> elements;
  for (const ModelTensor& tensor : model.tensors()) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    elements[tensor.stored_dtype] += count;
  }
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == elements.end() ? "" : most->first;
}

}  // namespace

absl::StatusOr<adapter::BaseIdentity> IdentifyBase(runtime::FileSystem& files, const ModelFiles& model,
                                                   const std::string& cache_directory) {
  adapter::BaseIdentity identity;
  STRATA_ASSIGN_OR_RETURN(identity.weights, CachedWeightsDigest(files, model, cache_directory));
  STRATA_ASSIGN_OR_RETURN(identity.semantics, SemanticsDigest(files, model));
  identity.encoding = StoredEncoding(model);
  return identity;
}

}  // namespace strata::model

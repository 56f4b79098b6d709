// GGUF versions 2 and 3: metadata, tensor table, tensor encodings. Reader hardened against hostile files.
#ifndef STRATA_COMMON_FORMAT_GGUF_H_
#define STRATA_COMMON_FORMAT_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/runtime/file_system.h"

namespace strata::format {

// The encodings that we read. The numbers are GGUF's own; others are refused by name when decoded, not when listed.
// NOLINTBEGIN(readability-identifier-naming): the encodings are called Q4_0, ..
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kF64 = 28,
  kBF16 = 30
};
// NOLINTEND(readability-identifier-naming)

struct GgufArray;
// Integers of every width are widened; arrays are homogeneous.
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::shared_ptr<const GgufArray>>;
struct GgufArray {
  std::variant<std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>, std::vector<bool>,
               std::vector<std::string>, std::vector<GgufValue>>
      values;
};

struct GgufTensor {
  std::string name;
  uint32_t type = 0;           // a GgufType, or one that we do not read
  std::vector<int64_t> shape;  // as in PyTorch: outermost first (GGUF stores the reverse)
  std::span<const std::byte> data;
  int64_t num_elements() const;
};

class Gguf {
 public:
  static absl::StatusOr<Gguf> Parse(std::span<const std::byte> bytes, std::string_view place);
  static absl::StatusOr<Gguf> Open(runtime::FileSystem& files, const std::string& path);

  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  // The value as the file has it, its type first: what a writer copies. Empty: no such key.
  std::span<const std::byte> EncodedValue(std::string_view key) const;
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in file order
  const GgufTensor* Find(std::string_view name) const;
  const std::shared_ptr<const runtime::Mapping>& mapping() const { return mapping_; }

  // Typed look-ups. NOT_FOUND: no such key. INVALID_ARGUMENT: another type, naming it.
  absl::StatusOr<uint64_t> GetUint(std::string_view key) const;
  absl::StatusOr<double> GetFloat(std::string_view key) const;
  absl::StatusOr<std::string> GetString(std::string_view key) const;
  absl::StatusOr<bool> GetBool(std::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStrings(std::string_view key) const;
  absl::StatusOr<std::vector<double>> GetNumbers(std::string_view key) const;  // array of any integer or float type

 private:
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, std::span<const std::byte>, std::less<>> encoded_;
  std::vector<GgufTensor> tensors_;
  std::shared_ptr<const runtime::Mapping> mapping_;
};

// "Q4_1", or "type 99" for a number that we do not know.
std::string GgufTypeName(uint32_t type);
// Whether DecodeGgufRows reads it.
bool CanDecodeGguf(uint32_t type);

// Decodes rows [first_row, first_row + out.size() / row length) of a tensor (a row = the innermost dimension) to float.
// UNIMPLEMENTED: an encoding that we do not read, by name. INVALID_ARGUMENT: range or row length that does not fit
// blocks.
absl::Status DecodeGgufRows(const GgufTensor& tensor, int64_t first_row, std::span<float> out);

}  // namespace strata::format

#endif  // STRATA_COMMON_FORMAT_GGUF_H_

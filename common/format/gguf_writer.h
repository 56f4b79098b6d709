// GGUF files (version 3) written: what stands before the tensors' data, and the data's encodings.
#ifndef STRATA_COMMON_FORMAT_GGUF_WRITER_H_
#define STRATA_COMMON_FORMAT_GGUF_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/gguf.h"

namespace strata::format {

struct GgufTensorSpec {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;  // outermost first
};

// Keys and values in the order in which they were first set; a key that is set again keeps its place. Integers are
// stored as uint32, arrays of them as int32, floats as float32: what readers of the known keys expect.
class GgufMetadata {
 public:
  void SetUint(std::string_view key, uint32_t value);
  void SetFloat(std::string_view key, float value);
  void SetBool(std::string_view key, bool value);
  void SetString(std::string_view key, std::string_view value);
  void SetStrings(std::string_view key, std::span<const std::string> values);
  void SetInts(std::string_view key, std::span<const int32_t> values);
  void SetFloats(std::string_view key, std::span<const float> values);
  // A value as another file has it (Gguf::EncodedValue), whatever its type.
  void SetEncoded(std::string_view key, std::span<const std::byte> encoded);
  bool Has(std::string_view key) const;

 private:
  friend absl::StatusOr<std::string> GgufPreamble(const GgufMetadata& metadata,
                                                  std::span<const GgufTensorSpec> tensors);
  std::string& Slot(std::string_view key);
  std::vector<std::pair<std::string, std::string>> entries_;  // the value with its type before it
};

// Where data is aligned to: each tensor's data is followed by zeros up to a multiple of it.
inline constexpr uint64_t kGgufAlignment = 32;

// Everything up to the first tensor's data. The data follow in the order of `tensors`. INVALID_ARGUMENT, naming the
// tensor: a name that is empty, longer than the 63 bytes that llama.cpp reads, or there twice; no or more than four
// dimensions; rows that do not fit the encoding's blocks. REQUIRES: general.alignment is not set.
absl::StatusOr<std::string> GgufPreamble(const GgufMetadata& metadata, std::span<const GgufTensorSpec> tensors);

// Bytes of that many elements. REQUIRES: whole blocks.
uint64_t GgufSizeBytes(GgufType type, uint64_t num_elements);
// Whether EncodeGguf writes rows of this length in this encoding.
bool CanEncodeGguf(GgufType type, int64_t row_elements);
// F32, F16, BF16 (round to nearest even), F64, Q8_0 (per 32 elements the scale max|x| / 127 as F16 and codes rounded
// half away from zero, as ggml's reference does). UNIMPLEMENTED: another encoding. REQUIRES: whole blocks, out.size() =
// GgufSizeBytes(type, values.size()).
absl::Status EncodeGguf(GgufType type, std::span<const float> values, std::span<std::byte> out);

}  // namespace strata::format

#endif  // STRATA_COMMON_FORMAT_GGUF_WRITER_H_

// safetensors: 8 bytes header length (little-endian), JSON header, data. Reader hardened against hostile files.
#ifndef STRATA_COMMON_FORMAT_SAFETENSORS_H_
#define STRATA_COMMON_FORMAT_SAFETENSORS_H_

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/format/tensor.h"
#include "common/runtime/file_system.h"

namespace strata::format {

// A parsed file. Views stay valid as long as the bytes given to Parse, or the SafetensorsFile made by Open.
// Const use is thread-safe.
class Safetensors {
 public:
  // `place` names the file in errors. INVALID_ARGUMENT: truncated, header no valid JSON, a tensor outside the data,
  // overlapping, with holes, with a shape that contradicts its size, a name twice.
  static absl::StatusOr<Safetensors> Parse(std::span<const std::byte> bytes, std::string_view place);
  // Maps the file and keeps the mapping.
  static absl::StatusOr<Safetensors> Open(runtime::FileSystem& files, const std::string& path);

  const std::vector<TensorView>& tensors() const { return tensors_; }  // sorted by name
  const TensorView* Find(std::string_view name) const;                 // null when absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::shared_ptr<const runtime::Mapping>& mapping() const { return mapping_; }  // null after Parse

 private:
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::shared_ptr<const runtime::Mapping> mapping_;
};

// The bytes of a file with these tensors: sorted by (dtype, name) as HF's writer does (I64, F64, F32, I32, BF16,
// F16, I16, I8, U8, BOOL), header padded with spaces to 8 bytes. Same tensors and metadata, same bytes.
// REQUIRES: each tensor's data is as long as its shape and dtype say.
std::string SerializeSafetensors(std::vector<TensorView> tensors, const std::map<std::string, std::string>& metadata);

// The same for data that are written one by one: what stands before them. Sorts `tensors` into the order in which their
// data follow; does not look at `data`.
std::string SafetensorsPreamble(std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata);

}  // namespace strata::format

#endif  // STRATA_COMMON_FORMAT_SAFETENSORS_H_

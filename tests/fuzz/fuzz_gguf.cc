// Any bytes as a GGUF file: metadata of every type, the tensor table, decoding of what is small.
#include <cstdint>
#include <vector>

#include "common/format/gguf.h"
#include "tests/fuzz/require.h"

using strata::format::Gguf;
using strata::format::GgufTensor;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = Gguf::Parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  if (!parsed.ok()) return 0;
  for (const auto& [key, value] : parsed->metadata()) {
    parsed->GetUint(key).status().IgnoreError();
    parsed->GetFloat(key).status().IgnoreError();
    parsed->GetString(key).status().IgnoreError();
    parsed->GetBool(key).status().IgnoreError();
    parsed->GetStrings(key).status().IgnoreError();
    parsed->GetNumbers(key).status().IgnoreError();
  }
  for (const GgufTensor& tensor : parsed->tensors()) {
    STRATA_REQUIRE(tensor.num_elements() >= 0);
    if (tensor.num_elements() > (1 << 16)) continue;
    std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
    const absl::Status decoded = strata::format::DecodeGgufRows(tensor, 0, values);
    STRATA_REQUIRE(decoded.ok() || !strata::format::CanDecodeGguf(tensor.type));
  }
  return 0;
}

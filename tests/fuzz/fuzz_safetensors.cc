// Any bytes as a safetensors file. What parses keeps its promises and survives being written and read again.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "common/format/safetensors.h"
#include "tests/fuzz/require.h"

using strata::format::Safetensors;
using strata::format::TensorView;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = Safetensors::Parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  if (!parsed.ok()) return 0;
  for (const TensorView& tensor : parsed->tensors()) {
    STRATA_REQUIRE(tensor.data.size() ==
                   static_cast<size_t>(tensor.num_elements()) * strata::format::DTypeSize(tensor.dtype));
    std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
    strata::format::ToDouble(tensor, values).IgnoreError();
    STRATA_REQUIRE(parsed->Find(tensor.name) == &tensor);
  }
  const std::string bytes = strata::format::SerializeSafetensors(parsed->tensors(), parsed->metadata());
  const auto again = Safetensors::Parse(std::as_bytes(std::span(bytes)), "written");
  STRATA_REQUIRE(again.ok());
  STRATA_REQUIRE(again->tensors().size() == parsed->tensors().size());
  STRATA_REQUIRE(strata::format::SerializeSafetensors(again->tensors(), again->metadata()) == bytes);
  return 0;
}

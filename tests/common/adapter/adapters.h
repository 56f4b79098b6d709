// Small adapters with reproducible content.
#ifndef STRATA_TESTS_COMMON_ADAPTER_ADAPTERS_H_
#define STRATA_TESTS_COMMON_ADAPTER_ADAPTERS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/adapter/adapter.h"

namespace strata::testing {

struct ModuleSpec {
  std::string name;
  int64_t rank = 1, out = 1, in = 1;
  double alpha = 1, scaling = 1;
};

inline std::vector<float> SomeFloats(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  uint32_t state = seed * 2654435761U + 1;
  for (float& value : values) {
    state = state * 1664525 + 1013904223;
    value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31F;
  }
  return values;
}

inline adapter::Adapter MakeAdapter(const std::vector<ModuleSpec>& specs, uint32_t seed = 1) {
  adapter::AdapterBuilder builder;
  for (const ModuleSpec& spec : specs) {
    std::vector<float> a = SomeFloats(static_cast<size_t>(spec.rank * spec.in), ++seed);
    std::vector<float> b = SomeFloats(static_cast<size_t>(spec.out * spec.rank), ++seed);
    builder.Add(spec.name, spec.rank, spec.out, spec.in, spec.alpha, spec.scaling, std::move(a), std::move(b));
  }
  return std::move(builder).Build();
}

}  // namespace strata::testing

#endif  // STRATA_TESTS_COMMON_ADAPTER_ADAPTERS_H_

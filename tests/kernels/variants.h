// A table of loops in every instruction set that this processor has.
#ifndef STRATA_TESTS_KERNELS_VARIANTS_H_
#define STRATA_TESTS_KERNELS_VARIANTS_H_

#include <string>
#include <vector>

namespace strata::kernels {

template <typename Ops>
struct Variant {
  std::string name;
  const Ops* table;
};

template <typename Ops>
std::vector<Variant<Ops>> VariantsOf(const Ops& baseline, const Ops& avx2, const Ops& avx512,
                                     const Ops* avx512_bf16 = nullptr) {
  std::vector<Variant<Ops>> all = {{"baseline", &baseline}};
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) all.push_back({"avx2", &avx2});
  if (__builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0)
    all.push_back({"avx512", &avx512});
  if (avx512_bf16 != nullptr && __builtin_cpu_supports("avx512bf16") != 0) all.push_back({"avx512_bf16", avx512_bf16});
  return all;
}

}  // namespace strata::kernels

#endif  // STRATA_TESTS_KERNELS_VARIANTS_H_

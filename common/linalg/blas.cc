// How OpenBLAS runs in this process: on one thread per caller, and with the kernels that the processor can run.
//
// OpenBLAS 0.3.21 chooses its kernels by the processor's model number and takes those of 2004 (SSE3) for models younger
// than itself: a third of the speed. Here it is told what the processor can do, before main and so before anybody
// computes.
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "common/linalg/linear_algebra.h"

namespace strata::linalg {

SingleThreadedBlas::SingleThreadedBlas() : previous_(omp_get_max_threads()) { omp_set_num_threads(1); }
SingleThreadedBlas::~SingleThreadedBlas() { omp_set_num_threads(previous_); }

std::string BlasKernels() { return openblas_get_corename(); }

}  // namespace strata::linalg

#if defined(__x86_64__)

extern "C" {
void gotoblas_dynamic_init();
void gotoblas_dynamic_quit();
}

namespace strata::linalg {
namespace {

constexpr const char* kVariable = "OPENBLAS_CORETYPE";

bool IsOld(std::string_view core) {
  constexpr std::array<std::string_view, 7> kOld = {"Unknown",    "Prescott", "Core2",  "Penryn",
                                                    "Dunnington", "Nehalem",  "Generic"};
  return std::find(kOld.begin(), kOld.end(), core) != kOld.end();
}

const char* BestCore() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")) {
    return "SkylakeX";
  }
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "Haswell" : nullptr;
}

__attribute__((constructor)) void ChooseKernels() {
  // NOLINTBEGIN(concurrency-mt-unsafe): there is one thread yet
  if (std::getenv(kVariable) != nullptr || !IsOld(openblas_get_corename())) return;
  const char* core = BestCore();
  if (core == nullptr) return;
  setenv(kVariable, core, 1);
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  unsetenv(kVariable);
  // NOLINTEND(concurrency-mt-unsafe)
}

}  // namespace
}  // namespace strata::linalg

#endif

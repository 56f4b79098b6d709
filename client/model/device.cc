#include "client/model/device.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/AllocatorConfig.h>
#include <dlfcn.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/model/torch_guard.h"
#include "common/runtime/process.h"

namespace strata::model {
namespace {

constexpr const char* kNeeded = "a driver for CUDA 13 (580 or newer) and a device of compute capability 7.5 or newer";

struct CudaFound {
  bool usable = false;
  bool maps_memory = false;  // manages virtual memory, which segments that grow need
  int count = 0;
  std::string found;  // what there is, or why there is none
};

// The driver's own answers, through libcuda.so.1: they are there even when LibTorch cannot start.
CudaFound AskDriver(int index) {
  CudaFound result;
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (driver == nullptr) {
    result.found = "no NVIDIA driver (libcuda.so.1 is not there)";
    return result;
  }
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto version = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  const auto attribute = reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  int supported = 0;
  int major = 0;
  int minor = 0;
  if (init == nullptr || version == nullptr || count == nullptr || attribute == nullptr || init(0) != 0 ||
      version(&supported) != 0 || count(&result.count) != 0) {
    result.found = "an NVIDIA driver that does not start";
    return result;
  }
  result.found = absl::StrCat("a driver for CUDA ", supported / 1000, ".", supported % 1000 / 10, " with ",
                              result.count, " device(s)");
  if (index >= result.count) return result;
  constexpr int kMajor = 75;
  constexpr int kMinor = 76;
  constexpr int kVirtualMemory = 102;
  attribute(&major, kMajor, index);
  attribute(&minor, kMinor, index);
  int maps = 0;
  result.maps_memory = attribute(&maps, kVirtualMemory, index) == 0 && maps != 0;
  absl::StrAppend(&result.found, ", device ", index, " of compute capability ", major, ".", minor);
  result.usable = supported >= 13000 && major * 10 + minor >= 75;
  return result;
}

// LibTorch's CUDA side registers itself when its library is loaded.
absl::Status LoadCudaLibrary() {
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): the text is its thread's own
    return absl::FailedPreconditionError(absl::StrCat("device cuda: libtorch_cuda.so cannot be loaded (",
                                                      reason == nullptr ? "no reason given" : reason,
                                                      "); run deploy/setup.sh --cuda, or set "
                                                      "LD_LIBRARY_PATH to LibTorch's and CUDA's libraries"));
  }
  return absl::OkStatus();
}

// Segments that grow are filled to the end: of a model that is larger than its max_memory LibTorch's own kept some 5 %
// empty. What the user told LibTorch stands.
void GrowSegments(bool grow) {
  for (const char* name : {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}) {
    if (!runtime::EnvironmentVariable(name).empty()) return;
  }
  c10::CachingAllocator::setAllocatorSettings(grow ? "expandable_segments:True" : "expandable_segments:False");
}

absl::StatusOr<at::Device> Cuda(int index) {
  const CudaFound found = AskDriver(index);
  if (!found.usable)
    return absl::FailedPreconditionError(
        absl::StrCat("device cuda:", index, " is not usable: needed ", kNeeded, "; found ", found.found));
  if (absl::Status status = LoadCudaLibrary(); !status.ok()) return status;
  return TorchGuard("starting CUDA", [&]() -> absl::StatusOr<at::Device> {
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
    const auto start = [&] { at::zeros({1}, at::TensorOptions().device(device)).add_(1).cpu(); };
    GrowSegments(found.maps_memory);
    try {
      start();
    } catch (const c10::Error&) {  // some drivers promise to map memory and do not
      GrowSegments(false);
      start();
    }
    return device;
  });
}

}  // namespace

bool HasCudaKernels() {
#ifdef STRATA_CUDA
  return true;
#else
  return false;
#endif
}

absl::StatusOr<at::Device> ResolveDevice(const std::string& device) {
  if (device.empty() || device == "cpu") return at::Device(at::kCPU);
  if (device == "auto") {
    absl::StatusOr<at::Device> cuda = Cuda(0);
    return cuda.ok() ? cuda : at::Device(at::kCPU);
  }
  absl::string_view rest = device;
  int index = 0;
  const bool cuda = absl::ConsumePrefix(&rest, "cuda") &&
                    (rest.empty() || (absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &index) && index >= 0));
  if (!cuda)
    return absl::InvalidArgumentError(absl::StrCat("device: expected auto, cpu or cuda:N, found `", device, "`"));
  return Cuda(index);
}

}  // namespace strata::model

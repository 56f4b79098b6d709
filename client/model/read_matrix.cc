#include "client/model/read_matrix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/status/status_macros.h"

namespace strata::model {
namespace {

constexpr int64_t kBlockElements = int64_t{1} << 18;

// The first failure of several threads.
class FirstError {
 public:
  void Update(const absl::Status& status) {
    if (status.ok()) return;
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = status;
  }
  absl::Status get() {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

// `work` for rows [first, first + count); first is a multiple of `multiple`.
absl::Status ForRowBlocks(int64_t rows, int64_t cols, int64_t multiple,
                          const std::function<absl::Status(int64_t first, int64_t count)>& work) {
  const int64_t fitting = std::max<int64_t>(kBlockElements / std::max<int64_t>(cols, 1), 1);
  const int64_t block = (fitting + multiple - 1) / multiple * multiple;
  FirstError error;
  at::parallel_for(0, (rows + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) error.Update(work(b * block, std::min(block, rows - b * block)));
  });
  return error.get();
}

absl::Status ReadBlock(const ModelFiles& files, const std::string& name, int64_t first, int64_t rows,
                       const at::Tensor& out) {
  const int64_t cols = out.size(1);
  const auto count = static_cast<size_t>(rows * cols);
  if (out.scalar_type() == at::kFloat)
    return files.ReadRows(name, first, {out.data_ptr<float>() + first * cols, count});
  std::vector<float> wide(count);
  STRATA_RETURN_IF_ERROR(files.ReadRows(name, first, wide));
  kernels::RoundToBf16(wide.data(), static_cast<uint16_t*>(out.data_ptr()) + first * cols, static_cast<int64_t>(count));
  return absl::OkStatus();
}

// `quantise` gets the matrix [rows, cols] in fp32, blocks of rows at a time as ForRowBlocks makes them.
absl::Status QuantiseBlocks(const ModelFiles& files, const ModelTensor& tensor, at::IntArrayRef shape, int64_t multiple,
                            const std::function<void(int64_t first, const std::vector<float>& values)>& quantise) {
  const int64_t cols = shape[1];
  at::Tensor turned;
  if (tensor.input_major) {
    turned = at::empty({cols, shape[0]}, at::kFloat);
    STRATA_RETURN_IF_ERROR(ReadMatrix(files, tensor, turned));
    turned = turned.t().contiguous();
  }
  STRATA_RETURN_IF_ERROR(ForRowBlocks(shape[0], cols, multiple, [&](int64_t first, int64_t count) -> absl::Status {
    std::vector<float> values(static_cast<size_t>(count * cols));
    if (turned.defined()) {
      std::copy_n(turned.const_data_ptr<float>() + first * cols, values.size(), values.begin());
    } else {
      STRATA_RETURN_IF_ERROR(files.ReadRows(tensor.name, first, values));
    }
    quantise(first, values);
    return absl::OkStatus();
  }));
  files.ReleasePages(tensor.name);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadMatrix(const ModelFiles& files, const ModelTensor& tensor, const at::Tensor& out) {
  const std::span<const std::byte> raw = files.RawBytes(tensor.name);
  const bool same = (tensor.stored_dtype == "BF16" && out.scalar_type() == at::kBFloat16) ||
                    (tensor.stored_dtype == "F32" && out.scalar_type() == at::kFloat);
  const size_t row_bytes = static_cast<size_t>(out.size(1)) * out.element_size();
  STRATA_RETURN_IF_ERROR(ForRowBlocks(out.size(0), out.size(1), 1, [&](int64_t first, int64_t count) -> absl::Status {
    if (!same || raw.empty()) return ReadBlock(files, tensor.name, first, count, out);
    const size_t begin = static_cast<size_t>(first) * row_bytes;
    std::memcpy(static_cast<std::byte*>(out.data_ptr()) + begin, raw.data() + begin,
                static_cast<size_t>(count) * row_bytes);
    return absl::OkStatus();
  }));
  files.ReleasePages(tensor.name);
  return absl::OkStatus();
}

absl::Status ReadInt8(const ModelFiles& files, const ModelTensor& tensor, const at::Tensor& out,
                      const at::Tensor& scales) {
  const int64_t cols = out.size(1);
  return QuantiseBlocks(files, tensor, out.sizes(), 1, [&](int64_t first, const std::vector<float>& values) {
    const int64_t count = static_cast<int64_t>(values.size()) / cols;
    for (int64_t r = 0; r < count; ++r) {
      scales.mutable_data_ptr<float>()[first + r] =
          kernels::QuantiseInt8(values.data() + r * cols, cols, out.mutable_data_ptr<int8_t>() + (first + r) * cols);
    }
  });
}

absl::StatusOr<kernels::Nf4> ReadNf4(const ModelFiles& files, const ModelTensor& tensor, int64_t rows, int64_t cols,
                                     std::byte* arrays) {
  const kernels::Nf4Sizes sizes = kernels::Nf4SizesOf(rows * cols);
  auto* scale_scales = reinterpret_cast<float*>(arrays);
  auto* codes = reinterpret_cast<uint8_t*>(scale_scales + sizes.scale_scales);
  uint8_t* scale_codes = codes + sizes.codes;
  std::vector<float> scales(static_cast<size_t>(sizes.scales));
  // A block of rows must begin with a block of values.
  const int64_t multiple = kernels::kNf4Block / std::gcd(cols, kernels::kNf4Block);
  STRATA_RETURN_IF_ERROR(
      QuantiseBlocks(files, tensor, {rows, cols}, multiple, [&](int64_t first, const std::vector<float>& values) {
        kernels::QuantiseNf4(values.data(), static_cast<int64_t>(values.size()), codes + first * cols / 2,
                             scales.data() + first * cols / kernels::kNf4Block);
      }));
  const float offset = kernels::QuantiseScales(scales.data(), sizes.scales, scale_codes, scale_scales);
  return kernels::Nf4{
      .rows = rows, .codes = codes, .scales = scale_codes, .scale_scales = scale_scales, .offset = offset};
}

}  // namespace strata::model

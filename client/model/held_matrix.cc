#include "client/model/held_matrix.h"

#include <ATen/ATen.h>

#include "client/model/ops.h"
#ifdef STRATA_CUDA
#include "client/model/cuda_launch.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::model {

HeldMatrix::HeldMatrix(at::Tensor memory, std::vector<kernels::Nf4> parts, int64_t cols)
    : memory_(std::move(memory)), parts_(std::move(parts)), cols_(cols) {
  for (const kernels::Nf4& part : parts_) rows_ += part.rows;
}

kernels::Rows HeldMatrix::View() const {
  if (!quantised()) return RowsOf(memory_);
  kernels::Rows view = {.rows = rows_, .cols = cols_, .stride = cols_};
  if (scales_.defined()) {
    view.type = kernels::Type::kInt8;
    view.data = memory_.data_ptr();
    view.scales = scales_.const_data_ptr<float>();
  } else {
    view.type = kernels::Type::kNf4;
    view.data = const_cast<kernels::Nf4*>(parts_.data());  // operands are only read
  }
  return view;
}

HeldMatrix HeldMatrix::Narrow(int64_t first, int64_t count) const {
  if (scales_.defined()) return {memory_.narrow(0, first, count), scales_.narrow(0, first, count)};
  if (parts_.empty()) return memory_.narrow(0, first, count);
  std::vector<kernels::Nf4> within;
  int64_t row = 0;
  for (const kernels::Nf4& part : parts_) {
    if (row >= first && row < first + count) within.push_back(part);
    row += part.rows;
  }
  return {memory_, std::move(within), cols_};
}

at::Tensor HeldMatrix::Widened(int64_t first, int64_t count) const {
  if (!quantised()) return memory_.narrow(0, first, count).to(at::kFloat);
  at::Tensor out = at::empty({count, cols_}, at::TensorOptions().dtype(at::kFloat).device(device()));
#ifdef STRATA_CUDA
  if (out.is_cuda()) {
    Launch(out, [&](void* stream) { return kernels::cuda::Decode(View(), first, 0, RowsOf(out), stream); });
    return out;
  }
#endif
  kernels::Decode(View(), first, count, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace strata::model

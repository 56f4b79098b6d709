// Matrices of a model's files into memory, row block by row block on all threads: as they are, or quantised on the way.
// Errors: those of ModelFiles::ReadRows.
#ifndef STRATA_CLIENT_MODEL_READ_MATRIX_H_
#define STRATA_CLIENT_MODEL_READ_MATRIX_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model/model_files.h"
#include "kernels/ops.h"

namespace strata::model {

// Fills `out`, a contiguous CPU matrix of fp32 or bf16 with as many elements, in the file's order.
absl::Status ReadMatrix(const ModelFiles& files, const ModelTensor& tensor, const at::Tensor& out);

// A linear module's matrix [out, in], whatever order it is stored in. out: int8 [out, in], scales: fp32 [out], both
// contiguous on the CPU.
absl::Status ReadInt8(const ModelFiles& files, const ModelTensor& tensor, const at::Tensor& out,
                      const at::Tensor& scales);
// The same in NF4. `arrays` is the memory of the result, kernels::Nf4Bytes(rows * cols) bytes, aligned for floats.
absl::StatusOr<kernels::Nf4> ReadNf4(const ModelFiles& files, const ModelTensor& tensor, int64_t rows, int64_t cols,
                                     std::byte* arrays);

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_READ_MATRIX_H_

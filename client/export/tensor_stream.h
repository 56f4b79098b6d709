// One tensor of a merged model to a file, block by block.
#ifndef STRATA_CLIENT_EXPORT_TENSOR_STREAM_H_
#define STRATA_CLIENT_EXPORT_TENSOR_STREAM_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "client/export/merged_model.h"
#include "common/format/gguf.h"
#include "common/runtime/pending_file.h"

namespace strata::exporting {

// How a file wants a tensor, other than the model's files have it.
struct TensorForm {
  format::GgufType type = format::GgufType::kF32;
  bool transpose = false;       // a matrix is stored the other way round than in the model's files
  bool input_major = false;     // is [in, out] in the file written
  int64_t rotary_head_dim = 0;  // > 0: rows in GGUF's rotary order within heads of so many
  float offset = 0;             // added to each element
};

// How a tensor goes into a GGUF file, or into HF's: what the table of the model's family says of it, where that is not
// how the model's own files have it. ModelFiles reads rows in HF's rotary order, all else as it is stored.
TensorForm FormOf(const MergedModel& merged, const model::ModelTensor& tensor, format::GgufType type, bool to_gguf);
// Its shape in the file written.
std::vector<int64_t> ShapeOf(const model::ModelTensor& tensor, const TensorForm& form);

int64_t ElementsOf(const model::ModelTensor& tensor);

// Appends the tensor's data: W0 + C in fp32 and rounded once, or the stored bytes where nothing changes. Holds a few
// MiB (a transposed tensor: all of it). Errors of ModelFiles::ReadRows and of the file.
absl::Status StreamTensor(const MergedModel& merged, const model::ModelTensor& tensor, const TensorForm& form,
                          runtime::PendingFile& file, Rounding& rounding);

}  // namespace strata::exporting

#endif  // STRATA_CLIENT_EXPORT_TENSOR_STREAM_H_

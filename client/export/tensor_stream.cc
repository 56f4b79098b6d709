#include "client/export/tensor_stream.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "common/format/gguf_names.h"
#include "common/format/gguf_writer.h"
#include "common/status/status_macros.h"

namespace strata::exporting {
namespace {

constexpr int64_t kBlockElements = int64_t{1} << 20;

// Rows of one block on their way, all in the order and orientation of the file but for GGUF's rotary order.
struct Block {
  std::vector<float> base, update, values;
  std::vector<std::byte> encoded, ordered;
};

bool IsPlain(const TensorForm& form) { return !form.transpose && form.rotary_head_dim == 0 && form.offset == 0; }

struct Sink {
  runtime::PendingFile& file;
  Rounding& rounding;
};

// Encodes the values, decodes them again for the account, and appends them.
absl::Status WriteBlock(const TensorForm& form, int64_t width, Block& block, Sink sink) {
  block.values = block.base;
  for (size_t i = 0; i < block.update.size(); ++i) block.values[i] += block.update[i];
  if (form.offset != 0) {
    for (float& value : block.values) value += form.offset;
  }
  block.encoded.resize(format::GgufSizeBytes(form.type, block.values.size()));
  STRATA_RETURN_IF_ERROR(format::EncodeGguf(form.type, block.values, block.encoded));
  const auto rows = static_cast<int64_t>(block.values.size()) / width;
  if (!block.update.empty()) {
    const format::GgufTensor stored = {
        .name = {}, .type = static_cast<uint32_t>(form.type), .shape = {rows, width}, .data = block.encoded};
    STRATA_RETURN_IF_ERROR(format::DecodeGgufRows(stored, 0, block.values));
    sink.rounding.Add(block.base, block.update, block.values);
  }
  if (form.rotary_head_dim == 0) return sink.file.Append(block.encoded);
  const size_t row_bytes = block.encoded.size() / static_cast<size_t>(rows);
  block.ordered.resize(block.encoded.size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t from = format::HfRotaryRow(row, form.rotary_head_dim);
    std::memcpy(block.ordered.data() + row * row_bytes, block.encoded.data() + from * row_bytes, row_bytes);
  }
  return sink.file.Append(block.ordered);
}

absl::Status ReadTransposed(const MergedModel& merged, const model::ModelTensor& tensor, std::vector<float>& out) {
  std::vector<float> stored(out.size());
  STRATA_RETURN_IF_ERROR(merged.model().ReadRows(tensor.name, 0, stored));
  const int64_t rows = tensor.shape[0];
  const int64_t columns = tensor.shape[1];
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = stored[i * columns + j];
  }
  return absl::OkStatus();
}

absl::Status Copy(const MergedModel& merged, const model::ModelTensor& tensor, std::span<const std::byte> raw,
                  runtime::PendingFile& file) {
  constexpr size_t kStep = 4 * kBlockElements;
  for (size_t at = 0; at < raw.size(); at += kStep) {
    STRATA_RETURN_IF_ERROR(file.Append(raw.subspan(at, std::min(kStep, raw.size() - at))));
  }
  merged.model().ReleasePages(tensor.name);
  return absl::OkStatus();
}

absl::Status StreamBlocks(const MergedModel& merged, const model::ModelTensor& tensor, const TensorForm& form,
                          const TensorUpdate& update, Sink sink) {
  // A vector is read as one row, and reordered as rows of one element.
  const bool matrix = tensor.shape.size() > 1;
  const int64_t rows = matrix ? ShapeOf(tensor, form).front() : ElementsOf(tensor);
  const int64_t width = ElementsOf(tensor) / rows;
  const int64_t unit = std::max<int64_t>(1, form.rotary_head_dim);
  const bool whole = form.transpose || !matrix;
  const int64_t step = whole ? rows : std::max(unit, kBlockElements / width / unit * unit);
  Block block;
  for (int64_t first = 0; first < rows; first += step) {
    const auto count = static_cast<size_t>(std::min(step, rows - first) * width);
    block.base.resize(count);
    STRATA_RETURN_IF_ERROR(form.transpose ? ReadTransposed(merged, tensor, block.base)
                                          : merged.model().ReadRows(tensor.name, matrix ? first : 0, block.base));
    if (!update.empty()) {
      block.update.resize(count);
      update.ComputeRows(first, block.base, block.update);
    }
    STRATA_RETURN_IF_ERROR(WriteBlock(form, width, block, sink));
  }
  return absl::OkStatus();
}

}  // namespace

TensorForm FormOf(const MergedModel& merged, const model::ModelTensor& tensor, format::GgufType type, bool to_gguf) {
  TensorForm form{.type = type};
  const format::GgufFamily* family = format::FindGgufFamily(merged.model().config().architecture);
  if (family == nullptr) return form;
  const size_t dot = std::min(tensor.name.rfind('.'), tensor.name.size());
  const bool weight = tensor.name.ends_with(".weight");
  switch (format::GgufModuleOfHf(*family, std::string_view(tensor.name).substr(0, dot)).change) {
    case format::GgufChange::kNone:
      break;
    case format::GgufChange::kQueryRows:
    case format::GgufChange::kKeyRows:
      if (to_gguf) form.rotary_head_dim = merged.model().config().head_dim;
      break;
    case format::GgufChange::kPlusOne:
      if (weight) form.offset = static_cast<float>(to_gguf) - static_cast<float>(merged.from_gguf());
      break;
    case format::GgufChange::kTransposed:
      form.input_major = weight && !to_gguf;
      form.transpose = weight && merged.from_gguf() != to_gguf;
      break;
  }
  return form;
}

std::vector<int64_t> ShapeOf(const model::ModelTensor& tensor, const TensorForm& form) {
  std::vector<int64_t> shape = tensor.shape;
  if (form.transpose) std::reverse(shape.begin(), shape.end());
  return shape;
}

int64_t ElementsOf(const model::ModelTensor& tensor) {
  return std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
}

absl::Status StreamTensor(const MergedModel& merged, const model::ModelTensor& tensor, const TensorForm& form,
                          runtime::PendingFile& file, Rounding& rounding) {
  STRATA_ASSIGN_OR_RETURN(const TensorUpdate update, merged.UpdateOf(tensor, form.input_major));
  const std::span<const std::byte> raw = merged.model().RawBytes(tensor.name);
  if (update.empty() && IsPlain(form) && !raw.empty() &&
      tensor.stored_dtype == format::GgufTypeName(static_cast<uint32_t>(form.type))) {
    return Copy(merged, tensor, raw, file);
  }
  STRATA_RETURN_IF_ERROR(StreamBlocks(merged, tensor, form, update, {file, rounding}));
  merged.model().ReleasePages(tensor.name);
  return absl::OkStatus();
}

}  // namespace strata::exporting

#include "client/model/pass_inputs.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "client/model/rope_table.h"

namespace strata::model {
namespace {

constexpr int64_t kFewestPositions = 4096;

Turns TurnsOf(const RopeConfig& rope, int64_t head_dim, const std::vector<int32_t>& positions, at::Device device) {
  const int32_t last = *std::max_element(positions.begin(), positions.end());
  const RopeFrequencies frequencies = FrequenciesOf(rope, head_dim, int64_t{last} + 1);
  const at::Tensor cos = at::empty({static_cast<int64_t>(positions.size()), rope.turning(head_dim) / 2}, at::kFloat);
  const at::Tensor sin = at::empty_like(cos);
  RopeTables(frequencies, positions, cos.data_ptr<float>(), sin.data_ptr<float>());
  return {.cos = cos.to(device), .sin = sin.to(device)};
}

const RopeConfig& RopeOf(const ModelConfig& config, size_t which) {
  return which == 0 ? config.rope : config.window_rope;
}

int64_t Longest(const std::vector<int32_t>& starts) {
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < starts.size(); ++i) longest = std::max<int64_t>(longest, starts[i + 1] - starts[i]);
  return longest;
}

}  // namespace

const Turns& TurnTables::Get(const ModelConfig& config, size_t which, int64_t positions) {
  Turns& table = tables_[which];
  if (table.cos.defined() && table.cos.size(0) >= positions) return table;
  int64_t rows = kFewestPositions;
  while (rows < positions) rows *= 2;
  std::vector<int32_t> all(static_cast<size_t>(rows));
  std::iota(all.begin(), all.end(), 0);
  table = TurnsOf(RopeOf(config, which), config.head_dim, all, device_);
  return table;
}

PassInputs::PassInputs(const data::PackedBatch& batch, const Step& step, const ModelConfig& config, at::Device device,
                       TurnTables& tables, const Room& room)
    : tokens_(static_cast<int64_t>(batch.ids.size())), loss_rows_(room.loss_rows), documents_{batch.starts, {}, 0} {
  const auto supervised = std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t t) { return t >= 0; });
  loss_rows_ = std::max<int64_t>(loss_rows_, supervised);
  const auto starts = static_cast<int64_t>(batch.starts.size()) + 1;
  const std::array<int64_t, kNumParts> sizes = {2, tokens_, tokens_, starts, loss_rows_, loss_rows_, 1};
  std::partial_sum(sizes.begin(), sizes.end(), first_.begin() + 1);
  host_ = at::empty({first_.back()}, at::kInt);
  buffer_ = device.is_cpu() ? host_ : at::empty({first_.back()}, host_.options().device(device));
  Lay(batch, step);
  documents_.longest = std::max(Longest(batch.starts), room.longest);
  if (!device.is_cpu()) documents_.on_device = Part(kStarts);
  if (config.learned_positions) return;
  by_position_ = device.is_cuda() && !config.rope.depends_on_length();
  const int32_t last = *std::max_element(batch.positions.begin(), batch.positions.end());
  for (const size_t which : {0, 1}) {
    if (which == 1 && config.window_rope == config.rope) {
      turns_[1] = turns_[0];
    } else if (by_position_) {
      turns_[which] = tables.Get(config, which, int64_t{last} + 1);
    } else {
      turns_[which] = TurnsOf(RopeOf(config, which), config.head_dim, batch.positions, device);
    }
  }
}

void PassInputs::Refill(const data::PackedBatch& batch, const Step& step) { Lay(batch, step); }

void PassInputs::Lay(const data::PackedBatch& batch, const Step& step) {
  step_ = step;
  auto* out = host_.mutable_data_ptr<int32_t>();
  std::copy(batch.ids.begin(), batch.ids.end(), out + first_[kIds]);
  std::copy(batch.positions.begin(), batch.positions.end(), out + first_[kPositions]);
  std::copy(batch.starts.begin(), batch.starts.end(), out + first_[kStarts]);
  out[first_[kStarts + 1] - 1] = batch.starts.back();
  std::fill(out + first_[kRows], out + first_[kScale], -1);
  int64_t next = 0;
  for (size_t t = 0; t < batch.targets.size(); ++t) {
    if (batch.targets[t] < 0) continue;
    out[first_[kRows] + next] = static_cast<int32_t>(t);
    out[first_[kTargets] + next] = batch.targets[t];
    ++next;
  }
  const auto narrow = static_cast<float>(step.scale);
  std::memcpy(out + first_[kScale], &narrow, sizeof narrow);
  std::memcpy(out + first_[kKey], &step.dropout_key, sizeof step.dropout_key);
  if (!buffer_.is_cpu()) buffer_.copy_(host_);
}

at::Tensor PassInputs::Part(size_t part) const {
  return buffer_.narrow(0, first_[part], first_[part + 1] - first_[part]);
}

const uint64_t* PassInputs::device_dropout_key() const {
  return buffer_.is_cuda() ? static_cast<const uint64_t*>(Part(kKey).const_data_ptr()) : nullptr;
}

at::Tensor PassInputs::device_scale() const { return buffer_.is_cuda() ? Part(kScale).view(at::kFloat) : at::Tensor(); }

}  // namespace strata::model

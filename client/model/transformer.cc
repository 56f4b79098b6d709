#include "client/model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/model/gemm.h"
#include "client/model/pass.h"
#include "client/model/processor.h"
#include "client/model/step_graph.h"
#include "client/model/torch_guard.h"
#include "common/runtime/process.h"
#include "common/status/status_macros.h"
#ifdef STRATA_CUDA
#include "client/model/cuda_launch.h"
#include "kernels/cuda_ops.h"
#endif

namespace strata::model {
namespace {

std::string Shape(const at::Tensor& t) { return absl::StrCat("[", t.size(0), ", ", t.size(1), "]"); }

std::vector<double> NllOfDocuments(Pass& pass, const data::PackedBatch& batch) {
  pass.Forward(/*save=*/false, nullptr);
  const at::Tensor nll = pass.Loss(/*gradient=*/false).cpu();
  const auto* next = nll.const_data_ptr<float>();
  std::vector<double> sums;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    double sum = 0;
    for (int32_t t = batch.starts[i]; t < batch.starts[i + 1]; ++t) {
      if (batch.targets[static_cast<size_t>(t)] >= 0) sum += static_cast<double>(*next++);
    }
    sums.push_back(sum);
  }
  return sums;
}

double SumOf(const at::Tensor& nll) {
  const at::Tensor host = nll.cpu();
  const auto* values = host.const_data_ptr<float>();
  double sum = 0;
  for (int64_t i = 0; i < host.numel(); ++i) sum += static_cast<double>(values[i]);
  return sum;
}

absl::Status CheckPlace(const config::Precision& precision, at::Device device, int64_t host_layers, int64_t layers) {
  const std::string fault = config::PrecisionFault(precision, !device.is_cpu());
  if (!fault.empty()) return absl::InvalidArgumentError(fault);
  if (host_layers > 0 && device.is_cpu())
    return absl::InvalidArgumentError("host_layers is for CUDA devices: leave it out, or set device: cuda");
  if (host_layers > layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("host_layers: expected at most the model's ", layers, " layers, found ", host_layers));
  }
  const bool need_kernels = host_layers > 0 || precision != config::Precision(precision.compute);
  if (!device.is_cpu() && need_kernels && !HasCudaKernels()) {
    return absl::FailedPreconditionError(
        "base_dtype other than dtype, and host_layers, need CUDA kernels on a device, which this build is without: "
        "build with -DSTRATA_CUDA=ON, or leave them out");
  }
  return absl::OkStatus();
}

CachedRows RowsBehind(KvCache& cache, const std::vector<Continuation>& continuations) {
  std::vector<size_t> sequences;
  sequences.reserve(continuations.size());
  for (const Continuation& c : continuations) sequences.push_back(c.sequence);
  return {cache, std::move(sequences)};
}

}  // namespace

Transformer::Transformer(std::unique_ptr<ModelFiles> files, at::Device device)
    : files_(std::move(files)), arena_(device), turn_tables_(device) {
#ifdef STRATA_CUDA
  if (device.is_cuda()) graphs_ = std::make_shared<StepGraphs>(config(), arena_, turn_tables_, device);
#endif
}

size_t Transformer::recorded_steps() const {
#ifdef STRATA_CUDA
  if (graphs_ != nullptr) return graphs_->recorded();
#endif
  return 0;
}

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(std::unique_ptr<ModelFiles> files,
                                                               const config::Precision& precision, at::Device device,
                                                               int threads, int64_t host_layers) {
  STRATA_RETURN_IF_ERROR(CheckPlace(precision, device, host_layers, files->config().num_layers));
  const at::ScalarType activation = ActivationType(precision, !device.is_cpu());
  // Parts of sums would be joined in fp16 else.
  if (activation == at::kHalf) at::globalContext().setAllowFP16ReductionCuBLAS(false);
  return TorchGuard("loading the model", [&]() -> absl::StatusOr<std::unique_ptr<Transformer>> {
    c10::InferenceMode inference;
    at::set_num_threads(threads > 0 ? threads : runtime::NumCores());
    std::unique_ptr<Transformer> model(new Transformer(std::move(files), device));
    STRATA_ASSIGN_OR_RETURN(model->weights_, LoadWeights(*model->files_, precision, device, host_layers));
    model->weights_.activation_type = activation;
    STRATA_RETURN_IF_ERROR(model->Rebuild());
    return model;
  });
}

absl::StatusOr<Weights::Place> Transformer::Locate(const NamedFactors& named) const {
  const Weights::Place place = weights_.Find(named.module);
  if (place.layer < 0) {
    return absl::InvalidArgumentError(absl::StrCat("adapter names the module ", named.module,
                                                   ", which is no linear module of a layer of ", files_->path()));
  }
  const LinearGroup& group = weights_.layers[static_cast<size_t>(place.layer)].groups[static_cast<size_t>(place.group)];
  const int64_t rows = group.modules[static_cast<size_t>(place.module)].rows;
  const SideFactors& f = named.factors;
  if (f.a.size(1) != group.in || f.b.size(0) != rows || f.a.size(0) != f.b.size(1)) {
    return absl::InvalidArgumentError(absl::StrCat("adapter of ", named.module, ": expected A [r, ", group.in,
                                                   "] and B [", rows, ", r], found A ", Shape(f.a), " and B ",
                                                   Shape(f.b)));
  }
  if (f.magnitude.defined() && f.magnitude.size(0) != rows) {
    return absl::InvalidArgumentError(absl::StrCat("adapter of ", named.module, ": expected a magnitude of ", rows,
                                                   " rows, found ", f.magnitude.size(0)));
  }
  return place;
}

// Finds every factor's place; where weights stand in wide matrices: room for all columns.
absl::Status Transformer::MakeRoom() {
  std::vector<std::array<int64_t, kNumGroups>> ranks(weights_.layers.size());
  for (const auto* list : {&trained_, &side_base_}) {
    for (const NamedFactors& named : *list) {
      STRATA_ASSIGN_OR_RETURN(const Weights::Place place, Locate(named));
      ranks[static_cast<size_t>(place.layer)][static_cast<size_t>(place.group)] += named.factors.a.size(0);
    }
  }
  if (device().is_cpu()) return absl::OkStatus();
  for (size_t l = 0; l < ranks.size(); ++l) {
    for (size_t g = 0; g < kNumGroups; ++g) {
      LinearGroup& group = weights_.layers[l].groups[g];
      if (HasMargin(group, SideAdapter::PaddedRank(ranks[l][g]))) continue;
      // The adapter there would hold on to the weight where it was.
      const auto bare = [&] {
        if (!sides_.empty()) sides_[l][g] = SideAdapter(group, weights_.activation_type);
      };
      if (!sides_.empty()) sides_[l][g] = SideAdapter();
      try {
        EnsureMargin(group, SideAdapter::PaddedRank(ranks[l][g]));
      } catch (...) {
        bare();
        throw;
      }
      bare();
    }
  }
  return absl::OkStatus();
}

void Transformer::ListCopies() {
  copies_ = at::Tensor();
#ifdef STRATA_CUDA
  if (!device().is_cuda()) return;
  std::vector<kernels::cuda::ScaledCopy> copies;
  for (const auto& layer : sides_) {
    for (const SideAdapter& side : layer) side.ListCopies(copies);
  }
  if (copies.empty()) return;
  const auto bytes = static_cast<int64_t>(copies.size() * sizeof(copies.front()));
  copies_ = at::from_blob(copies.data(), {bytes}, at::kByte).to(device());
#endif
}

absl::Status Transformer::Rebuild() {
#ifdef STRATA_CUDA
  if (graphs_ != nullptr) graphs_->Clear();
#endif
  STRATA_RETURN_IF_ERROR(MakeRoom());
  std::vector<std::array<SideAdapter, kNumGroups>> sides(weights_.layers.size());
  for (size_t l = 0; l < sides.size(); ++l) {
    for (size_t g = 0; g < kNumGroups; ++g)
      sides[l][g] = SideAdapter(weights_.layers[l].groups[g], weights_.activation_type);
  }
  sides_ = sides;  // the columns of before need not stand beside the new ones
  for (const auto* list : {&trained_, &side_base_}) {
    for (const NamedFactors& named : *list) {
      STRATA_ASSIGN_OR_RETURN(const Weights::Place place, Locate(named));
      SideAdapter& side = sides[static_cast<size_t>(place.layer)][static_cast<size_t>(place.group)];
      weights_.Use(static_cast<size_t>(place.layer));
      list == &trained_ ? side.AddTrained(place.module, named.factors) : side.AddFrozen(place.module, named.factors);
    }
  }
  for (size_t l = 0; l < sides.size(); ++l) {
    weights_.Use(l);
    for (SideAdapter& side : sides[l]) side.Finish();
  }
  sides_ = std::move(sides);
  ListCopies();
  return absl::OkStatus();
}

absl::Status Transformer::Merge(const std::vector<NamedFactors>& base) {
  std::set<std::string> touched(merged_.begin(), merged_.end());
  for (const NamedFactors& named : base) {
    STRATA_RETURN_IF_ERROR(Locate(named).status());
    touched.insert(named.module);
  }
  for (const std::string& name : touched) {
    const Weights::Place place = weights_.Find(name);
    LinearGroup& group = weights_.layers[static_cast<size_t>(place.layer)].groups[static_cast<size_t>(place.group)];
    const LinearModule& module = group.modules[static_cast<size_t>(place.module)];
    STRATA_RETURN_IF_ERROR(ReloadModule(*files_, module, group));
    const at::Tensor rows = group.weight.tensor().narrow(0, module.first_row, module.rows);
    std::vector<Addition> added;
    for (const NamedFactors& named : base) {
      if (named.module == name && named.factors.a.size(0) > 0) added.push_back(AdditionOf(rows, named.factors));
    }
    AddInPlace(rows, added);
  }
  merged_.clear();
  for (const NamedFactors& named : base) merged_.push_back(named.module);
  return absl::OkStatus();
}

absl::Status Transformer::SetBase(const std::vector<NamedFactors>& base, BaseRoute route) {
  return TorchGuard("applying the base adapter", [&]() -> absl::Status {
    c10::InferenceMode inference;
    const bool fp32 = weights_.embedding.scalar_type() == at::kFloat;
    const bool merge = route == BaseRoute::kMerge || (route == BaseRoute::kByDtype && fp32 && weights_.mergeable());
    if (merge && !weights_.mergeable()) {
      return absl::InvalidArgumentError(
          "the base adapter is never merged into quantised weights, or into ones that stay on the host");
    }
    const std::vector<NamedFactors> none;
    if (merge || !merged_.empty()) STRATA_RETURN_IF_ERROR(Merge(merge ? base : none));
    side_base_ = merge ? none : base;
    return Rebuild();
  });
}

absl::Status Transformer::SetTrained(const std::vector<NamedFactors>& trained) {
  return TorchGuard("setting up the adapter", [&]() -> absl::Status {
    c10::InferenceMode inference;
    trained_ = trained;
    return Rebuild();
  });
}

void Transformer::RefreshTrained() {
  c10::InferenceMode inference;
#ifdef STRATA_CUDA
  if (copies_.defined()) {
    const auto count = copies_.numel() / static_cast<int64_t>(sizeof(kernels::cuda::ScaledCopy));
    const kernels::Type type = TypeOf(weights_.activation_type);
    Launch(copies_, [&](void* stream) {
      return kernels::cuda::CopyScaled(static_cast<const kernels::cuda::ScaledCopy*>(copies_.const_data_ptr()), count,
                                       type, stream);
    });
  }
#endif
  for (size_t l = 0; l < sides_.size(); ++l) {
    for (SideAdapter& side : sides_[l]) {
      if (side.has_magnitudes()) weights_.Use(l);
      copies_.defined() ? side.RefreshMagnitudes() : side.Refresh();
    }
  }
}

absl::Status Transformer::ResetMagnitudes() {
  return TorchGuard("setting up the magnitudes", [&] {
    c10::InferenceMode inference;
    for (auto& layer : sides_) {
      for (SideAdapter& side : layer) side.ResetMagnitudes();
    }
    return absl::OkStatus();
  });
}

absl::Status Transformer::Check(const data::PackedBatch& batch) const {
  if (batch.ids.empty()) return absl::InvalidArgumentError("a batch without tokens");
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    if (batch.ids[i] < 0 || batch.ids[i] >= config().vocab_size || batch.targets[i] >= config().vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("token ", batch.ids[i], " (target ", batch.targets[i],
                                                     ") at position ", i, " lies outside the model's vocabulary of ",
                                                     config().vocab_size));
    }
  }
  const int32_t last = *std::max_element(batch.positions.begin(), batch.positions.end());
  if (config().learned_positions && last >= config().max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("a row reaches position ", last, "; the model has a table of ",
                                                   config().max_positions,
                                                   " positions: use a max_length of at most that"));
  }
  return absl::OkStatus();
}

// Large steps keep the device busy by themselves, and padding would cost them more than it spares.
bool Transformer::Recordable(const data::PackedBatch& batch) const {
  constexpr double kMostFlops = 1e13;
  const ModelConfig& c = config();
  const AttentionShape attention = {
      .num_heads = c.num_heads, .num_kv_heads = c.num_kv_heads, .head_dim = c.head_dim, .softcap = c.attention_softcap};
  const double flops = 2 * static_cast<double>(weights_.resident_bytes) * static_cast<double>(batch.ids.size());
  return graphs_ != nullptr && weights_.host_layers == nullptr && flops < kMostFlops && !c.rope.depends_on_length() &&
         ReadsDocumentsOnDevice(attention, weights_.activation_type, device());
}

absl::StatusOr<double> Transformer::TrainStep(const data::PackedBatch& batch, double scale, const DropoutKey& dropout,
                                              bool recompute) {
  STRATA_RETURN_IF_ERROR(Check(batch));
  return TorchGuard("training step", [&]() -> absl::StatusOr<double> {
    c10::InferenceMode inference;
    const PassInputs::Step values = {.scale = scale, .dropout_key = dropout.key};
    const auto step = [&](const PassInputs& inputs) {
      DropoutKey key = dropout;
#ifdef STRATA_CUDA
      key.base = inputs.device_dropout_key();
#endif
      Pass pass({config(), weights_, sides_, arena_, key, recompute}, inputs);
      pass.Forward(/*save=*/true, nullptr);
      at::Tensor nll = pass.Loss(/*gradient=*/true);
      pass.Backward();
      return nll;
    };
#ifdef STRATA_CUDA
    if (Recordable(batch)) return SumOf(graphs_->Run(batch, values, {recompute, dropout.probability}, step));
#endif
    return SumOf(step(InputsOf(batch, values)));
  });
}

absl::StatusOr<std::vector<double>> Transformer::Evaluate(const data::PackedBatch& batch) {
  STRATA_RETURN_IF_ERROR(Check(batch));
  return TorchGuard("evaluation", [&]() -> absl::StatusOr<std::vector<double>> {
    c10::InferenceMode inference;
    const PassInputs inputs = InputsOf(batch);
    Pass pass({config(), weights_, sides_, arena_, {}}, inputs);
    return NllOfDocuments(pass, batch);
  });
}

absl::StatusOr<Inspection> Transformer::Inspect(const data::PackedBatch& batch) {
  STRATA_RETURN_IF_ERROR(Check(batch));
  return TorchGuard("inspection", [&]() -> absl::StatusOr<Inspection> {
    c10::InferenceMode inference;
    const PassInputs inputs = InputsOf(batch);
    Pass pass({config(), weights_, sides_, arena_, {}}, inputs);
    Inspection out;
    pass.Forward(/*save=*/false, &out.hidden);
    out.hidden.back() = pass.FinalHidden();
    for (at::Tensor& h : out.hidden) h = h.to(at::kFloat).cpu();
    out.logits = pass.Logits(pass.FinalHidden()).cpu();
    return out;
  });
}

absl::StatusOr<std::unique_ptr<KvCache>> Transformer::NewCache(const KvCache::Size& size) const {
  return TorchGuard("a cache of keys and values", [&]() -> absl::StatusOr<std::unique_ptr<KvCache>> {
    c10::InferenceMode inference;
    return std::make_unique<KvCache>(config(), size, weights_.activation_type, device());
  });
}

absl::StatusOr<data::PackedBatch> Transformer::PackBehind(const KvCache& cache,
                                                          const std::vector<Continuation>& continuations) const {
  std::vector<data::Example> rows;
  for (const Continuation& c : continuations) {
    const auto n = static_cast<int64_t>(c.ids.size());
    const int64_t length = cache.length(c.sequence);
    if (n == 0 || length + n > cache.capacity()) {
      return absl::InvalidArgumentError(
          absl::StrCat(n, " tokens behind ", length, " in a cache of ", cache.capacity()));
    }
    data::Example& row = rows.emplace_back(data::Example{.ids = c.ids, .labels = c.ids, .position_ids = {}});
    for (int64_t i = 0; i < n; ++i) row.position_ids.push_back(static_cast<int32_t>(length + i));
  }
  data::PackedBatch batch = data::Pack(data::Pointers(rows));
  STRATA_RETURN_IF_ERROR(Check(batch));
  return batch;
}

absl::StatusOr<at::Tensor> Transformer::Continue(const std::vector<Continuation>& continuations, KvCache& cache) {
  STRATA_ASSIGN_OR_RETURN(const data::PackedBatch batch, PackBehind(cache, continuations));
  return TorchGuard("decoding", [&]() -> absl::StatusOr<at::Tensor> {
    c10::InferenceMode inference;
    const CachedRows rows = RowsBehind(cache, continuations);
    const PassInputs inputs = InputsOf(batch);
    const FewRows few(std::all_of(continuations.begin(), continuations.end(), [&cache](const Continuation& c) {
      return c.ids.size() == 1 && cache.length(c.sequence) > 0;
    }));
    Pass pass({config(), weights_, sides_, arena_, {}, false, &rows}, inputs);
    pass.Forward(/*save=*/false, nullptr);
    rows.Keep(batch.starts);
    const at::Tensor hidden = pass.FinalHidden();
    std::vector<at::Tensor> last;
    for (size_t i = 1; i < batch.starts.size(); ++i) last.push_back(hidden.narrow(0, batch.starts[i] - 1, 1));
    return pass.Logits(at::cat(last)).cpu();
  });
}

absl::StatusOr<std::vector<double>> Transformer::EvaluateBehind(const std::vector<Continuation>& continuations,
                                                                KvCache& cache) {
  STRATA_ASSIGN_OR_RETURN(const data::PackedBatch batch, PackBehind(cache, continuations));
  return TorchGuard("evaluation", [&]() -> absl::StatusOr<std::vector<double>> {
    c10::InferenceMode inference;
    const CachedRows rows = RowsBehind(cache, continuations);
    const PassInputs inputs = InputsOf(batch);
    Pass pass({config(), weights_, sides_, arena_, {}, false, &rows}, inputs);
    return NllOfDocuments(pass, batch);
  });
}

}  // namespace strata::model

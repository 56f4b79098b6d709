#include "client/train/memory_plan.h"

#include <algorithm>

#include "client/model/family.h"
#include "client/model/gemm.h"
#include "client/model/host_layers.h"
#include "client/model/loss.h"
#include "client/model/model_tensors.h"
#include "client/model/processor.h"
#include "common/config/units.h"
#include "common/status/cat.h"

namespace strata::train {
namespace {

// Measured with a small model: program and libraries, buffers of the matrix products, the allocator's slack.
constexpr uint64_t kProgramBytes = uint64_t{212} << 20;
constexpr uint64_t kTokenizerBytesPerToken = 500;
// Attention's backward pass through ATen: gradients of expanded heads, their sums, contiguous copies; in widths of the
// attention's output.
constexpr uint64_t kAttentionTemporaries = 12;
// On a CUDA device, in LibTorch's allocator: workspaces of the products, rotary tables; and beside it what the driver
// and cuBLAS take for themselves (on an H100 with driver 580, by nvidia-smi).
constexpr uint64_t kDeviceBytes = uint64_t{64} << 20;
constexpr uint64_t kContextBytes = uint64_t{830} << 20;

// Elements per token.
struct Widths {
  uint64_t hidden = 0, intermediate = 0, gate_up = 0, qkv = 0, output = 0, heads = 0;
  uint64_t normed = 0;  // what norms of heads and of a block's output keep
  uint64_t ranks = 0;   // of one layer's adapter columns, on average
  uint64_t scaled = 0;  // outputs kept for the magnitudes of one layer, on average
};

// Layers from the first that is trained on; those before it keep nothing.
uint64_t LayersKept(const model::ModelConfig& config, const std::vector<Target>& targets) {
  int64_t first = 0;
  const auto trained = [&](int64_t layer) {
    const std::string prefix = model::LayerPrefix(model::FamilyOf(config), layer);
    return std::any_of(targets.begin(), targets.end(), [&](const Target& t) { return t.module.starts_with(prefix); });
  };
  while (first < config.num_layers && !trained(first)) ++first;
  return static_cast<uint64_t>(config.num_layers - first);
}

Widths WidthsOf(const model::ModelConfig& config, const std::vector<Target>& targets,
                const std::vector<Target>& columns) {
  const auto wide = [](int64_t n) { return static_cast<uint64_t>(n); };
  Widths w{.hidden = wide(config.hidden_size),
           .intermediate = wide(config.intermediate_size),
           .gate_up = wide(config.intermediate_size) * (kernels::IsGated(config.unit) ? 2 : 1),
           .qkv = wide((config.num_heads + 2 * config.num_kv_heads) * config.head_dim),
           .output = wide(config.num_heads * config.head_dim),
           .heads = wide(config.num_heads)};
  for (const model::NormEntry& norm : model::FamilyOf(config).norms) {
    if (norm.place == model::kQueryNorm) w.normed += w.output;
    if (norm.place == model::kKeyNorm) w.normed += wide(config.num_kv_heads * config.head_dim);
    if (norm.place == model::kPostAttentionNorm || norm.place == model::kPostMlpNorm) w.normed += w.hidden;
  }
  for (const Target& t : targets) {
    w.ranks += wide(t.rank);
    if (t.use_dora) w.scaled += wide(t.out);
  }
  const uint64_t layers = std::max<uint64_t>(LayersKept(config, targets), 1);
  w.ranks /= layers;
  w.scaled /= layers;
  uint64_t frozen = 0;
  for (const Target& t : columns) frozen += wide(t.rank);
  w.ranks += frozen / std::max<uint64_t>(wide(config.num_layers), 1);
  return w;
}

bool OnDevice(const config::TrainOptions& options) { return options.device.starts_with("cuda"); }

uint64_t ElementBytes(const config::TrainOptions& options) {
  return c10::elementSize(model::ActivationType(options.precision(), OnDevice(options)));
}

// What the base may be held in, in the order of trying.
std::vector<config::BaseDType> BasesOf(const PlannedRun& run) {
  const config::TrainOptions& options = run.options;
  std::vector<config::BaseDType> bases = {options.precision().base};
  if (options.base_dtype.has_value() || (OnDevice(options) && !run.cuda_kernels)) return bases;
  for (const auto base : {config::BaseDType::kBf16, config::BaseDType::kInt8, config::BaseDType::kNf4}) {
    if (base > bases.back()) bases.push_back(base);
  }
  return bases;
}

// What becomes of C_t (model/transformer.h, SetBase; model/side_adapter.h): part of the weights, read beside them, or
// columns of their own, whose products are kept.
enum class FrozenRoute { kMerged, kFolded, kColumns };

FrozenRoute RouteOf(const PlannedRun& run, const StepShape& shape) {
  const config::Precision precision = run.options.precision();
  const bool on_device = OnDevice(run.options);
  if (precision.base == config::BaseDType::kFp32 && shape.host_layers == 0) return FrozenRoute::kMerged;
  const bool folds = model::FoldsFactors(model::ActivationType(precision, on_device), on_device ? at::kCUDA : at::kCPU);
  const bool scales = std::any_of(run.frozen.begin(), run.frozen.end(), [](const Target& t) { return t.use_dora; });
  return folds && !scales ? FrozenRoute::kFolded : FrozenRoute::kColumns;
}

// Merged factors are let go of, but the allocator keeps their memory.
uint64_t FrozenBytes(const PlannedRun& run, const StepShape& shape) {
  const FrozenRoute route = RouteOf(run, shape);
  uint64_t bytes = 0;
  for (const Target& t : run.frozen) {
    const auto factors = static_cast<uint64_t>(t.rank * (t.in + t.out));
    bytes += sizeof(float) * factors;
    if (route == FrozenRoute::kMerged) continue;
    // B once more, scaled; a magnitude, its change, the gain.
    bytes += sizeof(float) * static_cast<uint64_t>(t.rank * t.out + (t.use_dora ? 3 * t.out : 0));
    if (route == FrozenRoute::kColumns) bytes += ElementBytes(run.options) * factors;
  }
  return bytes;
}

uint64_t Activations(const model::ModelConfig& config, const PlannedRun& run, const StepShape& shape) {
  const bool columns = RouteOf(run, shape) == FrozenRoute::kColumns;
  const Widths w = WidthsOf(config, run.targets, columns ? run.frozen : std::vector<Target>());
  const uint64_t element = ElementBytes(run.options);
  const uint64_t rows = run.options.pack ? std::max<uint64_t>(shape.micro_batch_tokens / run.options.max_length, 1) : 1;
  const uint64_t tokens = std::min<uint64_t>(rows, run.options.batch_size) * run.options.max_length;
  const uint64_t layers = LayersKept(config, run.targets);
  const uint64_t layer =
      element * (2 * w.hidden + w.qkv + w.output + w.gate_up + w.normed + w.ranks + w.scaled) + 4 * (2 + w.heads);
  const uint64_t kept = shape.recompute ? layers * element * w.hidden + layer : layers * layer;
  const uint64_t stream = element * 4 * w.hidden;  // stream, increment, their sum, the gradient
  const uint64_t loss = element * 3 * w.hidden;
  // The blocks' temporaries lie in the same place.
  uint64_t backward = element * (2 * w.hidden + std::max(w.intermediate, w.output + w.qkv) + w.ranks) +
                      element * kAttentionTemporaries * w.output;
  // Magnitudes have both gradients of a block's groups scaled, and multiply a module's with what they scaled.
  if (w.scaled > 0) backward += element * (w.hidden + std::max(w.gate_up, w.qkv)) + sizeof(float) * w.intermediate;
  const auto vocabulary = static_cast<uint64_t>(config.vocab_size);
  const auto at_once =
      static_cast<uint64_t>(OnDevice(run.options) ? model::kLogitsAtOnceOnDevice : model::kLogitsAtOnce);
  const uint64_t chunk = std::min(std::max<uint64_t>(at_once / vocabulary, 16), tokens);
  return tokens * (kept + stream + loss + backward) + element * chunk * vocabulary;
}

}  // namespace

uint64_t NumParameters(const std::vector<Target>& targets) {
  int64_t count = 0;
  for (const Target& t : targets) count += t.rank * (t.in + t.out) + (t.use_dora ? t.out : 0);
  return static_cast<uint64_t>(count);
}

StepShape AskedShape(const config::TrainOptions& options) {
  return {.recompute = options.gradient_checkpointing, .host_layers = int64_t{options.host_layers}};
}

std::string DeviceOf(const std::string& device) {
  if (device != "auto") return device;
  const auto found = model::ResolveDevice(device);
  return found.ok() && found->is_cuda() ? "cuda" : "cpu";
}

MemoryNeeds NeedsOf(const model::ModelFiles& model, const PlannedRun& run, const StepShape& shape) {
  MemoryNeeds needs;
  const config::Precision precision = run.options.precision();
  const std::string layer = model::LayerPrefix(model::FamilyOf(model.config()), 0);
  uint64_t matrices = 0;  // of a layer
  for (const model::ExpectedTensor& tensor : model::ExpectedTensors(model.config())) {
    const uint64_t bytes = model::HeldBytes(tensor, precision);
    needs.weights += bytes;
    if (tensor.linear && tensor.name.starts_with(layer)) matrices += bytes;
  }
  if (shape.host_layers > 0) {
    needs.weights -= static_cast<uint64_t>(shape.host_layers) * matrices;
    needs.weights += static_cast<uint64_t>(model::HostLayers::PlacesFor(shape.host_layers)) * matrices;
    needs.host = static_cast<uint64_t>(shape.host_layers) * matrices;
  }
  // Values, gradients, two moments, and with halve_scale what three of them were.
  const uint64_t buffers = run.options.on_non_finite == config::NonFinitePolicy::kHalveScale ? 7 : 4;
  needs.adapter = NumParameters(run.targets) * (4 * buffers + ElementBytes(run.options));
  needs.frozen = FrozenBytes(run, shape);
  needs.activations = Activations(model.config(), run, shape);
  const uint64_t decoded = precision == config::Precision(precision.compute) ? 0 : model::kDecodedBytes;
  needs.fixed = OnDevice(run.options)
                    ? kDeviceBytes + kContextBytes + decoded
                    : kProgramBytes + kTokenizerBytesPerToken * static_cast<uint64_t>(model.config().vocab_size);
  return needs;
}

absl::StatusOr<StepShape> ChooseShape(const model::ModelFiles& model, PlannedRun& run) {
  const uint64_t limit = run.options.max_memory;
  const std::vector<config::BaseDType> bases = BasesOf(run);
  const StepShape asked = AskedShape(run.options);
  run.options.base_dtype = bases.front();
  if (asked.host_layers > 0 && !OnDevice(run.options)) {
    return absl::InvalidArgumentError(
        "host_layers is for CUDA devices, and there is none here: leave it out, or set device: cuda");
  }
  if (asked.host_layers > model.config().num_layers) {
    return absl::InvalidArgumentError(Cat("host_layers: expected at most the model's ", model.config().num_layers,
                                          " layers, found ", asked.host_layers));
  }
  if (limit == 0) return asked;
  StepShape candidate = asked;
  uint64_t least = 0;
  for (const config::BaseDType base : bases) {
    run.options.base_dtype = base;
    for (const bool recompute : {asked.recompute, true}) {
      candidate.recompute = recompute;
      // No micro-batch is smaller than a row.
      for (size_t tokens = kMicroBatchTokens;; tokens /= 2) {
        candidate.micro_batch_tokens = tokens;
        least = NeedsOf(model, run, candidate).peak();
        if (least <= limit) return candidate;
        if (!run.options.pack || tokens <= run.options.max_length) break;
      }
    }
  }
  const bool may_stay = OnDevice(run.options) && run.cuda_kernels;
  while (may_stay && candidate.host_layers < model.config().num_layers) {
    ++candidate.host_layers;
    least = NeedsOf(model, run, candidate).peak();
    if (least <= limit) return candidate;
  }
  return absl::ResourceExhaustedError(
      Cat("max_memory is ", config::FormatSize(limit), ", the training takes ", (least >> 20) + 1,
          "MiB at least: lower max_length or the adapter's rank, or take ",
          bases.back() == config::BaseDType::kNf4 ? "" : "a base_dtype of fewer bytes or ", "a smaller model"));
}

}  // namespace strata::train

#include "client/model/step_graph.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace strata::model {
namespace {

// Steps of shapes: padding stays below a few percent, and few shapes stand for many batches.
constexpr int64_t kFewTokens = 1024, kSmallTokenStep = 64, kTokenStep = 128;
constexpr int64_t kFewDocuments = 4, kDocumentStep = 4;
constexpr int64_t kFewestLossRows = 64, kLossRowParts = 8;
constexpr int64_t kShortest = 64;
constexpr size_t kMostShapes = 32;

int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

}  // namespace

struct StepGraphs::Entry {
  data::PackedBatch batch;  // padded; what `inputs` borrows
  std::unique_ptr<PassInputs> inputs;
  std::unique_ptr<at::cuda::CUDAGraph> graph;
  at::Tensor nll;
  bool unrecordable = false;
  uint64_t used = 0;
};

StepGraphs::StepGraphs(const ModelConfig& config, Arena& arena, TurnTables& tables, at::Device device)
    : config_(config), arena_(arena), tables_(tables), device_(device) {}

StepGraphs::~StepGraphs() = default;

void StepGraphs::Clear() { entries_.clear(); }

size_t StepGraphs::recorded() const {
  return static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(), [](const auto& e) { return e.second->graph != nullptr; }));
}

StepGraphs::Shape StepGraphs::ShapeOf(const data::PackedBatch& batch, const Options& options) {
  const auto tokens = static_cast<int64_t>(batch.ids.size());
  Shape shape;
  shape.options = options;
  shape.tokens = RoundUp(tokens, tokens <= kFewTokens ? kSmallTokenStep : kTokenStep);
  const bool padded = shape.tokens > tokens;  // by a document of its own
  shape.documents = static_cast<int64_t>(batch.starts.size()) - (padded ? 0 : 1);
  if (shape.documents > kFewDocuments) shape.documents = RoundUp(shape.documents, kDocumentStep);
  int64_t longest = shape.tokens - tokens;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i)
    longest = std::max<int64_t>(longest, batch.starts[i + 1] - batch.starts[i]);
  shape.longest = kShortest;
  while (shape.longest < longest) shape.longest *= 2;
  shape.loss_rows = RoundUp(batch.num_targets, std::max(kFewestLossRows, shape.tokens / kLossRowParts));
  return shape;
}

void StepGraphs::Pad(const Shape& shape, const data::PackedBatch& batch, data::PackedBatch& out) {
  const auto tokens = static_cast<size_t>(shape.tokens);
  out = batch;
  out.ids.resize(tokens, 0);
  out.targets.resize(tokens, -100);
  out.positions.resize(tokens, 0);
  out.starts.resize(static_cast<size_t>(shape.documents) + 1, static_cast<int32_t>(shape.tokens));
}

// Forgets the shape that was not used for the longest time.
void StepGraphs::MakeRoom() {
  if (entries_.size() < kMostShapes) return;
  entries_.erase(std::min_element(entries_.begin(), entries_.end(),
                                  [](const auto& a, const auto& b) { return a.second->used < b.second->used; }));
}

at::Tensor StepGraphs::Run(const data::PackedBatch& batch, const PassInputs::Step& values, const Options& options,
                           const Step& step) {
  arena_.Reset();
  if (arena_.generation() != arena_generation_) Clear();
  arena_generation_ = arena_.generation();
  const Shape shape = ShapeOf(batch, options);
  const auto found = entries_.find(shape);
  if (found == entries_.end()) {
    MakeRoom();
    auto entry = std::make_unique<Entry>();
    Pad(shape, batch, entry->batch);
    entry->inputs =
        std::make_unique<PassInputs>(entry->batch, values, config_, device_, tables_,
                                     PassInputs::Room{.loss_rows = shape.loss_rows, .longest = shape.longest});
    entry->used = ++uses_;
    Entry& kept = *entries_.emplace(shape, std::move(entry)).first->second;
    return step(*kept.inputs);
  }
  Entry& entry = *found->second;
  entry.used = ++uses_;
  Pad(shape, batch, entry.batch);
  entry.inputs->Refill(entry.batch, values);
  if (entry.graph == nullptr && !entry.unrecordable) Record(entry, step);
  if (entry.unrecordable) return step(*entry.inputs);
  entry.graph->replay();
  return entry.nll;
}

void StepGraphs::Record(Entry& entry, const Step& step) {
  const c10::cuda::CUDAGuard guard(device_);  // of whose current stream LibTorch takes the launches
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device_.index());
  const c10::cuda::CUDAStream before = c10::cuda::getCurrentCUDAStream(device_.index());
  before.synchronize();
  c10::cuda::setCurrentCUDAStream(stream);
  try {
    graph->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    entry.nll = step(*entry.inputs);
  } catch (const std::exception&) {
    entry.unrecordable = true;
  }
  try {
    graph->capture_end();
  } catch (const std::exception&) {
    entry.unrecordable = true;
  }
  c10::cuda::setCurrentCUDAStream(before);
  if (!entry.unrecordable) entry.graph = std::move(graph);
}

}  // namespace strata::model
